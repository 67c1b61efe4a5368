"""Parts: what the endpoints work with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from gatewatch.service.access.access import IDENTITY, Access
from gatewatch.service.access.audit import DETAIL, TOO_LONG, Audit
from gatewatch.service.access.quotas import Quota
from gatewatch.service.aside import IN_PLACE_BYTES, aside
from gatewatch.service.clock import Clock
from gatewatch.service.core.inspection import Inspection
from gatewatch.service.core.outcomes import Encoder
from gatewatch.service.core.standings import Standings
from gatewatch.service.core.states import States
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import BadRequest, ServiceError, first_of
from gatewatch.service.http.bodies import Bodies
from gatewatch.service.http.drain import Drain
from gatewatch.service.http.ingest import SETTINGS_BYTES, Ingest, json_body
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.http.scrape import Scrape
from gatewatch.service.incidents.closing import Closing
from gatewatch.service.incidents.conditions import Conditions
from gatewatch.service.incidents.current import CurrentIncidents
from gatewatch.service.incidents.feed import Feed
from gatewatch.service.intake.past import Past
from gatewatch.service.intake.trial import Trial
from gatewatch.service.policies.policies import StreamPolicies
from gatewatch.service.serving.models import Models
from gatewatch.service.serving.registry import Registry
from gatewatch.service.settings import Settings
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.outbox import Outbox
from gatewatch.service.storage.snapshot_store import SnapshotStore
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
    standings: Standings
    closing: Closing
    current: CurrentIncidents
    states: States
    snapshots: SnapshotStore
    encoder: Encoder
    ingest: Ingest
    trial: Trial
    past: Past
    feed: Feed
    scrape: Scrape
    bodies: Bodies
    readiness: Readiness
    drain: Drain
    access: Access
    quota_bytes: Quota
    audit: Audit
    clock: Clock
    policies: StreamPolicies
    groups: GroupStore
    conditions: Conditions
    outbox: Outbox


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


def caller_of(request: Request) -> str:
    """Who sends a request, for the log of changes."""
    return str(request.scope[IDENTITY].name)


TAG: Final[dict[str, Any]] = {
    "pattern": r"^([A-Za-z_][A-Za-z0-9_]{0,31}(=[^\x00-\x1f\x7f]{1,128})?)?$",
    "max_length": 161,
}
"""What a tag may be that is searched for: name=value, a name for any value, or nothing."""

_ENTITY_TAG: Final = re.compile(r'"([0-9]{1,18})"')


def number_seen(request: Request) -> int | None:
    """The number of the document that a request says it looked at, by its If-Match; None where it does not say."""
    text = request.headers.get("if-match", "*").strip()
    found = _ENTITY_TAG.fullmatch(text)
    if found is None and text != "*":
        raise BadRequest(f'If-Match is {text[:64]!r}; expected an ETag as this service gives it, like "7"')
    return int(found[1]) if found else None


async def sent_as(
    request: Request, kind: type[B], refusal: type[ServiceError], most: int = SETTINGS_BYTES, absent: bytes = b""
) -> B:
    """The body of a request as a model, noted as what its change was about.

    Args:
        refusal: raised where it is JSON and no such model.
        most: bytes.
        absent: what is taken for a body without a byte.
    """
    parts, tenant = parts_of(request), tenant_of(request)
    parts.quota_bytes.check(tenant)
    body = await json_body(request.scope, request.receive, parts.bodies, most)
    parts.quota_bytes.take(tenant, len(body))
    large = len(body) > IN_PLACE_BYTES
    try:
        sent = await aside(kind.model_validate_json, body) if large else kind.model_validate_json(body or absent)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {first['msg']}") from error
        raise refusal(first_of([first])) from error
    request.scope[DETAIL] = TOO_LONG if large else sent.model_dump(mode="json")
    return sent


async def replied(make: Callable[[], Any], headers: Mapping[str, str] | None = None) -> Response:
    """The reply of a large answer, which is put together and written aside."""
    content = await aside(lambda: msgspec.json.encode(make()))
    return Response(content, media_type="application/json", headers=dict(headers or {}))
