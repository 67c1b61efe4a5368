"""Scopes: what a key may do, and which route asks for which. A route that is not in ROUTES asks for `admin`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, get_args

Scope = Literal["ingest", "read", "operate", "admin", "metrics"]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
"""`ingest` posts readings; `read` looks at streams; `operate` changes them; `metrics` scrapes; `admin` does all of it,
and looks at the audit log."""

ROUTES: Final[dict[str, dict[str, Scope | None]]] = {
    "/v1/readings": {"POST": "ingest"},
    "/v1/streams/{stream}/readings": {"POST": "ingest"},
    "/v1/streams": {"GET": "read"},
    "/v1/streams/{stream}": {"GET": "read", "PUT": "operate", "DELETE": "operate"},
    "/v1/streams/{stream}/history": {"GET": "read"},
    "/v1/streams/{stream}/forecast": {"GET": "read"},
    "/v1/streams/{stream}/reset": {"POST": "operate"},
    "/v1/dead-letters": {"GET": "read"},
    "/v1/streams/{stream}/state": {"GET": "read", "PUT": "operate"},
    "/v1/streams/{stream}/snapshots": {"GET": "read", "POST": "operate"},
    "/v1/streams/{stream}/snapshots/{snapshot}": {"DELETE": "operate"},
    "/v1/streams/{stream}/snapshots/{snapshot}/rollback": {"POST": "operate"},
    "/v1/streams/{stream}/channels": {"DELETE": "operate"},
    "/v1/streams/{stream}/fork": {"POST": "operate"},
    "/v1/streams/{stream}/warm-up": {"POST": "operate"},
    "/v1/conditions": {"GET": "read"},
    "/v1/incidents": {"GET": "read"},
    "/v1/incidents/stream": {"GET": "read"},
    "/v1/incidents/{incident}": {"GET": "read"},
    "/v1/incidents/{incident}/proof": {"GET": "read"},
    "/v1/incidents/{incident}/acknowledge": {"POST": "operate"},
    "/v1/incidents/{incident}/close": {"POST": "operate"},
    "/v1/incidents/{incident}/label": {"POST": "operate"},
    "/v1/incidents/{incident}/note": {"POST": "operate"},
    "/v1/models": {"GET": "read"},
    "/v1/models/{model}": {"GET": "read"},
    "/v1/models/{model}/versions": {"GET": "read"},
    "/v1/models/{model}/history": {"GET": "read"},
    "/v1/models/{model}/promote": {"POST": "admin"},
    "/v1/models/{model}/rollback": {"POST": "admin"},
    "/v1/models/{model}/shadow": {"GET": "read", "PUT": "admin", "DELETE": "admin"},
    "/v1/rules": {"GET": "read", "PUT": "admin"},
    "/v1/policies": {"GET": "read", "PUT": "operate"},
    "/v1/streams/{stream}/policy": {"GET": "read", "PUT": "operate"},
    "/v1/windows": {"GET": "read"},
    "/v1/windows/{window}": {"PUT": "operate", "DELETE": "operate"},
    "/v1/audit": {"GET": "admin"},
    "/metrics": {"GET": "metrics"},
    "/livez": {"GET": None},
    "/readyz": {"GET": None},
    "/": {"GET": None},
    "/page/{name}": {"GET": None},
    "/docs": {"GET": None},
    "/openapi.json": {"GET": None},
}
"""Path and method to the scope that is needed; None: no key is. Probes carry none; documents and the page, which
asks for one itself, are everybody's."""


def granted(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """All that a key with these scopes may do: `admin` has the others in it."""
    named = frozenset(scopes)
    return frozenset(SCOPES) if "admin" in named else named


def route_of(method: str, path: str) -> str:
    """The route in ROUTES that answers a request, one of the path alone if none takes the method; else the path itself.

    A path may fit several, as the snapshot named `readings` in /v1/streams/a/snapshots/readings.
    """
    fitting = [path] if path in ROUTES else [route for route, pattern in _PATTERNS if pattern.fullmatch(path)]
    return next((route for route in fitting if _asked(method) in ROUTES[route]), fitting[0] if fitting else path)


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None if it needs no key."""
    return ROUTES.get(route_of(method, path), {}).get(_asked(method), "admin")


def _asked(method: str) -> str:
    return "GET" if method == "HEAD" else method


_NAMES_WITH_SLASHES: Final = "/v1/streams/{stream}/readings"
"""Such a name is none, which each reading hears for itself."""

_PATTERNS: Final = [
    (
        route,
        re.compile(re.sub(r"\\\{\w+\\\}", ".+" if route == _NAMES_WITH_SLASHES else "[^/]+", re.escape(route)), re.S),
    )
    for route in ROUTES
    if "{" in route
]
