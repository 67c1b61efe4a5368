"""EdgeProtocol: one connection of uvicorn's, which says what it owes and is refused where that is late or too large.

What it owes stands on the clocks of its Edge, see connection_limits.py.

What is one request to a proxy in front is one request here (RFC 9110, 7.8; RFC 9112):

- A request that asks for another protocol is answered as the plain request that it is, its body read as its body.
- Nothing is read behind a request that ends its connection, or that cannot be read.
- Requests are answered in the order sent. Why one cannot be read is the answer in its turn: whatever comes later, and
  the end of what the other side sends, takes no answer away.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gatewatch.service.errors import BadRequest, HeadTooLarge, ServiceError, TooSlow
from gatewatch.service.http.deadlines import Clock
from gatewatch.service.http.drain import DRAIN, Drain
from gatewatch.service.http.fast_path import FastRequest, usual, written
from gatewatch.service.http.ingest import INGEST, Headers, problem_reply, stream_in

if TYPE_CHECKING:
    from gatewatch.service.http.connection_limits import Edge


class _Stop(Exception):
    """Raised to the parser, so that it reads no further."""


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
        self._ended = False  # nothing more is read
        self._refusal: ServiceError | None = None  # what stopped the parser
        self._last_words: bytes | None = None  # goes out behind the last answer; then the connection is closed
        self._plain_head: bytes | None = None  # of a request that asks for another protocol, without that
        self._drain: Drain | None = app_state.get(DRAIN)
        self.parser = httptools.HttpRequestParser(self)  # uvicorn's reads on behind `connection: close`
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
        if self._ended:
            return
        self._unset_keepalive_if_required()
        if self._owes is None:
            self._owes = self._edge.heads
        elif self._owes is self._edge.bodies and isinstance(self.cycle, FastRequest):
            self.cycle.waited = True
        self._unframed += len(data)
        self._large_read = self._unframed > self._edge.head_bytes
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                self._feed_as_plain(memoryview(data)[stopped.args[0] :])
        except httptools.HttpParserError:
            if not self._ended:
                self._refuse(self._refusal or BadRequest("what came is not an HTTP/1.1 request"))
            return
        if self._owes is not None:
            if self._unframed > self._edge.head_bytes:
                self._refuse(self._head_too_large())
            elif self._on is None:
                self._start(self._owes)

    def _feed_as_plain(self, rest: memoryview) -> None:
        """Read on where a head asked for another protocol; the parser has stopped there, as if that had begun.

        So a new parser reads the head once more, without asking, and then the body.
        """
        while self._plain_head is not None:
            head, self._plain_head = self._plain_head, None
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(head)
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as stopped:
                rest = rest[stopped.args[0] :]

    def eof_received(self) -> bool:  # type: ignore[override]
        """The other side sends no more; it may still read, and gets the answers to all that it has sent whole."""
        self._unset_keepalive_if_required()
        if not self._ended:
            if self._owes is not None and (self._owes is self._edge.bodies or self._has_begun()):
                self._refuse(BadRequest("the connection ended before the request did"))
            else:
                self._end(b"")
        return self.scheme == "http" and not self.transport.is_closing()  # TLS has no half of a connection

    def on_message_begin(self) -> None:
        self._owes = self._edge.heads
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._ended:
            raise _Stop
        if self._large_read and self._head_size() > self._edge.head_bytes:
            self._stop_parser(self._head_too_large())
        if self.parser.should_upgrade():
            self._plain_head = self._without_upgrade()
            return
        if self.url[:1] != b"/" or not self.url.isascii():
            self._read_target()
        direct = self._direct()
        if direct is None:
            super().on_headers_complete()
        else:
            self.cycle = cast(Any, direct)
        self._stop()
        self._owes, self._unframed = self._edge.bodies, 0
        if not self.pipeline:
            self._answering = self.cycle
        if self._drain is not None and self._drain.began:
            self.cycle.keep_alive = False
        self.headers = []  # of trailers, which are not headers (RFC 9110, 6.5.1)

    def on_body(self, body: bytes) -> None:
        self._unframed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._plain_head is not None:
            return
        self._stop()
        self._owes, self._unframed = None, 0
        self._ended = not self.cycle.keep_alive
        super().on_message_complete()
        if isinstance(self.cycle, FastRequest):
            self.cycle.begin()

    def _without_upgrade(self) -> bytes:
        """The head that was read, without the headers that ask for another protocol."""
        if self.parser.get_method() == b"CONNECT":
            self._stop_parser(BadRequest("CONNECT is for proxies, and this is none"))
        start = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join((start, *kept, b"", b""))

    def _read_target(self) -> None:
        """Make of a target that is not a path alone one that is; a host in it goes before Host (RFC 9112, 3.2.2)."""
        if self.url == b"*" and self.parser.get_method() == b"OPTIONS":
            return
        try:
            target = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError:
            target = None
        if not self.url.isascii() or target is None or target.schema not in (b"http", b"https") or not target.host:
            self._stop_parser(BadRequest("the target cannot be read; expected a path, as /v1/readings"))
        host = target.host if target.port is None else b"%b:%d" % (target.host, target.port)
        self.headers[:] = [header for header in self.headers if header[0] != b"host"] + [(b"host", host)]
        self.url = (target.path or b"/") + (b"" if target.query is None else b"?" + target.query)

    def _stop_parser(self, error: ServiceError) -> NoReturn:
        self._refusal = error
        raise error

    def _direct(self) -> FastRequest | None:
        """The request whose head was read, if it is one to be answered here."""
        ingest, path = self.app_state.get(INGEST), self.url.decode("latin-1")
        if (
            ingest is None
            or "%" in path
            or "?" in path
            or "#" in path
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.flow.write_paused
        ):
            return None
        try:
            stream = stream_in(path)
        except LookupError:
            return None
        content_type = usual(self.headers, ingest.direct_bytes, ingest.callers)
        if content_type is None:
            return None
        identity = ingest.access.at_once(self.headers, "ingest")
        if identity is None:
            return None
        keep_alive = self.parser.should_keep_alive()
        return FastRequest(ingest, stream, content_type, identity, keep_alive, self.scope, self._reply)

    def _reply(self, request: FastRequest, status: int, headers: Headers, body: bytes) -> None:
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
        elif self._last_words is not None and not self.transport.is_closing():
            self.transport.write(self._last_words)
            self.transport.close()
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
        """Answer the request under way with an error, in its turn, and close."""
        answered = False
        if self._owes is not self._edge.bodies:
            answered = not self._has_begun() and not isinstance(error, BadRequest)
        elif self.pipeline:
            self.pipeline.popleft()  # its turn has not come
        elif self.cycle.response_started:
            answered = True
        else:
            self.cycle.response_complete = self.cycle.disconnected = True  # for the app: the caller is gone
            self.cycle.message_event.set()
        self._end(b"" if answered else self._answer(error))

    def _end(self, last_words: bytes) -> None:
        """Read no more, answer what was read, and close."""
        self._ended = True
        self._stop()
        if self._answering is not None and not self._answering.response_complete:
            self._last_words = last_words
            return
        if last_words:
            self.transport.write(last_words)
        self._close()

    def _has_begun(self) -> bool:
        """Whether something of the head under way has come."""
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    def _answer(self, error: ServiceError) -> bytes:
        return written(*problem_reply(error), self.server_state.default_headers, keep_alive=False)

    def _close(self) -> None:
        """Close once all is sent; whoever does not read it is cut off when its time for that is over."""
        if not self.transport.is_closing():
            self._edge.start(self._edge.answers, self)
            self.transport.close()
