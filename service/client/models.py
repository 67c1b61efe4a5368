"""Have a running service change its rules and the versions of its models, as an operator would over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from gatewatch.models.errors import ChangedMeanwhile, GatewatchError
from gatewatch.service.client.remote import answered, connected

ATTEMPTS: Final = 10
"""Changes of others in a row that a change of rules waits for."""

RuleSet = Mapping[str, Any]


def read_rules(url: str) -> RuleSet:
    """The rules as the service answers them. Raises GatewatchError."""
    with connected(url) as client:
        return answered(client, "GET", "/v1/rules")


def change_rules(url: str, change: Callable[[dict[str, Any]], None]) -> RuleSet:
    """Change the rules of a service; if somebody else did meanwhile, on top of that. Returns them with warnings.

    Args:
        change: is given `rules` and `pins` as the service has them, and changes them in place.

    Raises:
        GatewatchError: the service does not answer, or refuses them.
    """
    with connected(url) as client:
        for _ in range(ATTEMPTS):
            known = answered(client, "GET", "/v1/rules")
            changed = {"rules": known["rules"], "pins": known["pins"]}
            change(changed)
            client.headers["If-Match"] = f'"{known["number"]}"'
            try:
                return answered(client, "PUT", "/v1/rules", changed)
            except ChangedMeanwhile:
                del client.headers["If-Match"]
    raise GatewatchError(f"{url}: others kept changing the rules; do it again")


def move_alias(url: str, model: str, what: str, body: Mapping[str, Any]) -> RuleSet:
    """Have a service `promote` or `rollback` a model; returns the change. Raises GatewatchError as the service says."""
    with connected(url) as client:
        return answered(client, "POST", f"/v1/models/{quote(model)}/{what}", body)
