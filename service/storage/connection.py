"""BatchConnection: a connection to Redis that carries whole batches.

redis-py opens it, with all that an URL may ask for; from then on bytes go straight to the transport, and answers come
straight out of hiredis. redis-py's own way costs an await for each of a batch's thousand replies, a task for each of
its time-outs, and three copies of all that is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

TRY_AFTER_S: Final = 1.0
"""A connection that was idle for so long is tried before it is used: what stands between may have dropped it without a
word (Azure's load balancer after four minutes, AWS's after 350 s)."""

_PING: Final = b"*1\r\n$4\r\nPING\r\n"


class ConnectionLost(RedisConnectionError):
    """The connection was closed before the answers came; whether the commands were done is not known."""


class BatchConnection(asyncio.Protocol):
    """One connection, whose commands are answered in their order."""

    def __init__(
        self,
        connection: Connection,
        try_s: float,
        on_silence: Callable[[], Awaitable[None]],
        on_sign: Callable[[], None],
    ) -> None:
        """Connects when it is first opened.

        Args:
            try_s: how long it waits for a sign of life before it connects anew.
            on_silence: what is done when there is none: others that were idle as long need not be tried.
            on_sign: what is done when there is one.
        """
        self._connection = connection
        self._try_s = try_s
        self._on_silence = on_silence
        self._on_sign = on_sign
        self._used = 0.0  # when it was last known to live, in the loop's time
        self._transport: asyncio.Transport | None = None
        self._reader = _reader()
        self._replies: list[Any] = []
        self._expected = 0
        self._whole: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, on which nothing is left over."""
        return self._transport is not None and not self._transport.is_closing() and not self._replies

    @property
    def needs_try(self) -> bool:
        """Whether it is closed, or was idle for so long that it may be without telling."""
        return not self.is_open or asyncio.get_running_loop().time() - self._used > TRY_AFTER_S

    async def open(self) -> None:
        """Connect, unless it is open and, where it was idle for long, answers. Raises what redis-py raises."""
        if not self.needs_try or (self.is_open and await self._lives()):
            return
        await self.close()
        await self._connection.connect()
        writer = cast("asyncio.StreamWriter", self._connection._writer)
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(0)  # what is sent goes out at once; uvloop would wait for its next turn
        self._used = asyncio.get_running_loop().time()

    async def _lives(self) -> bool:
        """Whether it answers a PING in time; a refusal is an answer as well."""
        try:
            async with asyncio.timeout(self._try_s):
                self.send(_PING)
                await self.replies(1)
        except ConnectionLost:
            return False
        except TimeoutError:
            await self._on_silence()
            return False
        return self.is_open

    async def close(self) -> None:
        """Drop the connection, and with it whatever is watched or still on its way."""
        if self._transport is not None:
            self._transport.set_protocol(asyncio.Protocol())  # what it still has to say is no concern of the next one
            self._transport.abort()  # to close it would first send all that waits, also to a server that hangs
        self._transport = None
        self._reader = _reader()
        self._replies = []
        await self._connection.disconnect(nowait=True)

    def send(self, commands: bytes) -> None:
        """Send commands, packed. Raises ConnectionLost if the connection is gone."""
        if self._transport is None:
            raise ConnectionLost("the connection was closed")
        self._transport.write(commands)

    async def replies(self, count: int) -> list[Any]:
        """The next replies; an error of Redis is one of them. Raises ConnectionLost if they will not come."""
        if len(self._replies) < count:
            if self._transport is None:
                raise ConnectionLost("the connection was closed")
            self._expected, self._whole = count, asyncio.get_running_loop().create_future()
            try:
                await self._whole
            finally:
                self._whole = None
        self._used = asyncio.get_running_loop().time()
        taken, self._replies = self._replies[:count], self._replies[count:]
        return taken

    def data_received(self, data: bytes) -> None:
        """Take answers apart."""
        self._on_sign()
        reader, replies = self._reader, self._replies
        reader.feed(data)
        while (answer := reader.gets()) is not False:
            if type(answer) is not hiredis.PushNotification:
                replies.append(answer)
        if self._whole is not None and not self._whole.done() and len(replies) >= self._expected:
            self._whole.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits for answers waits in vain."""
        self._transport = None
        if self._whole is not None and not self._whole.done():
            lost = ConnectionLost("the connection was closed")
            lost.__cause__ = error
            self._whole.set_exception(lost)


def raise_first(replies: Sequence[Any]) -> None:
    """Raise the first error that Redis answered; of a transaction that is refused, the last one only says so."""
    if any_error(replies):
        raise next(answer for answer in replies if isinstance(answer, Exception))


def any_error(replies: Sequence[Any]) -> bool:
    """Whether Redis answered an error; of a thousand replies, most of which are of one type, that is soon known."""
    return any(issubclass(kind, Exception) for kind in {*map(type, replies)})


def _reader() -> hiredis.Reader:
    return hiredis.Reader(protocolError=InvalidResponse, replyError=BaseParser.parse_error)
