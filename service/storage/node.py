"""Node: the connections to one Redis server."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from redis.asyncio import Connection

from gatewatch.service.storage.connection import BatchConnection, ConnectionLost, raise_first
from gatewatch.service.storage.encoder import SAVE, packed

IDLE_CONNECTIONS: Final = 20
"""Connections that are kept; all of those together take no more."""


class _Lent:
    """A block with a connection of its own; a generator in its place takes three times as long."""

    __slots__ = ("_connection", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node

    async def __aenter__(self) -> BatchConnection:
        self._connection = self._node.lend()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self._node.take_back(self._connection)
        else:
            await self._connection.close()


class Node:
    """A server, or whichever has its address now.

    Attributes:
        heard: how often it has sent something; see errors.Signs.
    """

    def __init__(self, make_connection: Callable[[], Connection], timeout_s: float) -> None:
        """Connects with the first command.

        Args:
            make_connection: of redis-py, with all that a URL may ask for.
        """
        self._make_connection = make_connection
        self.heard = 0
        self._timeout_s = timeout_s
        self._idle: list[BatchConnection] = []

    def connection(self) -> _Lent:
        """A connection of one's own for some commands; after an error it is dropped, whatever it still watches."""
        return _Lent(self)

    def lend(self) -> BatchConnection:
        """A connection that nobody uses."""
        if self._idle:
            return self._idle.pop()
        return BatchConnection(self._make_connection(), self._timeout_s / 2, self.drop_idle, self._hear)

    def _hear(self) -> None:
        self.heard += 1

    async def take_back(self, connection: BatchConnection) -> None:
        """Keep a connection for others, if there is room."""
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            await connection.close()

    async def exchange(self, commands: bytes, count: int, twice: bool = True) -> list[Any]:
        """Send commands, packed, and wait for their replies, errors among them.

        Args:
            twice: they may be done twice, and are sent again if the connection is lost before the replies come.
        """
        try:
            return await self._exchange(commands, count)
        except ConnectionLost:
            if not twice:
                raise
            return await self._exchange(commands, count)

    async def _exchange(self, commands: bytes, count: int) -> list[Any]:
        async with self.connection() as connection:
            await connection.open()
            connection.send(commands)
            return await connection.replies(count)

    async def load_script(self) -> None:
        """Have the server know save.lua."""
        raise_first(await self.exchange(packed([b"SCRIPT", b"LOAD", SAVE.encode()]), 1))

    async def drop_idle(self) -> None:
        """Close the connections that nobody uses: the next ones go to whichever server has the address now."""
        while self._idle:
            await self._idle.pop().close()
