"""FastRequest: a small request with readings, answered by its connection itself.

What uvicorn puts between a connection and an app (a scope, a task, a message for the body and two for the answer) costs
more than scoring a reading that shares its batch with others. So a connection hands the usual request straight to
Ingest: POST to one of the two routes, a body of at most 64 KiB (and GATEWATCH_REQUEST_BYTES) whose length is in the
head, a Host that is ours, no request before it still unanswered. Whatever is unusual about a request goes through the
app; what is answered is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gatewatch.service.access.access import IDENTITY
from gatewatch.service.access.identity import Identity
from gatewatch.service.core.outcomes import Answer
from gatewatch.service.http.callers import FETCHED_BY_A_BROWSER, Callers
from gatewatch.service.http.guard import require_still_admitted
from gatewatch.service.http.ingest import READINGS, READINGS_OF_STREAM, Headers, Ingest, Pending, problem_reply

if TYPE_CHECKING:
    from opentelemetry.trace import Span

UNUSUAL: Final = FETCHED_BY_A_BROWSER | {b"content-encoding", b"expect", b"transfer-encoding"}


class _NobodyWaits:
    """In the place of the event that an app waits on for more of its body."""

    def set(self) -> None: ...


class FastRequest:
    """A request while it is read and answered: what uvicorn's protocol holds as its `cycle`, with the same attributes.

    Attributes:
        scope: the protocol's, of this request.
        body, more_body: what was read of it, and whether there is more to come.
        waited: whether the body was not whole with its head, so that its key may be good no more.
        disconnected: the caller is gone.
        keep_alive: whether the connection stays open after the answer.
        response_started, response_complete: whether it is answered.
    """

    message_event = _NobodyWaits()

    def __init__(
        self,
        ingest: Ingest,
        stream: str | None,
        content_type: str,
        identity: Identity,
        keep_alive: bool,
        scope: Any,
        answer: Callable[..., None],
    ) -> None:
        scope[IDENTITY] = identity
        self.scope = scope
        self.waited = False
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.keep_alive = keep_alive
        self.response_started = False
        self.response_complete = False
        self._ingest = ingest
        self._stream = stream
        self._content_type = content_type
        self._tenant = identity.tenant
        self._answer = answer
        self._pending: Pending | None = None
        self._span: Span | None = None
        self._asking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The body is whole: hand it in."""
        scope = self.scope
        if self.waited and self._ingest.access.at_once(scope["headers"], "ingest") != scope[IDENTITY]:
            self._asking = asyncio.ensure_future(self._begin_if_admitted())
        else:
            self._begin_traced()

    async def _begin_if_admitted(self) -> None:
        try:
            scope = {**self.scope, "method": "POST", "path": READINGS}
            await require_still_admitted(self._ingest.access, scope)
        except Exception as error:
            self._answer(self, *problem_reply(error))
        else:
            self._begin_traced()

    def _begin_traced(self) -> None:
        traces = self._ingest.traces
        if traces is None:
            self._begin()
            return
        route = READINGS if self._stream is None else READINGS_OF_STREAM
        self._span = traces.request("POST", route, self.scope["headers"])
        with traces.within(self._span):
            self._begin()

    def _begin(self) -> None:
        try:
            self._ingest.limits.posts.take(self._tenant, 1)
            self._pending = self._ingest.begin(bytes(self.body), self._stream, self._content_type, self._tenant)
        except Exception as error:
            self._reply(*problem_reply(error))
        else:
            self._pending.answers.add_done_callback(self._finish)

    def _finish(self, answers: asyncio.Future[list[Answer]]) -> None:
        pending, self._pending = self._pending, None
        if pending is None or answers.cancelled():
            if self._span is not None:
                self._span.end()
            return
        error = answers.exception()
        reply = self._ingest.reply(answers.result(), pending) if error is None else problem_reply(error)
        self._reply(*reply)

    def _reply(self, status: int, headers: Headers, body: bytes) -> None:
        self._answer(self, status, headers, body)
        if self._span is not None and self._ingest.traces is not None:
            self._ingest.traces.answered(self._span, status)


def usual(headers: Sequence[tuple[bytes, bytes]], most_bytes: int, callers: Callers) -> str | None:
    """The content type of a request that can be answered directly, by its headers; None if it cannot."""
    content_type, small, hosts = "", False, 0
    for name, value in headers:
        if name == b"content-length":
            small = len(value) < 6 and value.isdigit() and int(value) <= most_bytes
        elif name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"host":
            hosts += 1
            if hosts > 1 or not callers.know(value):
                return None
        elif name in UNUSUAL:
            return None
    return content_type if small else None


def written(
    status: int, headers: Headers, body: bytes, always: Sequence[tuple[bytes, bytes]], keep_alive: bool
) -> bytes:
    """A whole answer; `always` are the headers that uvicorn gives every one."""
    lines = [name + b": " + value + b"\r\n" for name, value in (*always, *headers)]
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join((STATUS_LINE[status], *lines, b"\r\n", body))
