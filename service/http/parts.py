"""Parts: what the endpoints work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from gatewatch.service.access.access import IDENTITY
from gatewatch.service.access.audit import DETAIL, Audit
from gatewatch.service.clock import Clock
from gatewatch.service.core.inspection import Inspection
from gatewatch.service.core.outcomes import Encoder
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import BadRequest, ServiceError, first_of
from gatewatch.service.http.bodies import Bodies
from gatewatch.service.http.drain import Drain
from gatewatch.service.http.ingest import SETTINGS_BYTES, Ingest, json_body
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.http.scrape import Scrape
from gatewatch.service.incidents.feed import Feed
from gatewatch.service.serving.models import Models
from gatewatch.service.serving.registry import Registry
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore

B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True)
class Parts:
    """What the endpoints work with; built once in create_app."""

    settings: Settings
    registry: Registry
    models: Models
    store: StateStore
    inspection: Inspection
    encoder: Encoder
    ingest: Ingest
    feed: Feed
    scrape: Scrape
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


async def sent_as(
    request: Request, kind: type[B], refusal: type[ServiceError], most: int = SETTINGS_BYTES, absent: bytes = b""
) -> B:
    """The body of a request as a model, noted as what its change was about.

    Args:
        refusal: raised where it is JSON and no such model.
        most: bytes.
        absent: what is taken for a body without a byte.
    """
    body = await json_body(request.scope, request.receive, parts_of(request).bodies, most)
    try:
        sent = kind.model_validate_json(body or absent)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {first['msg']}") from error
        raise refusal(first_of([first])) from error
    request.scope[DETAIL] = sent.model_dump(mode="json")
    return sent
