"""Port: an address that several processes listen on, each with a socket of its own.

Of one socket that all of them share, an event loop takes every connection that has come when it wakes: of eight
connections one process mostly got all, and two processes were no faster than one. With SO_REUSEPORT the kernel deals
them out.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any


class Port(socket.socket):
    """A bound socket; where it is sent to another process, that process binds one of its own to the same address."""

    @classmethod
    def held(cls, family: int, address: Any) -> Port:
        """A socket that keeps an address for those that `another` makes. Raises OSError.

        SO_REUSEPORT alone would let another service of this user share it, also while this one still starts. So it is
        bound without, listens for a moment, which needs an address that nobody else has bound, and from then on shares
        it with those only that ask for SO_REUSEPORT. It listens no more, so it is dealt no connection.
        """
        with socket.socket(family) as any_free:  # where the port is 0
            any_free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            any_free.bind(address)
            address = any_free.getsockname()
        port = cls(family)
        try:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.bind(address)
            port.listen()
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port.shutdown(socket.SHUT_RD)
        except OSError:
            port.close()
            raise
        return port

    @classmethod
    def bound(cls, family: int, address: Any) -> Port:
        """A socket at an address that is held. Raises OSError."""
        port = cls(family)
        try:
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port.bind(address)
        except OSError:
            port.close()
            raise
        return port

    def another(self) -> Port:
        """A socket at the same address, to listen on. Raises OSError."""
        return self.bound(self.family, self.getsockname())

    def __reduce__(self) -> tuple[Any, ...]:
        return Port.bound, (int(self.family), self.getsockname())


def hold(host: str, number: int) -> list[Port]:
    """A port at each address of a host, which for a name (localhost) may be two. Raises OSError."""
    ports: list[Port] = []
    absent: OSError | None = None
    found = socket.getaddrinfo(os.fsencode(host), number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in found:
        try:
            ports.append(Port.held(family, (address[0], number, *address[2:])))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # else IPv6 is switched off
                for port in ports:
                    port.close()
                raise
            absent = error
        else:
            number = ports[0].getsockname()[1]
    if absent is not None and not ports:
        raise absent
    return ports


def address_of(port: Port) -> str:
    """Host and port, as in a URL."""
    host, number = port.getsockname()[:2]
    return f"[{host}]:{number}" if port.family == socket.AF_INET6 else f"{host}:{number}"
