"""Ingest: the two POST routes as one plain ASGI app, body in, reply out.

They are the hot ones: FastAPI's routing, dependency and middleware layers cost more CPU than scoring a reading does.
The OpenAPI document describes them all the same, and what they take is checked by the types in schemas.py.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec
import structlog

from service.answers import join
from service.batcher import Batcher
from service.errors import BadRequest, MethodNotAllowed, ServiceError, TooLarge, UnsupportedMedia, problem
from service.schemas import Wire

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

READINGS: Final = "/v1/readings"
STREAM, OF_STREAM = "/v1/streams/", "/readings"
JSON_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
PROBLEM_JSON: Final = b"application/problem+json"


class ClientGone(Exception):
    """The caller hung up before its body was whole; there is nobody to answer."""


class Ingest:
    """Answers POST /v1/readings and POST /v1/streams/{stream}/readings."""

    def __init__(self, wire: Wire, batcher: Batcher, request_bytes: int) -> None:
        self._wire = wire
        self._batcher = batcher
        self._request_bytes = request_bytes

    @staticmethod
    def takes(path: str) -> bool:
        """Whether a path is one of the two."""
        return path == READINGS or (path.startswith(STREAM) and path.endswith(OF_STREAM) and len(path) > 20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error leaves as a problem document."""
        headers: list[tuple[bytes, bytes]]
        try:
            body, form = await self._score(scope, receive)
            status, headers = (
                200,
                [(b"content-type", b"application/x-ndjson" if form == "lines" else b"application/json")],
            )
        except ClientGone:
            return
        except Exception as error:
            if not isinstance(error, ServiceError):
                log.error("unexpected error", exc_info=error)
            content = problem(error)
            status, body = content["status"], msgspec.json.encode(content)
            headers = [(b"content-type", PROBLEM_JSON)]
            headers += [(name.encode(), value.encode()) for name, value in getattr(error, "headers", {}).items()]
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _score(self, scope: Scope, receive: Receive) -> tuple[bytes, str]:
        if scope["method"] != "POST":
            raise MethodNotAllowed(scope["method"], ["POST"])
        path: str = scope["path"]
        stream = None if path == READINGS else path[len(STREAM) : -len(OF_STREAM)]
        headers = _headers(scope)
        lines = _is_lines(headers.get(b"content-type", ""))
        body = await _body(headers, receive, self._request_bytes)
        self._batcher.check_room()
        sent, form = self._wire.read(body, lines, stream)
        return join(await self._batcher.submit(sent), form), form


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


async def json_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """The body of a request that takes one JSON value; no more than `most` bytes of it are ever in memory."""
    headers = _headers(scope)
    if _is_lines(headers.get(b"content-type", "")):
        raise UnsupportedMedia("content type is that of JSON lines; expected application/json")
    try:
        return await _body(headers, receive, most)
    except ClientGone:
        raise BadRequest("the connection was closed before the body was whole") from None


def _headers(scope: Scope) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


async def _body(headers: dict[bytes, str], receive: Receive, most: int) -> bytes:
    """The whole body, decompressed, never more than `most` bytes of it in memory."""
    encoding = headers.get(b"content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise UnsupportedMedia(f"content encoding is {encoding[:64]!r}; expected gzip or none")
    announced = headers.get(b"content-length", "0")[:18]  # more digits are too many bytes all the same
    if announced.isascii() and announced.isdigit() and int(announced) > most:
        raise TooLarge(
            f"the body has {announced} bytes; at most {most} are taken: send the readings in several requests"
        )
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > most:
            raise TooLarge(f"the body has more than {most} bytes; send the readings in several requests")
        more = message.get("more_body", False)
    received = b"".join(chunks)
    return _gunzip(received, most) if encoding == "gzip" else received


def _gunzip(compressed: bytes, most: int) -> bytes:
    """All members of a gzip body (RFC 1952 allows several, as log shippers write), at most `most` bytes of it."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(compressed)) as file:
            body = file.read(most + 1)
    except EOFError as error:
        raise BadRequest("the gzip body ends too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadRequest(f"the body is not gzip, though content-encoding says so: {error}") from error
    if len(body) > most:
        raise TooLarge(f"the body has more than {most} bytes once decompressed; send the readings in several requests")
    return body
