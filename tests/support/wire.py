"""Requests as bytes on a socket, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from tests.support.mutants import Reply, Request

CLOSE = (b"connection", b"close")


def written(request: Request, more: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """A request as HTTP/1.1, with the length of its body unless it says one of its own; a line end in it may cut it."""
    body = b"".join(request.chunks)
    headers = [*more, *request.headers]
    names = {name.lower() for name, _ in headers}
    if b"host" not in names:
        headers.insert(0, (b"host", b"localhost"))
    if b"content-length" not in names:
        headers.append((b"content-length", b"%d" % len(body)))
    target = request.path.encode() + (b"?" + request.query if request.query else b"")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target), *(name + b": " + value for name, value in headers)]
    return b"\r\n".join((*lines, b"", body))


async def read_reply(reader: asyncio.StreamReader, of_head: bool = False) -> Reply:
    """One reply; `of_head`: to HEAD, which has no body. Raises OSError, EOFError or ValueError where none comes."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    status = int(first.split(" ")[1])
    length = 0 if of_head or status == 204 else int(headers["content-length"])
    return Reply(status, headers, await reader.readexactly(length))


async def exchange(port: int, request: bytes, eof: bool = False, within_s: float = 3.0) -> Reply | None:
    """The reply to a request on a connection of its own; None for a broken one.

    Args:
        eof: say that nothing more comes, for a request that may not be whole.
    """
    writer = None
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            if eof:
                writer.write_eof()
            return await read_reply(reader, request.startswith(b"HEAD "))
    except (OSError, EOFError, ValueError, LookupError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
