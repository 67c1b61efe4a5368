"""Have a running service change its rules and the versions of its models, as an operator would over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx2

from gatewatch.models.errors import ChangedMeanwhile, GatewatchError
from gatewatch.service.client.remote import ask, connected

OUTDATED: Final = 412
ATTEMPTS: Final = 10
"""Changes of others in a row that a change of rules waits for."""

RuleSet = Mapping[str, Any]


def read_rules(url: str) -> RuleSet:
    """The rules as the service answers them. Raises GatewatchError."""
    with connected(url) as client:
        return _answer(client, "GET", "/v1/rules")


def change_rules(url: str, change: Callable[[dict[str, Any]], None]) -> RuleSet:
    """Change the rules of a service; if somebody else did meanwhile, on top of that. Returns them with warnings.

    Args:
        change: is given `rules` and `pins` as the service has them, and changes them in place.

    Raises:
        GatewatchError: the service does not answer, or refuses them.
    """
    with connected(url) as client:
        for _ in range(ATTEMPTS):
            known = _answer(client, "GET", "/v1/rules")
            changed = {"rules": known["rules"], "pins": known["pins"]}
            change(changed)
            client.headers["If-Match"] = f'"{known["number"]}"'
            try:
                return _answer(client, "PUT", "/v1/rules", changed)
            except ChangedMeanwhile:
                del client.headers["If-Match"]
    raise GatewatchError(f"{url}: others kept changing the rules; do it again")


def move_alias(url: str, model: str, what: str, body: Mapping[str, Any]) -> RuleSet:
    """Have a service `promote` or `rollback` a model; returns the change. Raises GatewatchError as the service says."""
    with connected(url) as client:
        return _answer(client, "POST", f"/v1/models/{quote(model)}/{what}", body)


def change_shadow(url: str, model: str, body: Mapping[str, Any] | None, end: bool = False) -> RuleSet:
    """Begin the shadow of a model, or end it, or with neither look at it. Raises GatewatchError as the service says."""
    method = "DELETE" if end else "GET" if body is None else "PUT"
    with connected(url) as client:
        return _answer(client, method, f"/v1/models/{quote(model)}/shadow", body)


def _answer(client: httpx2.Client, method: str, path: str, body: Any = None) -> RuleSet:
    status, answer = ask(client, method, path, body=body)
    if status == 200:
        found: RuleSet = answer
        return found
    try:
        detail = json.loads(answer)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer
    kind = ChangedMeanwhile if status == OUTDATED else GatewatchError
    raise kind(f"{client.base_url}: {detail} ({status})")
