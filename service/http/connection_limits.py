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
body or an answer is closed; without any, those that have been idle longest; the newcomer itself only when all others
are being answered. Refusing newcomers instead would let those who dribble, or keep connections they do not use, lock
everybody else out: an honest client's head is whole within a round trip, so it is practically never the one that has
waited longest. Between requests, uvicorn's keep-alive timeout holds.

A body has more time than a head because 8 MiB in 5 s would take a link of 13 Mbit/s; a held connection costs 10 kB.

A request that comes in one read on an idle connection, the usual case, touches no clock at all. The clocks are looked
at once a second, so a deadline is kept to about a second.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Any, Final, cast

import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState

from gatewatch.service.http.connection import EdgeProtocol
from gatewatch.service.http.deadlines import Clock

log = structlog.get_logger(__name__)

SWEEP_S: Final = 1.0
SLICE, PAUSE_S = 32, 0.005
"""Most connections closed in a row, and the pause after them: 10,000 at once would hold up everybody's readings."""


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
        """When there is one connection too many, close the one nearest to its deadline, else idle ones, or it."""
        if len(newcomer.connections) <= self._most:
            return
        self._crowded_out += 1
        self._wake(newcomer.loop)
        now = newcomer.loop.time()
        clock = max((self.heads, self.bodies, self.answers), key=lambda clock: clock.used_up(now))
        first = clock.first()
        if first is not None:
            first.give_way(clock)
            return
        everyone = cast(set[EdgeProtocol], newcomer.connections)
        idle = [(timer.when(), id(one), one) for one in everyone if (timer := one.timeout_keep_alive_task) is not None]
        if not idle:
            newcomer.transport.close()
        for _, _, connection in heapq.nsmallest(SLICE, idle):  # several: not every newcomer has to look at all of them
            connection.transport.close()

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
