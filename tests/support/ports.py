"""Ports for servers that are started, killed and started again on them."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Final

BUS: Final = 10_000
"""How far above its port a node of a Redis Cluster has its bus."""

_LOWEST: Final = 10_000
_ENOUGH: Final = 1000
"""With fewer ports to choose from, the system chooses: some containers give all of them to outgoing connections."""

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def highest() -> int:
    """The last port whose bus port, too, is below those that the system gives to outgoing connections."""
    least = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    return least - BUS - 1


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, nor their bus ports.

    A port that the system chooses is one that it also gives to outgoing connections, of this program or another: by the
    time that a server is started on it, or started again, it may be taken. These are none of them, where there
    are enough others.
    """
    found: list[int] = []
    rng, last = random.SystemRandom(), highest()
    while len(found) < count:
        port = rng.randint(_LOWEST, last) if last >= _LOWEST + _ENOUGH else 0
        with socket.socket() as one, socket.socket() as bus, contextlib.suppress(OSError, OverflowError):
            one.bind(("127.0.0.1", port))
            port = one.getsockname()[1]
            bus.bind(("127.0.0.1", port + BUS))
            if port not in found:
                found.append(port)
    return found


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]
