"""Bodies: reads what requests carry, within what each, and all of a process together, may take of memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Final, Self

from service.messages.errors import BadRequest, TooLarge, TooManyWaiting, UnsupportedMedia

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

FREE_BYTES: Final = 65_536
"""Of each body: uvicorn holds so much of a connection anyway, and small requests pass those who hold much."""


class ClientGone(Exception):
    """The caller hung up before its body was whole; there is nobody to answer."""


class Bodies:
    """The bodies of a process, from their first byte to their answer; beyond FREE_BYTES each, they have one bound."""

    def __init__(self, request_bytes: int, waiting_bytes: int) -> None:
        """`request_bytes`: of one body, also decompressed. `waiting_bytes`: of all."""
        self.most_of_one = min(request_bytes, waiting_bytes)
        self.most = waiting_bytes
        self.held = 0

    def of(self, headers: dict[bytes, str]) -> Body:
        """The body of a request, to be read inside a `with` that lasts as long as anything of it is in memory.

        Raises:
            UnsupportedMedia: an encoding that is not taken.
            TooLarge: it says itself that it has more bytes than are taken.
        """
        encoding = headers.get(b"content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise UnsupportedMedia(f"content encoding is {encoding[:64]!r}; expected gzip or none")
        announced = headers.get(b"content-length", "0")[:18]  # more digits are too many bytes all the same
        if announced.isascii() and announced.isdigit() and int(announced) > self.most_of_one:
            raise TooLarge(
                f"the body has {announced} bytes; at most {self.most_of_one} are taken: "
                "send the readings in several requests"
            )
        return Body(self, encoding == "gzip")


class Body:
    """One of them."""

    def __init__(self, bodies: Bodies, zipped: bool) -> None:
        self._bodies = bodies
        self._zipped = zipped
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._bodies.held -= self._held

    async def read(self, receive: Receive) -> bytes:
        """The whole body, decompressed; no more of it than is taken is ever in memory.

        Raises:
            TooLarge: it has more bytes than are taken.
            TooManyWaiting: it is large, and the others leave no room for it.
            BadRequest: not gzip, though it says so.
            ClientGone: the connection was closed before it was whole.
        """
        chunks: list[bytes] = []
        size, most, more = 0, self._bodies.most_of_one, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > most:
                raise TooLarge(f"the body has more than {most} bytes; send the readings in several requests")
            self._hold(size)
            more = message.get("more_body", False)
        received = b"".join(chunks)
        if not self._zipped:
            return received
        body = _gunzip(received, most)
        self._hold(len(body))
        return body

    def _hold(self, size: int) -> None:
        """Count so many bytes as held."""
        more, bodies = size - FREE_BYTES - self._held, self._bodies
        if more <= 0:
            return
        if bodies.held + more > bodies.most:
            raise TooManyWaiting(
                f"the bodies of other requests have {bodies.held} bytes; at most {bodies.most} are held "
                "(GATEWATCH_WAITING_BYTES): send again after the time in Retry-After, or less at once"
            )
        bodies.held += more
        self._held += more


def _gunzip(compressed: bytes, most: int) -> bytes:
    """All members of a gzip body (RFC 1952 allows several, as log shippers write), at most `most` bytes of it."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(compressed)) as file:
            body = file.read(most + 1)
    except EOFError as error:
        raise BadRequest("the gzip body ends too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadRequest(f"the body is not gzip, though content-encoding says so: {error}") from error
    if len(body) > most:
        raise TooLarge(f"the body has more than {most} bytes once decompressed; send the readings in several requests")
    return body
