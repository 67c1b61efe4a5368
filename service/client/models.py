"""Have a running service change its rules, its policies and the versions of its models, as an operator would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

from gatewatch.models.errors import ChangedMeanwhile, GatewatchError
from gatewatch.service.client.remote import answered, connected

ATTEMPTS: Final = 10
"""Changes of others in a row that a change of rules waits for."""

RuleSet = Mapping[str, Any]


RULES: Final = "/v1/rules", ("rules", "pins")
POLICIES: Final = "/v1/policies", ("policies", "streams")
"""Where a document is, and what of it can be changed."""


def read_document(url: str, path: str) -> RuleSet:
    """A document as the service answers it. Raises GatewatchError."""
    with connected(url) as client:
        return answered(client, "GET", path)


def change_document(
    url: str, document: tuple[str, tuple[str, ...]], change: Callable[[dict[str, Any]], None]
) -> RuleSet:
    """Change a document of a service; if somebody else did meanwhile, on top of that. Returns what the service says.

    Args:
        document: RULES or POLICIES.
        change: is given what can be changed, as the service has it, and changes it in place.

    Raises:
        GatewatchError: the service does not answer, or refuses them.
    """
    path, names = document
    with connected(url) as client:
        for _ in range(ATTEMPTS):
            known = answered(client, "GET", path)
            changed = {name: known[name] for name in names}
            change(changed)
            client.headers["If-Match"] = f'"{known["number"]}"'
            try:
                return answered(client, "PUT", path, changed)
            except ChangedMeanwhile:
                del client.headers["If-Match"]
    raise GatewatchError(f"{url}: others kept changing the {path.removeprefix('/v1/')}; do it again")


def put_document(url: str, path: str, content: Mapping[str, Any] | None) -> RuleSet:
    """Put what belongs under a path, None to delete it; returns what the service answers. Raises GatewatchError."""
    with connected(url) as client:
        return answered(client, "DELETE" if content is None else "PUT", path, content)


def move_alias(url: str, model: str, what: str, body: Mapping[str, Any]) -> RuleSet:
    """Have a service `promote` or `rollback` a model; returns the change. Raises GatewatchError as the service says."""
    with connected(url) as client:
        return answered(client, "POST", f"/v1/models/{quote(model)}/{what}", body)
