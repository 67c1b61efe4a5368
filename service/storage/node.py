"""Node: the connections to one Redis server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from redis.asyncio import Connection

from gatewatch.service.storage.connection import BatchConnection, ConnectionLost, raise_first
from gatewatch.service.storage.encoder import SAVE, packed

IDLE_CONNECTIONS: Final = 20
"""Connections that are kept; all of those together take no more."""


class Node:
    """A server, or whichever has its address now."""

    def __init__(self, make_connection: Callable[[], Connection], timeout_s: float) -> None:
        """Connects with the first command.

        Args:
            make_connection: of redis-py, with all that a URL may ask for.
        """
        self._make_connection = make_connection
        self._timeout_s = timeout_s
        self._idle: list[BatchConnection] = []

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[BatchConnection]:
        """A connection of one's own for some commands; after an error it is dropped, whatever it still watches."""
        connection = (
            self._idle.pop()
            if self._idle
            else BatchConnection(self._make_connection(), self._timeout_s / 2, self.drop_idle)
        )
        try:
            yield connection
        except BaseException:
            await connection.close()
            raise
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
