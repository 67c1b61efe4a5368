"""The endpoints. Those that take readings hand them to ingest.py, as connections do with small requests."""

from __future__ import annotations

import asyncio
import re
from fnmatch import translate
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from starlette.convertors import Convertor, register_url_convertor

from gatewatch.service.access.access import IDENTITY
from gatewatch.service.access.audit import CHANGE
from gatewatch.service.core.outcomes import Encoder, format_time
from gatewatch.service.core.standings import LOOKED_AT, Search
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.doors.door import STREAM_NAME, Form, Part
from gatewatch.service.errors import (
    Draining,
    InvalidSettings,
    UnknownStream,
)
from gatewatch.service.http.api_page import HEADERS, page
from gatewatch.service.http.bodies import ClientGone
from gatewatch.service.http.ingest import Reply
from gatewatch.service.http.openapi import (
    AWAY,
    NO_BODY,
    OF_A_STREAM,
    OTHER_METHOD,
    POST_OF_STREAM,
    POST_READINGS,
    TAKEN,
    found,
    links,
    problem_with,
    ref,
)
from gatewatch.service.http.parts import TAG, caller_of, key_of, parts_of, replied, sent_as, tenant_of
from gatewatch.service.incidents.reading import has_tag

router = APIRouter()

DESCRIBED: Final = 100
"""Streams that are described, some 10 us each, before others have their turn."""

MOST_FORECAST: Final = 100
"""Readings; of those that the history keeps, at most 56 in 128 can be held against so that there is a band."""


class _Anything(Convertor[str]):
    """A part of a path, whatever is in it: readings of a stream whose name is none are rejected one by one."""

    regex = r"[\s\S]+"

    def convert(self, value: str) -> str:
        """As it stands."""
        return value

    def to_string(self, value: str) -> str:
        """As it stands."""
        return value


register_url_convertor("anything", _Anything())


DryRun = Annotated[
    bool, Query(description="answer as these readings would be answered, and apply none: nothing is saved or counted")
]


@router.post(
    "/v1/readings",
    summary="Score readings of many streams",
    response_class=Response,
    responses=TAKEN,
    openapi_extra=POST_READINGS,
)
async def post_readings(request: Request, dry_run: DryRun = False) -> Response:
    """Send a JSON array of readings, or NDJSON (one a line), gzipped or not. Each reading gets its own result."""
    return await _ingested(request, None, dry_run)


@router.post(
    "/v1/streams/{stream:anything}/readings",
    summary="Score readings of one stream",
    response_class=Response,
    responses={**TAKEN, 200: {**TAKEN[200], "links": links()}},
    openapi_extra=POST_OF_STREAM,
)
async def post_readings_of_stream(request: Request, dry_run: DryRun = False) -> Response:
    """The same for one stream, whose name stands in the path and may be left out of the readings."""
    return await _ingested(request, request.path_params["stream"], dry_run)


async def _ingested(request: Request, stream: str | None, dry_run: bool) -> Response:
    ingest, trial = parts_of(request).ingest, parts_of(request).trial

    async def tried(parts: list[Part], form: Form, encoder: Encoder) -> Reply:
        return ingest.tried(await trial.score(parts, encoder), form, encoder)

    try:
        if dry_run:
            status, headers, body = await ingest.beside(request.scope, request.receive, stream, tried)
        else:
            status, headers, body = await ingest.answer(request.scope, request.receive, stream)
    except ClientGone:
        return Response(status_code=400)  # nobody reads it
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


STREAM_PATH = Path(description="the stream's name", pattern=f"^{STREAM_NAME.pattern}$", max_length=128)


@router.get(
    "/v1/streams",
    summary="Streams, by name, score or status",
    response_model=None,
    responses={
        200: found("One page of names, or of what is known of streams", ref("Page")),
        405: OTHER_METHOD,
        422: problem_with("Not a number of names"),
        503: AWAY,
    },
)
async def list_streams(
    request: Request,
    after: Annotated[str, Query(max_length=256, description="`next` before; by name, any name to go on behind")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="most names in the reply")] = 100,
    match: Annotated[str, Query(max_length=256, description="a pattern of names, * for anything")] = "",
    status: Annotated[
        Literal["warming_up", "normal", "anomalous"] | None, Query(description="of the last reading")
    ] = None,
    tag: Annotated[str, Query(**TAG, description="that its policy gives it: name=value, or a name for any value")] = "",
    sort: Annotated[
        Literal["name", "score", "status"],
        Query(description="by name; the highest score first; or the anomalous first, then those that warm up"),
    ] = "name",
    details: Annotated[bool, Query(description="what is known of each stream, instead of its name")] = False,
) -> Response:
    """Page by page: `streams`, `next` (null on the last page), and `total`.

    `total` counts all streams. Pages of a narrow search may not be full, and go on with `next` all the same. By score
    and status the order is that of `as_of`, some seconds ago; of at most 500,000 streams.
    """
    parts, tenant = parts_of(request), tenant_of(request)
    pattern, looked_at = re.compile(translate(match.replace("[", "[[]"))) if match else None, LOOKED_AT
    if tag:
        policies = (await parts.policies.newest(tenant)).asked.policies
        looked_at = max(1000, LOOKED_AT // (1 + len(policies) // 10))  # each pattern is held against each name

    def fits(name: str) -> bool:
        if pattern is not None and not pattern.match(name):
            return False
        return not tag or has_tag(parts.policies.tags(StreamKey(tenant, name)), tag)

    search = Search(status, fits if match or tag else None, looked_at)
    async with parts.store.reading.of(tenant):
        total = await parts.store.count_streams(tenant)
        if sort == "name":
            found = await parts.standings.by_name(tenant, search, after, limit)
        else:
            found = await parts.standings.ordered(tenant, sort, search, after, limit)
        streams: list[Any] = found.names
        if details and streams:
            streams = await _described(request, found.names)
    as_of = {} if found.at_ms is None else {"as_of": format_time(found.at_ms)}
    return await replied(lambda: {"streams": streams, "next": found.next, "total": total, **as_of})


async def _described(request: Request, names: list[str]) -> list[dict[str, Any]]:
    """What is known of streams; of those that are there."""
    found: list[dict[str, Any] | None] = []
    for first in range(0, len(names), DESCRIBED):
        keys = [key_of(request, name) for name in names[first : first + DESCRIBED]]
        found += await parts_of(request).inspection.describe_each(keys)
        await asyncio.sleep(0)
    return [one for one in found if one is not None]


UNKNOWN = problem_with("No such stream")
KNOWN = {**found("What is known of the stream", ref("Stream")), "links": links()}


@router.get(
    "/v1/streams/{stream}",
    summary="What is known of a stream",
    response_model=None,
    responses={200: KNOWN, 404: UNKNOWN, **OF_A_STREAM},
)
async def get_stream(request: Request, stream: Annotated[str, STREAM_PATH]) -> dict[str, Any]:
    """Readings applied so far, the last one's time, seq, status and score, the model, and the chain tag."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        known = await parts.inspection.describe(key_of(request, stream))
    if known is None:
        raise UnknownStream(f"no reading of stream {stream} has been applied yet")
    key, now_ms = key_of(request, stream), parts.clock.unix_ms()
    await parts.policies.know([key])
    windows = parts.policies.windows_now(key, now_ms)
    return known | ({"windows": windows} if windows else {})


@router.put(
    "/v1/streams/{stream}",
    summary="Change a stream's settings",
    response_model=None,
    responses={200: KNOWN, **NO_BODY, **OF_A_STREAM},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref("StreamSettings")}}}
    },
)
async def put_stream(request: Request, stream: Annotated[str, STREAM_PATH]) -> dict[str, Any]:
    """What is done at gaps in `seq` and with late readings; what is left out goes back to its default."""
    parts = parts_of(request)
    settings = await sent_as(request, StreamSettings, InvalidSettings)
    async with parts.store.changing.of(tenant_of(request)):
        await parts.inspection.configure(key_of(request, stream), settings)
    return await get_stream(request, stream)


@router.delete(
    "/v1/streams/{stream}",
    status_code=204,
    summary="Forget a stream",
    responses={404: UNKNOWN, **OF_A_STREAM},
)
async def delete_stream(request: Request, stream: Annotated[str, STREAM_PATH]) -> None:
    """State, history, settings and a fork's pin are gone; a reading that comes later begins a new stream."""
    parts, key = parts_of(request), key_of(request, stream)
    async with parts.store.changing.of(tenant_of(request)):
        known = await parts.store.delete(key)
    await parts.models.administration.forget_forks([key], caller_of(request))
    if not known:
        raise UnknownStream(f"nothing is known of stream {stream}")


@router.get(
    "/v1/streams/{stream}/history",
    summary="A stream's last readings",
    response_model=None,
    responses={
        200: found("The readings, oldest first", {"type": "array", "items": ref("Kept")}),
        404: UNKNOWN,
        **OF_A_STREAM,
    },
)
async def get_history(request: Request, stream: Annotated[str, STREAM_PATH]) -> Response:
    """The last readings, oldest first, each with its values and the answer it got."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        entries = await parts.inspection.recent(key_of(request, stream), parts.encoder)
    if not entries:
        raise UnknownStream(f"no reading of stream {stream} is in the history")
    return await replied(
        lambda: [{"n": n, "values": values, "result": msgspec.Raw(answer)} for n, values, answer in entries]
    )


@router.get(
    "/v1/streams/{stream}/forecast",
    summary="What is expected of a stream's next readings",
    response_model=None,
    responses={200: found("Band by band, the next reading first", ref("Forecast")), 404: UNKNOWN, **OF_A_STREAM},
)
async def get_forecast(
    request: Request,
    stream: Annotated[str, STREAM_PATH],
    readings: Annotated[int, Query(ge=1, le=MOST_FORECAST, description="how many, the usual time apart")] = 30,
) -> dict[str, Any]:
    """From the state as it is, each forecast fed back as the next reading; nothing moves.

    The first band is the detector's. Behind it, bands are wider by as much as forecasts of so many readings ahead
    missed more on the stream's last readings; low and high are null where these are too few to tell.
    """
    expected = await parts_of(request).inspection.forecast(key_of(request, stream), readings)
    if expected is None:
        raise UnknownStream(f"no reading of stream {stream} has been applied yet")
    return expected


@router.post(
    "/v1/streams/{stream}/reset",
    summary="Begin a stream's count, or all of its state, anew",
    response_model=None,
    responses={200: KNOWN, 404: UNKNOWN, **OF_A_STREAM},
)
async def reset_stream(
    request: Request,
    stream: Annotated[str, STREAM_PATH],
    what: Annotated[
        Literal["sequence", "state"],
        Query(description="sequence: the next `seq` is new; state: history and state are gone, settings stay"),
    ],
) -> dict[str, Any]:
    """`sequence` is for senders that begin to count at 0 again and send no time; with one, the service notices it."""
    parts = parts_of(request)
    if what == "state":
        async with parts.store.changing.of(tenant_of(request)):
            await parts.states.begin_anew(key_of(request, stream))
    elif not await parts.inspection.restart_sequence(key_of(request, stream)):
        raise UnknownStream(f"no reading of stream {stream} has been applied yet")
    return await get_stream(request, stream)


@router.get(
    "/v1/audit",
    summary="Who changed what",
    response_model=None,
    responses={
        200: found("One page of changes", ref("Changes")),
        405: OTHER_METHOD,
        422: problem_with("Not a number of changes, or not the id of one"),
        503: AWAY,
    },
)
async def get_audit(
    request: Request,
    before: Annotated[
        str, Query(description="changes before this one; `next` of the page before", pattern=CHANGE)
    ] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="most changes in the reply")] = 100,
) -> dict[str, Any]:
    """Of the tenant, newest first, page by page: `changes` and `next` (null on the last page)."""
    parts = parts_of(request)
    async with parts.store.reading.of(tenant_of(request)):
        changes = await parts.audit.last(tenant_of(request), before, limit + 1)
    page = changes[:limit]
    return {
        "changes": [msgspec.to_builtins(change) for change in page],
        "next": page[-1].id if len(changes) > limit else None,
    }


@router.get("/livez", summary="The process runs", responses={405: OTHER_METHOD})
async def livez() -> dict[str, str]:
    """200 as long as the process answers, whatever Redis does."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    summary="Readings can be scored",
    responses={
        405: OTHER_METHOD,
        503: problem_with("Redis is away, or may evict states; or the service is about to stop", "Retry-After"),
    },
)
async def readyz(request: Request) -> dict[str, Any]:
    """200 when a reading sent now would be scored, else 503 with the reason. Who has a key sees the model.

    Warnings, which may name nodes of Redis and models of the repository, are for the scope `admin`.
    """
    parts = parts_of(request)
    if parts.drain.began:
        raise Draining("the service is about to stop; what is sent until then is still answered")
    warnings = [*await parts.readiness.look(), *parts.models.warnings()]
    identity = request.scope[IDENTITY]
    if identity is None:
        return {"status": "ready"}
    if "admin" not in identity.scopes:
        warnings = []
    return {"status": "ready", "model": parts.registry.default.name, **({"warnings": warnings} if warnings else {})}


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: found("The series", {"type": "string"}, "text/plain"), 405: OTHER_METHOD},
)
async def metrics(request: Request) -> Response:
    """The series of docs/metrics.md, of all worker processes."""
    exposition = await parts_of(request).scrape.exposition()
    return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API, to read and to try."""
    return HTMLResponse(page(request.app.openapi()), headers=HEADERS)
