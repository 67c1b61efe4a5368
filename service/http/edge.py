"""The edge: what a connection may cost before there is a request to answer.

uvicorn waits for ever for the end of a head or a body and takes heads of any size; 300 connections that dribble were
all still held after 35 s. `Edge` makes protocols for it that do not:

    what is bounded                               by                what happens then
    a head, from connection or first byte         head_deadline_s   408, closed (no byte of it came: closed)
    a body, from the end of its head              body_deadline_s   408, closed (already answered: closed)
    an answer its reader does not take            body_deadline_s   closed
    a head, or the trailers of a chunked body     head_bytes        431, closed
    open connections of a process                 connections       one that owes gives way: 408, closed

Over `connections`, the newcomer stays and the connection that has used up the largest share of its time for a head, a
body or an answer is closed; the newcomer itself only when all others are being answered or idle. Refusing newcomers
instead would let those who dribble lock everybody else out: an honest client's head is whole within a round trip, so it
is practically never the one that has waited longest. Between requests, uvicorn's keep-alive timeout holds.

A body has more time than a head because 8 MiB in 5 s would take a link of 13 Mbit/s; a held connection costs 10 kB.

A request that comes in one read on an idle connection, the usual case, touches no clock at all. The clocks are looked
at once a second, so a deadline is kept to about a second.
"""

from __future__ import annotations

import asyncio
import resource
from collections import OrderedDict
from typing import Any, Final, cast

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.http.direct import Direct, usual, written
from service.messages.errors import BadRequest, HeadTooLarge, ServiceError, TooSlow
from service.streams.ingest import INGEST, Headers, refused

log = structlog.get_logger(__name__)

SWEEP_S: Final = 1.0
SLICE, PAUSE_S = 32, 0.005
"""Most connections closed in a row, and the pause after them: 10,000 at once would hold up everybody's readings."""

SPARE_FILES: Final = 2048 + 256
"""Beside the connections: those of one backlog, taken before any of them gives way, and the service's own files."""


class Edge:
    """Makes the connections' protocols for uvicorn (pass it as `http`) and closes those that owe too long.

    It is copied into each worker process before there is any connection, and bounds the connections of that process.
    """

    def __init__(self, head_deadline_s: float, body_deadline_s: float, head_bytes: int, connections: int) -> None:
        self.head_bytes = head_bytes
        self.heads = Clock(head_deadline_s)
        self.bodies = Clock(body_deadline_s)
        self.answers = Clock(body_deadline_s)
        self._most = connections
        self._sweeping = False
        self._crowded_out = 0  # since the last sweep

    def __call__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> EdgeProtocol:
        """The protocol of a new connection, as uvicorn asks for it."""
        return EdgeProtocol(self, config, server_state, app_state, _loop)

    def start(self, clock: Clock, connection: EdgeProtocol) -> None:
        """Let a connection's time run from now."""
        clock.start(connection, connection.loop.time())
        self._wake(connection.loop)

    def make_room(self, newcomer: EdgeProtocol) -> None:
        """When there is one connection too many, close the one nearest to its deadline, else the newcomer."""
        if len(newcomer.connections) <= self._most:
            return
        self._crowded_out += 1
        self._wake(newcomer.loop)
        now = newcomer.loop.time()
        clock = max((self.heads, self.bodies, self.answers), key=lambda clock: clock.used_up(now))
        first = clock.first()
        if first is None:
            newcomer.transport.close()
        else:
            first.give_way(clock)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._sweep_in(SWEEP_S, loop)

    def _sweep_in(self, wait_s: float, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(wait_s, self._sweep, loop, loop.time() + wait_s)

    def _sweep(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        """Close what is overdue. After a stall of our own nothing is: what came meanwhile has yet to be read."""
        now = loop.time()
        closed = 0
        if now - due < SWEEP_S:
            for clock in (self.heads, self.bodies, self.answers):
                overdue = clock.overdue(now, SLICE - closed)
                closed += len(overdue)
                for connection in overdue:
                    connection.too_late(clock)
        if closed or self._crowded_out:
            log.warning("closed connections", past_their_deadline=closed, to_make_room=self._crowded_out)
            self._crowded_out = 0
        if closed == SLICE:
            self._sweep_in(PAUSE_S, loop)
        elif self.heads or self.bodies or self.answers:
            self._sweep_in(SWEEP_S, loop)
        else:
            self._sweeping = False


class Clock:
    """Connections that owe the same thing. All have the same time for it, so the first in is the first overdue."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: OrderedDict[EdgeProtocol, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def start(self, connection: EdgeProtocol, now: float) -> None:
        self._due[connection] = now + self.seconds
        self._due.move_to_end(connection)

    def stop(self, connection: EdgeProtocol) -> None:
        self._due.pop(connection, None)

    def first(self) -> EdgeProtocol | None:
        return next(iter(self._due), None)

    def used_up(self, now: float) -> float:
        """The share of its time that the first has used up; -1 without any."""
        first = self.first()
        return -1.0 if first is None else 1 - (self._due[first] - now) / self.seconds

    def overdue(self, now: float, most: int) -> list[EdgeProtocol]:
        found: list[EdgeProtocol] = []
        for connection, due in self._due.items():
            if due > now or len(found) == most:
                break
            found.append(connection)
        return found


class EdgeProtocol(HttpToolsProtocol):
    """One connection; what it owes is `_owes`, and its time runs on the clock `_on`."""

    def __init__(
        self,
        edge: Edge,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._edge = edge
        self._owes: Clock | None = edge.heads  # None: its request is being answered, or it is idle
        self._on: Clock | None = None
        self._unframed = 0  # bytes read of the head under way, or since the last of the body under way
        self._large_read = False  # whether the read under way may hold too large a head
        self._refusal: ServiceError | None = None
        self._answering: Any = None  # the `cycle` whose turn it is, of requests sent without waiting; or the last one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._edge.make_room(self)
        if not transport.is_closing():
            self._start(self._edge.heads)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # tells the last request only; one before it would write to what is closed
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._unset_keepalive_if_required()
        self._stop()
        self._edge.answers.stop(self)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        if self._owes is None:
            self._owes = self._edge.heads
        self._unframed += len(data)
        self._large_read = self._unframed > self._edge.head_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as the plain request that it is as well
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadRequest("what came is not an HTTP/1.1 request"))
            return
        if self._owes is not None:
            if self._unframed > self._edge.head_bytes:
                self._refuse(self._head_too_large())
            elif self._on is None:
                self._start(self._owes)

    def on_message_begin(self) -> None:
        self._owes = self._edge.heads
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._large_read and self._head_size() > self._edge.head_bytes:
            self._refusal = self._head_too_large()
            raise self._refusal  # the parser stops
        self._stop()
        self._owes, self._unframed = self._edge.bodies, 0
        direct = self._direct()
        if direct is None:
            super().on_headers_complete()
        else:
            self.cycle = cast(Any, direct)
        if not self.pipeline:
            self._answering = self.cycle

    def on_body(self, body: bytes) -> None:
        self._unframed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop()
        self._owes, self._unframed = None, 0
        super().on_message_complete()
        if isinstance(self.cycle, Direct):
            self.cycle.begin()

    def _direct(self) -> Direct | None:
        """The request whose head was read, if it is one to be answered here."""
        ingest, path = self.app_state.get(INGEST), self.url.decode("latin-1")
        if (
            ingest is None
            or not ingest.takes(path)
            or "%" in path
            or "?" in path
            or "#" in path
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.flow.write_paused
        ):
            return None
        content_type = usual(self.headers, ingest.direct_bytes)
        if content_type is None:
            return None
        return Direct(ingest, path, content_type, self.parser.should_keep_alive(), self.scope, self._reply)

    def _reply(self, request: Direct, status: int, headers: Headers, body: bytes) -> None:
        if request.disconnected:
            return
        request.response_started = request.response_complete = True
        always = self.server_state.default_headers
        self.transport.write(written(status, headers, body, always, request.keep_alive))
        if not request.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._answering = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            self._edge.start(self._edge.answers, self)
        elif self._owes is self._edge.heads:
            self._unset_keepalive_if_required()  # the next head has begun, and has its own time

    def pause_writing(self) -> None:
        super().pause_writing()
        self._edge.start(self._edge.answers, self)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._edge.answers.stop(self)

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def too_late(self, clock: Clock) -> None:
        """Its time on a clock is over: answer 408, unless the service itself is what it waits for."""
        if clock is self._edge.answers:
            self._cut_off()
        elif self._answering_another():
            self._start(clock)
        else:
            what = "head" if clock is self._edge.heads else "body"
            self._refuse(TooSlow(f"the {what} was not whole after {clock.seconds:g} s; send less at once, or faster"))

    def give_way(self, clock: Clock) -> None:
        """Another connection needs the place of this one, which is the first on a clock."""
        if clock is self._edge.answers:
            self._cut_off()
        else:
            self._refuse(TooSlow("too many connections are open, and this one's request was not whole; send it again"))

    def _cut_off(self) -> None:
        self._edge.answers.stop(self)
        self.transport.abort()

    def _start(self, clock: Clock) -> None:
        self._on = clock
        self._edge.start(clock, self)

    def _stop(self) -> None:
        if self._on is not None:
            self._on.stop(self)
            self._on = None

    def _head_size(self) -> int:
        """Bytes of the head just read: the URL and the header lines."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"the head has more than {self._edge.head_bytes} bytes; send fewer, shorter headers")

    def _answering_another(self) -> bool:
        """Whether a request before the one under way, of a client that did not wait, is still being answered."""
        if self._owes is self._edge.bodies:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: ServiceError) -> None:
        """Answer with an error if there is a request that is still unanswered, and close."""
        self._refusal = error
        self._stop()
        if self._owes is not self._edge.bodies and self._answering_another():
            self.cycle.keep_alive = False  # its answer goes out, then uvicorn closes
            return
        if self._owes is self._edge.bodies:
            unanswered = not self.cycle.response_started
            self.cycle.disconnected = True  # for the app: the caller is gone
            self.cycle.message_event.set()
        else:
            begun = self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)
            unanswered = begun or isinstance(error, BadRequest)
        if unanswered and not self.pipeline:
            self.transport.write(self._answer(error))
        self._close()

    def _answer(self, error: ServiceError) -> bytes:
        return written(*refused(error), self.server_state.default_headers, keep_alive=False)

    def _close(self) -> None:
        """Close once all is sent; whoever does not read it is cut off when its time for that is over."""
        if not self.transport.is_closing():
            self._edge.start(self._edge.answers, self)
            self.transport.close()


def allow_files(connections: int) -> int:
    """Raise this process's limit of open files to what `connections` need; return how many can then be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    fewer = max(soft - SPARE_FILES, soft // 2)
    if fewer < connections:
        log.warning(
            "the limit of open files is too low for GATEWATCH_CONNECTIONS", open_files=soft, wanted=wanted, used=fewer
        )
    return min(fewer, connections)
