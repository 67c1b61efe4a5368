"""Parts: what the endpoints work with."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from gatewatch.service.access.access import IDENTITY
from gatewatch.service.access.audit import Audit
from gatewatch.service.clock import Clock
from gatewatch.service.core.inspection import Inspection
from gatewatch.service.core.outcomes import Encoder
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.http.bodies import Bodies
from gatewatch.service.http.drain import Drain
from gatewatch.service.http.ingest import Ingest
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.incidents.feed import Feed
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.registry import Registry
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore


@dataclass(frozen=True)
class Parts:
    """What the endpoints work with; built once in create_app."""

    settings: Settings
    registry: Registry
    store: StateStore
    inspection: Inspection
    encoder: Encoder
    ingest: Ingest
    feed: Feed
    metrics: Metrics
    bodies: Bodies
    readiness: Readiness
    drain: Drain
    audit: Audit
    clock: Clock


def parts_of(request: Request) -> Parts:
    """Those of the app that answers a request."""
    parts: Parts = request.app.state.parts
    return parts


def tenant_of(request: Request) -> str:
    """Whose streams the caller sees."""
    tenant: str = request.scope[IDENTITY].tenant
    return tenant


def key_of(request: Request, stream: str) -> StreamKey:
    """The stream of this name that is the caller's."""
    return StreamKey(tenant_of(request), stream)
