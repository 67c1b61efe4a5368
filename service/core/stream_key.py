"""StreamKey: whose stream it is, and its name. Nothing in the service is keyed by a bare name."""

from __future__ import annotations

from typing import NamedTuple


class StreamKey(NamedTuple):
    """A stream of a tenant. Two tenants may have streams of the same name."""

    tenant: str
    name: str
