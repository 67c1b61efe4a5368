"""What access keeps in Redis, and under which keys. All of it lies in one hash slot, but for a tenant's limits."""

from __future__ import annotations

import base64
from typing import Final

KEYS: Final = b"gatewatch:{access}:keys"
"""A hash. `ID`: the key as JSON, never written again; `ID:revoked` and `ID:until`: when, in Unix seconds. So two who
change a key at once never write over each other."""

CHANGED: Final = b"gatewatch:{access}:changed"
"""A random word, another one after each change of KEYS."""


def of_tenant(tenant: str, what: str) -> bytes:
    """The key under which something is kept of a tenant: `audit`, `new-streams`, and what Quota counts."""
    encoded = base64.urlsafe_b64encode(tenant.encode()).rstrip(b"=")
    return b"gatewatch:{%b}:access:%b" % (encoded, what.encode())
