"""Identity: who sends a request, as far as the service needs to know."""

from __future__ import annotations

from typing import NamedTuple

from gatewatch.service.access.scopes import Scope


class Identity(NamedTuple):
    """Who sends a request.

    Attributes:
        name: for the audit log: `key ID NAME`, `oidc SUBJECT`, or `anyone`.
        tenant: whose streams it sees.
        scopes: what it may do.
    """

    name: str
    tenant: str
    scopes: frozenset[Scope]
