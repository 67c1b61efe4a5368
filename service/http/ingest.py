"""Ingest: the two POST routes as one plain ASGI app, body in, reply out.

They are the hot ones: FastAPI's routing, dependency and middleware layers cost more CPU than scoring a reading does.
The OpenAPI document describes them all the same, and what they take is checked by the types in json_readings.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec
import structlog

from gatewatch.service.doors.json_parts import Body
from gatewatch.service.doors.json_readings import Sent, Wire
from gatewatch.service.doors.json_results import join
from gatewatch.service.errors import AllRejected, BadRequest, MethodNotAllowed, ServiceError, UnsupportedMedia, problem
from gatewatch.service.http.bodies import FREE_BYTES, Bodies, ClientGone, Receive
from gatewatch.service.http.callers import Callers
from gatewatch.service.intake.batcher import Batcher
from gatewatch.service.observability.rejections import Rejected

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, Headers, bytes]
"""Status, headers and body."""

READINGS: Final = "/v1/readings"
STREAM, OF_STREAM = "/v1/streams/", "/readings"
JSON_LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
READ_AS_JSON: Final = frozenset(
    (
        "",
        "application/json",
        "text/json",
        "text/plain",  # many clients, of text
        "application/octet-stream",  # many clients, of bytes
        "application/x-www-form-urlencoded",  # curl -d
    )
)
INGEST: Final = "ingest"
"""Under this name, the app's state tells connections of its Ingest."""
SETTINGS_BYTES: Final = 16_384
"""Of the settings of a stream, which have a few hundred; pydantic makes an error of each unknown one."""
PROBLEM_JSON: Final = b"application/problem+json"


class Ingest:
    """Answers POST /v1/readings and POST /v1/streams/{stream}/readings.

    Attributes:
        callers: asked by whoever hands in a request.
        direct_bytes: of a body that a connection may hand in itself; larger ones are counted, or refused, by Bodies.
    """

    def __init__(
        self,
        wire: Wire,
        batcher: Batcher,
        bodies: Bodies,
        callers: Callers,
        rejected: Rejected,
        all_rejected_is_422: bool,
    ) -> None:
        self.callers = callers
        self._wire = wire
        self._batcher = batcher
        self._bodies = bodies
        self._rejected = rejected
        self._all_rejected_is_422 = all_rejected_is_422
        self._decoding = asyncio.Lock()  # one at a time, so that a turn of the event loop meets one part of one body
        self.direct_bytes = min(FREE_BYTES, bodies.most_of_one)

    @staticmethod
    def takes(path: str) -> bool:
        """Whether a path is one of the two."""
        return path == READINGS or (path.startswith(STREAM) and path.endswith(OF_STREAM) and len(path) > 20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every error leaves as a problem document."""
        try:
            answer = await self._score(scope, receive)
        except ClientGone:
            return
        except Exception as error:
            answer = refused(error)
        await reply(send, answer)

    async def _score(self, scope: Scope, receive: Receive) -> Reply:
        if scope["method"] != "POST":
            raise MethodNotAllowed(scope["method"], ["POST"])
        headers = _headers(scope)
        content_type = headers.get(b"content-type", "")
        _is_lines(content_type)
        self._batcher.check_room()  # what is refused here is read past by the server, and takes no memory
        with self._bodies.of(headers) as body:
            answers, form = self.begin(await body.read(receive), scope["path"], content_type)
            try:
                return self.reply(await answers, form)
            finally:
                del answers  # an error in it holds this frame, with the body: a cycle, of which so much must not wait

    def begin(self, content: bytes, path: str, content_type: str) -> tuple[asyncio.Future[list[str]], str]:
        """Hand in the readings of a whole body: the future answers, and the form in which `answers.join` writes them.

        Raises:
            ServiceError: what concerns the whole request.
        """
        lines = _is_lines(content_type)
        self._batcher.check_room()
        stream = None if path == READINGS else path[len(STREAM) : -len(OF_STREAM)]
        read = self._wire.read_at_once(content, lines, stream)
        if read is not None:
            return self._batcher.take(read[0]), read[1]
        body = self._wire.open(content, lines)
        return asyncio.ensure_future(self._take_in_parts(body, stream)), body.form

    async def _take_in_parts(self, body: Body, stream: str | None) -> list[str]:
        sent: list[Sent] = []
        async with self._decoding:
            for part in self._wire.parts(body, stream):
                sent += part
                await asyncio.sleep(0)
        return await self._batcher.take(sent)

    def reply(self, answers: list[str], form: str) -> Reply:
        """The reply to a request whose readings were looked at."""
        first = self._rejected.look(answers)
        if first is not None and self._all_rejected_is_422:
            return refused(AllRejected(f"all readings were rejected ({len(answers)}); the first: {first}"))
        body = join(answers, form)
        return 200, _headed(b"application/x-ndjson" if form == "lines" else b"application/json", body), body


async def reply(send: Send, reply: Reply) -> None:
    """Send a whole reply."""
    status, headers, body = reply
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def refused(error: BaseException) -> Reply:
    """The reply to a request that failed as a whole: a problem document."""
    if not isinstance(error, ServiceError):
        log.error("unexpected error", exc_info=error)
    content = problem(error)
    body = msgspec.json.encode(content)
    more = [(name.encode(), value.encode()) for name, value in getattr(error, "headers", {}).items()]
    return content["status"], [*_headed(PROBLEM_JSON, body), *more], body


def _headed(content_type: bytes, body: bytes) -> Headers:
    return [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]


def _is_lines(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    if media in JSON_LINES:
        return True
    if media in READ_AS_JSON or media.endswith("+json"):
        return False
    raise UnsupportedMedia(f"content type is {media[:64]!r}; expected application/json or application/x-ndjson")


async def json_body(scope: Scope, receive: Receive, bodies: Bodies, most: int = SETTINGS_BYTES) -> bytes:
    """The body of a request that takes one JSON value of at most so many bytes."""
    headers = _headers(scope)
    if _is_lines(headers.get(b"content-type", "")):
        raise UnsupportedMedia("content type is that of JSON lines; expected application/json")
    try:
        with bodies.of(headers, most) as body:
            return await body.read(receive)
    except ClientGone:
        raise BadRequest("the connection was closed before the body was whole") from None


def _headers(scope: Scope) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}
