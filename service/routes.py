"""The endpoints: body in, reply out. Errors of whole requests become problem documents in app.py."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response

from models.detector import Detector
from service.batcher import Batcher
from service.errors import BadRequest, StoreUnavailable, TooLarge, UnknownStream, UnsupportedMedia
from service.metrics import Metrics
from service.schemas import STREAM_NAME, Result, SentReading, Wire, encode_results
from service.scoring import Scorer
from service.settings import Settings
from service.store import StateStore

router = APIRouter()

JSON_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
SCHEMAS = msgspec.json.schema_components((SentReading, Result), ref_template="#/components/schemas/{name}")[1]


@dataclass(frozen=True)
class Parts:
    """What the endpoints work with; built once in create_app."""

    settings: Settings
    detector: Detector
    store: StateStore
    scorer: Scorer
    batcher: Batcher
    metrics: Metrics
    wire: Wire


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: _problem("The body is not JSON, or not readings"),
    413: _problem("The body or the number of readings is over the limit"),
    415: _problem("Neither JSON nor NDJSON, or an unknown content encoding"),
    429: _problem("Too many readings wait; see Retry-After"),
    503: _problem("Redis is away; sending the readings again is safe; see Retry-After"),
}

_ONE, _RESULT = {"$ref": "#/components/schemas/SentReading"}, {"$ref": "#/components/schemas/Result"}


def _either(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "application/json": {"schema": {"anyOf": [{"type": "array", "items": item}, item]}},
        "application/x-ndjson": {"schema": item},
    }


_DOCUMENTED: dict[str, Any] = {
    "openapi_extra": {"requestBody": {"required": True, "content": _either(_ONE)}},
    "responses": {
        200: {"description": "One result for each reading, in the order and form sent", "content": _either(_RESULT)},
        **PROBLEMS,
    },
    "response_class": Response,
}

_STREAM_PATH = Path(description="the stream's name", pattern=f"^{STREAM_NAME.pattern}$", max_length=128)


@router.post("/v1/readings", summary="Score readings of many streams", **_DOCUMENTED)
async def post_readings(request: Request) -> Response:
    """Send a JSON array of readings, or NDJSON (one a line), gzipped or not. Each reading gets its own result."""
    return await _score(request, None)


@router.post("/v1/streams/{stream}/readings", summary="Score readings of one stream", **_DOCUMENTED)
async def post_stream_readings(request: Request, stream: str) -> Response:
    """The same for one stream, whose name stands in the path and may be left out of the readings."""
    return await _score(request, stream)


@router.get("/v1/streams/{stream}", summary="What is known of a stream", responses={404: _problem("No such stream")})
async def get_stream(request: Request, stream: Annotated[str, _STREAM_PATH]) -> dict[str, Any]:
    """Readings applied so far, the last one's time, seq, status and score, the model, and the chain tag."""
    known = await _parts(request).scorer.describe(stream)
    if known is None:
        raise UnknownStream(f"no reading of stream {stream} has been applied yet")
    return known


@router.get(
    "/v1/streams/{stream}/history", summary="A stream's last readings", responses={404: _problem("No such stream")}
)
async def get_history(request: Request, stream: Annotated[str, _STREAM_PATH]) -> list[dict[str, Any]]:
    """The last readings, oldest first, each with its values and the answer it got."""
    entries = await _parts(request).scorer.recent(stream)
    if not entries:
        raise UnknownStream(f"no reading of stream {stream} is in the history")
    return entries


@router.get("/livez", summary="The process runs")
async def livez() -> dict[str, str]:
    """200 as long as the process answers, whatever Redis does."""
    return {"status": "alive"}


@router.get("/readyz", summary="Readings can be scored", responses={503: PROBLEMS[503]})
async def readyz(request: Request) -> dict[str, str]:
    """200 when Redis answers and keeps states, else 503 with the reason."""
    parts = _parts(request)
    try:
        await parts.store.check()
    except StoreUnavailable:
        parts.metrics.store_up.set(0)
        parts.metrics.store_error("check")
        raise
    parts.metrics.store_up.set(1)
    return {"status": "ready", "model": parts.detector.name}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The series of the README's table, of all worker processes."""
    parts = _parts(request)
    try:
        parts.metrics.open_anomalies.set(await parts.store.count_open(parts.settings.open_anomaly_s))
        parts.metrics.store_up.set(1)
    except StoreUnavailable:
        parts.metrics.store_up.set(0)
        parts.metrics.store_error("check")
    return Response(parts.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _score(request: Request, stream: str | None) -> Response:
    parts = _parts(request)
    lines = _is_lines(request.headers.get("content-type", ""))
    body = await _body(request, parts.settings.request_bytes)
    with parts.metrics.stage("parse"):
        results, readings, form = parts.wire.read(body, lines, stream, int(time.time() * 1000))
    scored = iter(await parts.batcher.submit(readings))
    with parts.metrics.stage("reply"):
        replies = [next(scored) if result is None else result for result in results]
        parts.metrics.answered((reply.status, reply.replayed) for reply in replies)
        return Response(
            encode_results(replies, form), media_type="application/x-ndjson" if form == "lines" else "application/json"
        )


def _is_lines(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    if media in JSON_LINES:
        return True
    if media in (
        "",
        "application/json",
        "text/json",
        "application/x-www-form-urlencoded",
    ):  # curl -d sends the last one
        return False
    raise UnsupportedMedia(f"content type is {media[:64]!r}; expected application/json or application/x-ndjson")


async def _body(request: Request, most: int) -> bytes:
    """The whole body, decompressed, never more than `most` bytes of it in memory."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise UnsupportedMedia(f"content encoding is {encoding[:64]!r}; expected gzip or none")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most:
        raise TooLarge(
            f"the body has {announced} bytes; at most {most} are taken: send the readings in several requests"
        )
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > most:
            raise TooLarge(f"the body has more than {most} bytes; send the readings in several requests")
    return _gunzip(bytes(received), most) if encoding == "gzip" else bytes(received)


def _gunzip(compressed: bytes, most: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        body = stream.decompress(compressed, most + 1)
    except zlib.error as error:
        raise BadRequest(f"the body is not gzip, though content-encoding says so: {error}") from error
    if len(body) > most:
        raise TooLarge(f"the body has more than {most} bytes once decompressed; send the readings in several requests")
    if not stream.eof:
        raise BadRequest("the gzip body ends too early")
    return body


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts
