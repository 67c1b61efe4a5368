"""The kinds of Redis that a round has, and the harm that is done to each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from redis import Redis

from gatewatch.service.storage.private_redis import start_private_redis
from tests.faults import redis_nodes
from tests.faults.load import FAULT_SHARE, Ledger, Proxy
from tests.support.redis_servers import Servers, redis_cluster, redis_with_sentinels

LONGEST_HANG_S = 3.0


class HarmedStore(Protocol):
    """A Redis under harm.

    Attributes:
        url: for the services.
        own_url: past the proxies.
        replicas: that must have what is acknowledged.
    """

    url: str
    own_url: str
    replicas: int

    async def harm(self, what: str, pick: float) -> None:
        """Do one of the faults of the schedule; it is over when this returns."""


class Single:
    """One Redis behind a proxy that cuts and delays."""

    replicas = 0

    def __init__(self, folder: Path, ledger: Ledger, rng: random.Random) -> None:
        self._folder = folder
        self._private = start_private_redis(folder, "always")
        self.own_url = self._private.url
        self._proxy = Proxy(self.own_url.removeprefix("unix://"), ledger, rng, FAULT_SHARE / 4)

    async def start(self) -> None:
        """Listen."""
        await self._proxy.start()
        self.url = f"redis://127.0.0.1:{self._proxy.port}/0"

    async def harm(self, what: str, pick: float) -> None:
        """`kill` it and begin it again on its file, have it `hang`, or `cut` all connections to it."""
        if what == "cut":
            self._proxy.cut()
            return
        with Redis.from_url(self.own_url) as client:
            pid = int(client.info("server")["process_id"])
        if what == "hang":
            await _hang(pid, pick)
            return
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(self._private.stop)
        self._private = await asyncio.to_thread(start_private_redis, self._folder, "always")

    async def stop(self) -> None:
        """End it."""
        await self._proxy.stop()
        self._private.stop()


class Several:
    """Servers that take over from each other: Sentinels', or of a Cluster."""

    replicas = 1

    def __init__(self, servers: Servers, url: str) -> None:
        self._servers = servers
        self.url = self.own_url = url

    async def harm(self, what: str, pick: float) -> None:
        """A `failover` of Sentinels, a `node` of a Cluster killed, a slot that is a `move`; or a master may `hang`."""
        rng = random.Random(pick)
        if what == "hang":
            await _hang(await asyncio.to_thread(self._master, rng), pick)
        elif what == "failover":
            await asyncio.to_thread(redis_nodes.failovers, self._servers, 1, 0.0)
        else:
            harm = redis_nodes.kills if what == "node" else redis_nodes.moves
            await asyncio.to_thread(harm, self._servers, 1, rng)

    def _master(self, rng: random.Random) -> int:
        roles = {port: self._servers.client(port).role()[0] for port in self._servers.running}
        return self._servers.running[rng.choice([port for port, role in roles.items() if role == b"master"])].pid


async def _hang(pid: int, pick: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(LONGEST_HANG_S * pick**2)
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def harmed_store(kind: str, folder: Path, ledger: Ledger, rng: random.Random) -> AsyncIterator[HarmedStore]:
    """A store of a kind, running, with what it has in a folder that is there."""
    if kind == "single":
        single = Single(folder, ledger, rng)
        await single.start()
        try:
            yield single
        finally:
            await single.stop()
        return
    with contextlib.ExitStack() as stack:
        if kind == "sentinel":
            several = Several(*await asyncio.to_thread(stack.enter_context, redis_with_sentinels(folder, sentinels=3)))
        else:
            servers = await asyncio.to_thread(stack.enter_context, redis_cluster(folder, replicas=1))
            nodes = ",".join(f"127.0.0.1:{port}" for port in servers.running)
            several = Several(servers, f"redis+cluster://{nodes}")
        yield several
