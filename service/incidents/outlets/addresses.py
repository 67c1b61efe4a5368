"""Addresses: where a host may be contacted. It is resolved once, looked at, and contacted by the address found.

Only public addresses are, and those of networks that the settings name: a name that suddenly means the metadata service
of a cloud, or a machine inside, leads nowhere. An address in another address counts as what it means.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Sequence
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class NoAddress(Exception):
    """A host has no address that may be contacted."""


def may_be_contacted(address: Address, networks: Sequence[Network]) -> bool:
    """Whether an address is public, or of one of some networks."""
    meant = _meant(address)
    if any(one in network for one in (address, meant) for network in networks if one.version == network.version):
        return True
    return meant.is_global and not (meant.is_multicast or meant.is_reserved or getattr(meant, "is_site_local", False))


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address


class Resolver:
    """Resolves names on a thread of its own, one at a time: one that hangs holds up nobody."""

    def __init__(self, networks: Sequence[Network]) -> None:
        """`networks`: those that may be contacted beside public addresses."""
        self._networks = networks
        self._thread: threading.Thread | None = None

    async def address(self, host: str, port: int) -> str:
        """The first address of a host that may be contacted. Raises NoAddress."""
        try:
            found = [ipaddress.ip_address(host)]
        except ValueError:
            found = await self._look_up(host, port)
        for address in found:
            if may_be_contacted(address, self._networks):
                return str(address)
        shown = ", ".join(map(str, found[:4]))
        raise NoAddress(
            f"{host} is {shown}, which is not public; if it is meant, name its network in GATEWATCH_WEBHOOK_NETWORKS"
        )

    async def _look_up(self, host: str, port: int) -> list[Address]:
        if self._thread is not None and self._thread.is_alive():
            raise NoAddress(f"{host} is still being looked up")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Address] | OSError | UnicodeError] = loop.create_future()

        def tell(found: list[Address] | OSError | UnicodeError) -> None:
            if not done.done():
                done.set_result(found)

        def look() -> None:
            answer: list[Address] | OSError | UnicodeError
            try:
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answer = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos]
            except (OSError, UnicodeError) as error:
                answer = error
            try:
                loop.call_soon_threadsafe(tell, answer)
            except RuntimeError:  # the loop has ended meanwhile
                return

        self._thread = threading.Thread(target=look, name="webhook address", daemon=True)
        self._thread.start()
        found = await done
        if isinstance(found, Exception):
            raise NoAddress(f"{host} cannot be looked up: {found}") from found
        return found
