"""The endpoints. Those that take readings hand them to ingest.py, as connections do with small requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import ValidationError
from starlette.convertors import Convertor, register_url_convertor

from gatewatch.service.core.inspection import Inspection
from gatewatch.service.core.outcomes import Encoder
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.doors.door import STREAM_NAME
from gatewatch.service.errors import (
    BadRequest,
    Draining,
    InvalidSettings,
    StoreUnavailable,
    UnknownStream,
    cause_of,
    first_of,
)
from gatewatch.service.http.api_page import HEADERS, page
from gatewatch.service.http.bodies import Bodies, ClientGone
from gatewatch.service.http.drain import Drain
from gatewatch.service.http.ingest import Ingest, json_body
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
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.models import Models
from gatewatch.service.serving.registry import Registry
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.settings import Settings
from gatewatch.service.storage.store import StateStore

log = structlog.get_logger(__name__)
router = APIRouter()


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


@dataclass(frozen=True)
class Parts:
    """What the endpoints work with; built once in create_app."""

    settings: Settings
    registry: Registry
    models: Models[ServedModel]
    store: StateStore
    inspection: Inspection
    encoder: Encoder
    ingest: Ingest
    metrics: Metrics
    bodies: Bodies
    readiness: Readiness
    drain: Drain

    def key(self, stream: str) -> StreamKey:
        """Whose stream of this name is meant."""
        return StreamKey(self.settings.tenant, stream)


@router.post(
    "/v1/readings",
    summary="Score readings of many streams",
    response_class=Response,
    responses=TAKEN,
    openapi_extra=POST_READINGS,
)
async def post_readings(request: Request) -> Response:
    """Send a JSON array of readings, or NDJSON (one a line), gzipped or not. Each reading gets its own result."""
    return await _ingested(request, None)


@router.post(
    "/v1/streams/{stream:anything}/readings",
    summary="Score readings of one stream",
    response_class=Response,
    responses={**TAKEN, 200: {**TAKEN[200], "links": links()}},
    openapi_extra=POST_OF_STREAM,
)
async def post_readings_of_stream(request: Request) -> Response:
    """The same for one stream, whose name stands in the path and may be left out of the readings."""
    return await _ingested(request, request.path_params["stream"])


async def _ingested(request: Request, stream: str | None) -> Response:
    try:
        status, headers, body = await _parts(request).ingest.answer(request.scope, request.receive, stream)
    except ClientGone:
        return Response(status_code=400)  # nobody reads it
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


_STREAM_PATH = Path(description="the stream's name", pattern=f"^{STREAM_NAME.pattern}$", max_length=128)


@router.get(
    "/v1/streams",
    summary="The names of all streams",
    response_model=None,
    responses={
        200: found("One page of names", ref("Page")),
        405: OTHER_METHOD,
        422: problem_with("Not a number of names"),
        503: AWAY,
    },
)
async def list_streams(
    request: Request,
    after: Annotated[str, Query(description="names that come behind this one; `next` of the page before")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="most names in the reply")] = 100,
) -> dict[str, Any]:
    """In alphabetical order, page by page: `streams`, `next` (null on the last page), and `total`."""
    store = _parts(request).store
    async with store.reading:
        names, total = await store.list_streams(after, limit + 1), await store.count_streams()
    page = names[:limit]
    return {"streams": page, "next": page[-1] if len(names) > limit else None, "total": total}


_UNKNOWN = problem_with("No such stream")
_KNOWN = {**found("What is known of the stream", ref("Stream")), "links": links()}


@router.get(
    "/v1/streams/{stream}",
    summary="What is known of a stream",
    response_model=None,
    responses={200: _KNOWN, 404: _UNKNOWN, **OF_A_STREAM},
)
async def get_stream(request: Request, stream: Annotated[str, _STREAM_PATH]) -> dict[str, Any]:
    """Readings applied so far, the last one's time, seq, status and score, the model, and the chain tag."""
    parts = _parts(request)
    async with parts.store.reading:
        known = await parts.inspection.describe(parts.key(stream))
    if known is None:
        raise UnknownStream(f"no reading of stream {stream} has been applied yet")
    return known


@router.put(
    "/v1/streams/{stream}",
    summary="Change a stream's settings",
    response_model=None,
    responses={200: _KNOWN, **NO_BODY, **OF_A_STREAM},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref("StreamSettings")}}}
    },
)
async def put_stream(request: Request, stream: Annotated[str, _STREAM_PATH]) -> dict[str, Any]:
    """What is done at gaps in `seq` and with late readings; what is left out goes back to its default."""
    parts = _parts(request)
    body = await json_body(request.scope, request.receive, parts.bodies)
    settings = _settings_in(body)
    async with parts.store.changing:
        await parts.inspection.configure(parts.key(stream), settings)
    return await get_stream(request, stream)


def _settings_in(body: bytes) -> StreamSettings:
    try:
        return StreamSettings.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {first['msg']}") from error
        raise InvalidSettings(first_of([first])) from error


@router.delete(
    "/v1/streams/{stream}",
    status_code=204,
    summary="Forget a stream",
    responses={404: _UNKNOWN, **OF_A_STREAM},
)
async def delete_stream(request: Request, stream: Annotated[str, _STREAM_PATH]) -> None:
    """Its state, history and settings are gone; a reading that comes later begins a new stream."""
    store = _parts(request).store
    async with store.changing:
        known = await store.delete(_parts(request).key(stream))
    if not known:
        raise UnknownStream(f"nothing is known of stream {stream}")


@router.get(
    "/v1/streams/{stream}/history",
    summary="A stream's last readings",
    response_model=None,
    responses={
        200: found("The readings, oldest first", {"type": "array", "items": ref("Kept")}),
        404: _UNKNOWN,
        **OF_A_STREAM,
    },
)
async def get_history(request: Request, stream: Annotated[str, _STREAM_PATH]) -> list[dict[str, Any]]:
    """The last readings, oldest first, each with its values and the answer it got."""
    parts = _parts(request)
    async with parts.store.reading:
        entries = await parts.inspection.recent(parts.key(stream), parts.encoder)
    if not entries:
        raise UnknownStream(f"no reading of stream {stream} is in the history")
    return [{"n": n, "values": values, "result": msgspec.json.decode(answer)} for n, values, answer in entries]


@router.post(
    "/v1/streams/{stream}/reset",
    summary="Let a stream's sender count anew",
    response_model=None,
    responses={200: _KNOWN, 404: _UNKNOWN, **OF_A_STREAM},
)
async def reset_stream(
    request: Request,
    stream: Annotated[str, _STREAM_PATH],
    what: Annotated[Literal["sequence"], Query(description="sequence: the next `seq` is new")],  # noqa: ARG001
) -> dict[str, Any]:
    """For senders that begin to count at 0 again and send no time; with one, the service notices by itself."""
    parts = _parts(request)
    if not await parts.inspection.restart_sequence(parts.key(stream)):
        raise UnknownStream(f"no reading of stream {stream} has been applied yet")
    return await get_stream(request, stream)


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
    """200 when a reading sent now would be scored, with warnings if there are any; else 503 with the reason."""
    parts = _parts(request)
    if parts.drain.began:
        raise Draining("the service is about to stop; what is sent until then is still answered")
    warnings = [*await parts.readiness.look(), *parts.models.warnings()]
    return {"status": "ready", "model": parts.registry.default.name, **({"warnings": warnings} if warnings else {})}


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: found("The series", {"type": "string"}, "text/plain"), 405: OTHER_METHOD},
)
async def metrics(request: Request) -> Response:
    """The series of docs/metrics.md, of all worker processes."""
    parts = _parts(request)
    try:
        await parts.readiness.look()
        parts.metrics.open_anomalies.set(await parts.store.count_open(parts.settings.open_anomaly_s))
    except StoreUnavailable as error:
        log.warning("open anomalies not counted", error=str(error), cause=cause_of(error))
    return Response(parts.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The API, to read and to try."""
    return HTMLResponse(page(request.app.openapi()), headers=HEADERS)


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts
