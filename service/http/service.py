"""The app itself, which asks who calls before anything else, and has requests traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI

from gatewatch.service.access.scopes import route_of
from gatewatch.service.errors import ServiceError
from gatewatch.service.http.bodies import Receive
from gatewatch.service.http.guard import Guard
from gatewatch.service.http.ingest import Scope, Send, problem_reply, send_reply

if TYPE_CHECKING:
    from gatewatch.service.observability.traces import Traces

NOBODY: Final = 499
"""In a span, the status of a request whose sender was gone before there was an answer."""


class Service(FastAPI):
    """The FastAPI app, which asks who calls before anything else."""

    def __init__(self, guard: Guard, traces: Traces | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._guard = guard
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request, HEAD as GET; the server sends no body for it."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif self._traces is None or not scope["path"].startswith("/v1/"):
            await self._answer(scope, receive, send)
        else:
            await self._answer_traced(scope, receive, send, self._traces)

    async def _answer_traced(self, scope: Scope, receive: Receive, send: Send, traces: Traces) -> None:
        method, status = scope["method"], NOBODY
        span = traces.request(method, route_of(method, scope["path"]), scope["headers"])

        async def noting(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with traces.within(span):
                await self._answer(scope, receive, noting)
        finally:
            traces.answered(span, status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = self._guard.with_headers(scope, send)
        try:
            send = await self._guard.admit(scope, send)
        except ServiceError as error:
            await send_reply(send, problem_reply(error))
            return
        receive = self._guard.asking_again(scope, receive)
        await super().__call__({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)
