"""Link: a connection to Redis that carries whole batches.

redis-py opens it, with all that an URL may ask for; from then on bytes go straight to the transport, and answers come
straight out of hiredis. redis-py's own way costs an await for each of a batch's thousand answers, a task for each of
its time-outs, and three copies of all that is read.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse


class Link(asyncio.Protocol):
    """One connection, whose commands are answered in their order."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._reader = _reader()
        self._answers: list[Any] = []
        self._expected = 0
        self._whole: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, on which nothing is left over."""
        return self._transport is not None and not self._transport.is_closing() and not self._answers

    async def open(self) -> None:
        """Connect, unless it is open. Raises what redis-py raises."""
        if self.is_open:
            return
        await self.close()
        await self._connection.connect()  # type: ignore[no-untyped-call]
        writer = cast("asyncio.StreamWriter", self._connection._writer)
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)

    async def close(self) -> None:
        """Drop the connection, and with it whatever is watched or still on its way."""
        if self._transport is not None:
            self._transport.set_protocol(asyncio.Protocol())  # what it still has to say is no concern of the next one
        self._transport = None
        self._reader = _reader()
        self._answers = []
        await self._connection.disconnect(nowait=True)

    def send(self, commands: bytes) -> None:
        """Send commands, packed. Raises ConnectionError if the connection is gone."""
        if self._transport is None:
            raise RedisConnectionError("the connection was closed")
        self._transport.write(commands)

    async def answers(self, count: int) -> list[Any]:
        """The next answers; an error of Redis stands among them. Raises ConnectionError if they will not come."""
        if len(self._answers) < count:
            if self._transport is None:
                raise RedisConnectionError("the connection was closed")
            self._expected, self._whole = count, asyncio.get_running_loop().create_future()
            try:
                await self._whole
            finally:
                self._whole = None
        taken, self._answers = self._answers[:count], self._answers[count:]
        return taken

    def data_received(self, data: bytes) -> None:
        """Take answers apart."""
        reader, answers = self._reader, self._answers
        reader.feed(data)
        while (answer := reader.gets()) is not False:
            if not isinstance(answer, hiredis.PushNotification):
                answers.append(answer)
        if self._whole is not None and not self._whole.done() and len(answers) >= self._expected:
            self._whole.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits for answers waits in vain."""
        self._transport = None
        if self._whole is not None and not self._whole.done():
            lost = RedisConnectionError("the connection was closed")
            lost.__cause__ = error
            self._whole.set_exception(lost)


def _reader() -> hiredis.Reader:
    return hiredis.Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error)
