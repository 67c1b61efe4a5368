"""Bodies: reads what requests carry, within what each, and all of a process together, may take of memory."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Final, Self

from gatewatch.service.errors import BadRequest, TooLarge, TooManyWaiting, UnsupportedMedia
from gatewatch.service.turns import has_room

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FREE_BYTES: Final = 65_536
"""Of each body: uvicorn holds so much of a connection anyway, and small requests pass those who hold much."""

MEMBERS: Final = 10_000
"""Most members of a gzip body: an empty one has 20 bytes, and takes as long as 10 kB of text."""
_MEMBER_COST: Final = 10_000
_IN_BYTES: Final = 16_384
"""Handed to zlib at a time; it copies what is left behind a member."""
_OUT_BYTES: Final = 262_144
"""Decompressed at a time, in less than a millisecond; then others have their turn."""


_AS_SEVERAL: Final = "send the readings in several requests"


class ClientGone(Exception):
    """The caller hung up before its body was whole; there is nobody to answer."""


class Bodies:
    """The bodies of a process, from their first byte to their answer; beyond FREE_BYTES each, they have one bound.

    A tenant that has filled it leaves the others their share, so that all of them hold at most twice as much.

    Attributes:
        most_of_one: bytes of one body.
        most: bytes of all.
        held: bytes, of each tenant.
    """

    def __init__(self, request_bytes: int, waiting_bytes: int) -> None:
        """`request_bytes`: of one body, also decompressed. `waiting_bytes`: of all."""
        self.most_of_one = min(request_bytes, waiting_bytes)
        self.most = waiting_bytes
        self.held = Counter[str]()

    def of(self, headers: dict[bytes, str], tenant: str, most: int | None = None) -> Body:
        """The body of a request, to be read inside a `with` that lasts as long as anything of it is in memory.

        Args:
            headers: of the request.
            most: bytes, where fewer than of other bodies are taken.

        Raises:
            UnsupportedMedia: an encoding that is not taken.
            TooLarge: it says itself that it has more bytes than are taken.
        """
        most = self.most_of_one if most is None else min(most, self.most_of_one)
        encoding = headers.get(b"content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise UnsupportedMedia(f"content encoding is {encoding[:64]!r}; expected gzip or none")
        announced = headers.get(b"content-length", "0")[:18]  # more digits are too many bytes all the same
        if announced.isascii() and announced.isdigit() and int(announced) > most:
            raise TooLarge(f"the body has {announced} bytes; at most {most} are taken: {_AS_SEVERAL}")
        return Body(self, tenant, encoding != "identity", most)

    def hold(self, tenant: str, more: int) -> None:
        """Count more bytes as held by a tenant. Raises TooManyWaiting where there is no room for them."""
        held = self.held.total()
        if not has_room(more, self.held[tenant], held, len({tenant, *self.held}), self.most):
            raise TooManyWaiting(
                f"the bodies of other requests have {held} bytes; at most {self.most} are held "
                "(GATEWATCH_WAITING_BYTES): send again after the time in Retry-After, or less at once"
            )
        self.held[tenant] += more

    def release(self, tenant: str, held: int) -> None:
        """So many bytes of a tenant are held no more."""
        self.held[tenant] -= held
        if not self.held[tenant]:
            del self.held[tenant]


class Body:
    """One of them."""

    def __init__(self, bodies: Bodies, tenant: str, zipped: bool, most: int) -> None:
        self._bodies = bodies
        self._tenant = tenant
        self._zipped = zipped
        self._most = most
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._bodies.release(self._tenant, self._held)

    async def read(self, receive: Receive) -> bytes:
        """The whole body, decompressed; no more of it than is taken is ever in memory.

        Raises:
            TooLarge: it has more bytes than are taken.
            TooManyWaiting: it is large, and the others leave no room for it.
            BadRequest: not gzip, though it says so; or of too many members.
            ClientGone: the connection was closed before it was whole.
        """
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._most:
                raise TooLarge(f"the body has more than {self._most} bytes; {_AS_SEVERAL}")
            self._hold(size)
            more = message.get("more_body", False)
        received = b"".join(chunks)
        return await self._gunzip(received) if self._zipped else received

    async def _gunzip(self, compressed: bytes) -> bytes:
        """All members of a gzip body (RFC 1952 allows several, as log shippers write), in slices of time."""
        pieces: list[bytes] = []
        size, spent, members, member = 0, 0, 0, None
        for at in range(0, len(compressed), _IN_BYTES):
            rest = compressed[at : at + _IN_BYTES]
            while rest := rest if member or not members else rest.lstrip(b"\0"):  # padding, as tapes have it
                if member is None:
                    member, members, spent = zlib.decompressobj(wbits=31), members + 1, spent + _MEMBER_COST
                    if members > MEMBERS:
                        raise BadRequest(f"the gzip body has more than {MEMBERS} members; expected fewer, longer ones")
                try:
                    pieces.append(member.decompress(rest, _OUT_BYTES))
                except zlib.error as error:
                    raise BadRequest(f"the body is not gzip, though content-encoding says so: {error}") from error
                size += len(pieces[-1])
                spent += len(pieces[-1]) + _IN_BYTES
                if size > self._most:
                    raise TooLarge(f"the body has more than {self._most} bytes once decompressed; {_AS_SEVERAL}")
                self._hold(size)
                rest, member = (member.unused_data, None) if member.eof else (member.unconsumed_tail, member)
                if spent >= _OUT_BYTES:
                    spent = 0
                    await asyncio.sleep(0)
        if member is not None:
            raise BadRequest("the gzip body ends too early")
        return b"".join(pieces)

    def _hold(self, size: int) -> None:
        """Count so many bytes as held."""
        more = size - FREE_BYTES - self._held
        if more > 0:
            self._bodies.hold(self._tenant, more)
            self._held += more
