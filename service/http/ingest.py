"""Ingest: bodies with readings to replies, through the door that their content type asks for.

One way for both POST routes, whoever hands in a body: the route, or the connection itself (fast_path.py), which saves a
small request what stands between. What a body costs is known before it is read, decoded or taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import structlog

from gatewatch.service.access.access import IDENTITY, Access
from gatewatch.service.access.quotas import Quota, RequestLimits
from gatewatch.service.clock import Clock
from gatewatch.service.core.outcomes import Answer, Encoder, Refused
from gatewatch.service.doors.door import Context, Decoded, Door, Form, Mixed, Part, StreamNames, by_model, merged
from gatewatch.service.doors.json_door import is_json
from gatewatch.service.doors.routing import RoutingDecoder
from gatewatch.service.errors import AllRejected, BadRequest, ServiceError, UnsupportedMedia, problem
from gatewatch.service.http.bodies import FREE_BYTES, Bodies, ClientGone, Receive
from gatewatch.service.http.callers import Callers
from gatewatch.service.intake.batcher import Batcher
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.rejections import Rejected
from gatewatch.service.serving.registry import Held, ModelNeeded, Registry
from gatewatch.service.serving.served_model import ServedModel

if TYPE_CHECKING:
    from gatewatch.service.observability.traces import Traces

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, Headers, bytes]
"""Status, headers and body."""

T = TypeVar("T")
Score = Callable[[list[Part], Form, Encoder], Awaitable[T]]
"""Scores the items of a body, by model; is given how an answer in its format is put together and written."""

READINGS: Final = "/v1/readings"
STREAM, OF_STREAM = "/v1/streams/", "/readings"
READINGS_OF_STREAM: Final = "/v1/streams/{stream}/readings"
INGEST: Final = "ingest"
"""Under this name, the app's state tells connections of its Ingest."""
SETTINGS_BYTES: Final = 16_384
"""Of the settings of a stream, which have a few hundred; pydantic makes an error of each unknown one."""
PROBLEM_JSON: Final = b"application/problem+json"


class Pending(msgspec.Struct, frozen=True, gc=False):
    """A request whose readings were handed in: the future answers to all its items, and how a reply is made of them."""

    answers: asyncio.Future[list[Answer]]
    form: Form
    encoder: Encoder


def stream_in(path: str) -> str | None:
    """The stream in the path of POST /v1/streams/{stream}/readings; None for POST /v1/readings. LookupError else."""
    if path == READINGS:
        return None
    if path.startswith(STREAM) and path.endswith(OF_STREAM) and len(path) > len(STREAM) + len(OF_STREAM):
        return path[len(STREAM) : -len(OF_STREAM)]
    raise LookupError(path)


class Ingest:
    """Answers requests with readings.

    Attributes:
        callers, access, limits: asked by whoever hands in a request.
        traces: told by whoever hands in a request; None for none.
        direct_bytes: of a body that a connection may hand in itself; larger ones are counted, or refused, by Bodies.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        registry: Registry,
        names: Callable[[str], StreamNames],
        access: Access,
        limits: RequestLimits,
        quota: Quota,
        quota_bytes: Quota,
        batcher: Batcher,
        bodies: Bodies,
        callers: Callers,
        rejected: Rejected,
        metrics: Metrics,
        clock: Clock,
        all_rejected_is_422: bool,
        traces: Traces | None = None,
    ) -> None:
        """`names`: those of a tenant."""
        self.callers = callers
        self.access = access
        self.limits = limits
        self.traces = traces
        self._quota = quota
        self._quota_bytes = quota_bytes
        self._doors = doors
        self._door_of: dict[str, Door] = {}
        self._registry = registry
        self._names = names
        self._batcher = batcher
        self._bodies = bodies
        self._rejected = rejected
        self._metrics = metrics
        self._clock = clock
        self._all_rejected_is_422 = all_rejected_is_422
        self._decoding = asyncio.Lock()  # one at a time, so that a turn of the event loop meets one part of one body
        self.direct_bytes = min(FREE_BYTES, bodies.most_of_one)

    async def answer(self, scope: Scope, receive: Receive, stream: str | None) -> Reply:
        """The reply to a request; every error is a problem document.

        Args:
            stream: that of the path.

        Raises:
            ClientGone: there is nobody to answer.
        """
        try:
            return await self._answer(scope, receive, stream)
        except ClientGone:
            raise
        except Exception as error:
            return problem_reply(error)

    async def _answer(self, scope: Scope, receive: Receive, stream: str | None) -> Reply:
        headers = headers_of(scope)
        content_type = headers.get(b"content-type", "")
        self._door(content_type)
        tenant = scope[IDENTITY].tenant
        self._batcher.check_room(tenant)  # what is refused here is read past by the server, and takes no memory
        self._quota_bytes.check(tenant)
        with self._bodies.of(headers, tenant) as body:
            pending = self.begin(await body.read(receive), stream, content_type, tenant)
            try:
                return self.reply(await pending.answers, pending)
            finally:
                del pending  # an error in it holds this frame, with the body: a cycle, of which so much must not wait

    def begin(self, content: bytes, stream: str | None, content_type: str, tenant: str) -> Pending:
        """Hand in a tenant's readings of a whole body.

        Raises:
            ServiceError: what concerns the whole request.
        """
        door = self._door(content_type)
        self._batcher.check_room(tenant)
        self._quota_bytes.take(tenant, len(content))
        needed = None
        try:
            context = self._context(tenant, stream, {})
            read = door.decode(content, context)
        except ModelNeeded as error:
            context, read, needed = self._context_of(tenant, self._registry.default, stream), None, error
        if read is not None:
            decoded, form = read
            if isinstance(decoded, Mixed) or decoded.refused or decoded.unknown:
                return Pending(asyncio.ensure_future(self._take([decoded], door.encoder, tenant)), form, door.encoder)
            self._quota.take(tenant, len(decoded))
            return Pending(self._batcher.take(decoded.readings, door.encoder), form, door.encoder)
        opened = door.open(content, context)

        def again(held: Held) -> Iterator[Decoded | Mixed]:
            return door.open(content, self._context(tenant, stream, held)).parts

        answers = self._take_in_parts(None if needed else opened.parts, again, door.encoder, tenant)
        return Pending(asyncio.ensure_future(answers), opened.form, door.encoder)

    async def beside(self, scope: Scope, receive: Receive, stream: str | None, score: Score[T]) -> T:
        """Have the readings of a request scored in another way than those of the batches.

        Args:
            stream: that of the path.
            score: is given all items of the body, by model.

        Raises:
            ServiceError: what concerns the whole request.
            ClientGone: there is nobody to answer.
        """
        headers, tenant = headers_of(scope), scope[IDENTITY].tenant
        door = self._door(headers.get(b"content-type", ""))
        self._quota_bytes.check(tenant)
        with self._bodies.of(headers, tenant) as body:
            content = await body.read(receive)
            form = door.open(content, self._context_of(tenant, self._registry.default, stream)).form

            def again(held: Held) -> Iterator[Decoded | Mixed]:
                return door.open(content, self._context(tenant, stream, held)).parts

            decoded = await self._decode(None, again)
            self._quota_bytes.take(tenant, len(content))
            self._quota.take(tenant, sum(map(len, decoded)))
            return await score(by_model(decoded), form, door.encoder)

    def _context(self, tenant: str, stream: str | None, held: Held) -> Context:
        """What a door must know of a request. Raises ModelNeeded, as the door does while it decodes."""
        registry = self._registry
        if registry.is_single:
            return self._context_of(tenant, registry.default, stream)
        if stream is not None:
            return self._context_of(tenant, registry.at_hand(held, stream), stream)
        routing = RoutingDecoder(registry.chooser(held), registry.default.decoder, registry.reading_bytes)
        return self._context_of(tenant, registry.default, stream, routing)

    def _context_of(
        self, tenant: str, model: ServedModel, stream: str | None, routing: RoutingDecoder | None = None
    ) -> Context:
        return Context(model, self._names(tenant), stream, self._clock.unix_ms(), routing)

    async def _take_in_parts(
        self,
        parts: Iterator[Decoded | Mixed] | None,
        again: Callable[[Held], Iterator[Decoded | Mixed]],
        encoder: Encoder,
        tenant: str,
    ) -> list[Answer]:
        """Decode a body part by part and have it scored.

        Args:
            parts: to begin with; None where it is known already that a model is needed.
            again: the parts, decoded with models that are held.
        """
        return await self._take(await self._decode(parts, again), encoder, tenant)

    async def _decode(
        self, parts: Iterator[Decoded | Mixed] | None, again: Callable[[Held], Iterator[Decoded | Mixed]]
    ) -> list[Decoded | Mixed]:
        """Decode a body part by part, anew with each model that is found to be needed; see `_take_in_parts`."""
        held: Held = {}
        while True:
            decoded: list[Decoded | Mixed] = []
            try:
                async with self._decoding:
                    for part in parts or again(held):
                        decoded.append(part)
                        await asyncio.sleep(0)
                return decoded
            except ModelNeeded as error:
                needed, parts = error, None
            await self._registry.hold(needed, held)

    async def _take(self, decoded: Sequence[Decoded | Mixed], encoder: Encoder, tenant: str) -> list[Answer]:
        """Have scored what can be; the answers to all items of the parts."""
        items = sum(map(len, decoded))
        self._batcher.check_room(tenant, items)
        self._quota.take(tenant, items)
        parts = by_model(decoded)
        taken = [self._batcher.take(part.decoded.readings, encoder) for part in parts]
        if len(taken) > 1:
            await asyncio.wait(taken)
        answers = merged(parts, [await of_part for of_part in taken], encoder)
        for part in parts:
            self._rejected.look_unknown(part.decoded)
        self._metrics.answered("rejected", sum(len(part.decoded.refused) for part in parts))
        return answers

    def tried(self, answers: list[Answer], form: Form, encoder: Encoder) -> Reply:
        """The reply to a request whose readings were only tried: nothing of it is counted."""
        body = form.join([encoder.refusal(answer) if type(answer) is Refused else answer for answer in answers])
        return 200, _headed(form.media_type, body), body

    def reply(self, answers: list[Answer], pending: Pending) -> Reply:
        """The reply to a request whose readings were looked at."""
        refused = [answer for answer in answers if type(answer) is Refused]
        if refused:
            if instead := [one.instead for one in refused if one.instead is not None]:
                if len(instead) == len(answers):
                    return problem_reply(instead[0])
                self._metrics.answered("rejected", len(instead))
            first = self._rejected.look(refused, len(answers))
            if first is not None and self._all_rejected_is_422:
                return problem_reply(AllRejected(f"all readings were rejected ({len(answers)}); the first: {first}"))
            write = pending.encoder.refusal
            answers = [write(answer) if type(answer) is Refused else answer for answer in answers]
        body = pending.form.join(answers)
        return 200, _headed(pending.form.media_type, body), body

    def _door(self, content_type: str) -> Door:
        """Through which a body of this content type comes. Raises UnsupportedMedia."""
        if (door := self._door_of.get(content_type)) is None:
            media = content_type.partition(";")[0].strip().lower()
            door = next((door for door in self._doors if door.takes(media)), None)
            if door is None:
                raise UnsupportedMedia(
                    f"content type is {media[:64]!r}; expected application/json or application/x-ndjson"
                )
            if len(self._door_of) < 64:
                self._door_of[content_type] = door
        return door


def problem_reply(error: BaseException) -> Reply:
    """The reply to a request that failed as a whole: a problem document."""
    if not isinstance(error, ServiceError):
        log.error("unexpected error", exc_info=error)
    content = problem(error)
    body = msgspec.json.encode(content)
    more = [(name.encode(), value.encode()) for name, value in getattr(error, "headers", {}).items()]
    return content["status"], [*_headed(PROBLEM_JSON, body), *more], body


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a whole reply."""
    status, headers, body = reply
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _headed(content_type: bytes, body: bytes) -> Headers:
    return [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]


async def json_body(scope: Scope, receive: Receive, bodies: Bodies, most: int = SETTINGS_BYTES) -> bytes:
    """The body of a request that takes one JSON value of at most so many bytes."""
    headers = headers_of(scope)
    media = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if not is_json(media):
        raise UnsupportedMedia(f"content type is {media[:64]!r}; expected application/json")
    try:
        with bodies.of(headers, scope[IDENTITY].tenant, most) as body:
            return await body.read(receive)
    except ClientGone:
        raise BadRequest("the connection was closed before the body was whole") from None


def headers_of(scope: Scope) -> dict[bytes, str]:
    """The headers of a request, the last of each name."""
    return {name: value.decode("latin-1") for name, value in scope["headers"]}
