"""Port: an address that several processes listen on, each with a socket of its own.

Of one socket that all of them share, an event loop takes every connection that has come when it wakes: of eight
connections one process mostly got all, and two processes were no faster than one. With SO_REUSEPORT the kernel deals
them out.
"""

from __future__ import annotations

import socket
from typing import Any


class Port(socket.socket):
    """A bound socket; where it is sent to another process, that process binds one of its own to the same address.

    The parent never listens on its own, so it is dealt no connection.
    """

    @classmethod
    def first(cls, host: str, port: int) -> Port:
        """A socket at an address on which nobody listens. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as alone:  # SO_REUSEPORT would let another service share its connections with us
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((host, port))
            address = alone.getsockname()
        return cls.bound(family, address)

    @classmethod
    def bound(cls, family: int, address: Any) -> Port:
        """A socket at an address that other processes of this user may bind as well. Raises OSError."""
        port = cls(family)
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            port.bind(address)
        except OSError:
            port.close()
            raise
        return port

    def __reduce__(self) -> tuple[Any, ...]:
        return Port.bound, (int(self.family), self.getsockname())
