"""Several Redis servers: a Cluster, or a master with a replica and Sentinels; each with a folder of its own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from gatewatch.service.storage.private_redis import server_binary
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE_S

SLOTS = 16_384


class Servers:
    """Redis servers by port, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self._commands: dict[int, list[str]] = {}
        self._stopped = False

    def start(self, port: int, *options: str) -> None:
        """Start a server, and wait until it answers; without options as it was before. Not after `stop`."""
        assert not self._stopped, f"{port} is not started: all servers were stopped"
        home = self.folder / str(port)
        home.mkdir(exist_ok=True)
        if options:
            self._commands[port] = [str(server_binary()), *options]
        with (home / "log").open("ab") as log:
            process = subprocess.Popen(self._commands[port], cwd=home, stdout=log, stderr=log)
        self.running[port] = process

        def answers() -> object:
            assert process.poll() is None, f"{port} ended: {(home / 'log').read_text()[-2000:]}"
            return self.client(port).ping()

        self.wait_for(answers, f"{port} does not start")

    def serve(self, port: int, *options: str) -> None:
        """Start a Redis with an append-only file."""
        self.start(port, "--port", str(port), "--save", "", "--appendonly", "yes", "--bind", "127.0.0.1", *options)

    @property
    def known(self) -> list[int]:
        """The ports of all servers that were ever started."""
        return list(self._commands)

    def client(self, port: int) -> redis.Redis:
        """A client of one server."""
        return redis.Redis(port=port, socket_timeout=5)

    def kill(self, port: int) -> None:
        """Kill a server, as a machine dies."""
        process = self.running.pop(port)
        process.kill()
        process.wait()

    def wait_for(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds; an error of Redis means that it does not yet."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                if holds():
                    return
            assert time.monotonic() < deadline, what
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill all, for good: whoever still does them harm in a thread starts none any more."""
        self._stopped = True
        for port in list(self.running):
            self.kill(port)


@contextlib.contextmanager
def redis_cluster(folder: Path, masters: int = 3, replicas: int = 0, node_timeout_ms: int = 1000) -> Iterator[Servers]:
    """A Cluster; `running` has its ports. A slot that nobody serves fails its own keys only."""
    servers = Servers(folder)
    ports = free_ports(masters * (1 + replicas))
    try:
        for port in ports:
            own = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms))
            servers.serve(
                port, *own, "--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no"
            )
        _join(servers, ports, masters)
        for port in ports:
            servers.wait_for(lambda port=port: _covers_all(servers.client(port)), f"{port} knows not all slots")  # type: ignore[misc]
        yield servers
    finally:
        servers.stop()


def _join(servers: Servers, ports: list[int], masters: int) -> None:
    """Make one Cluster of servers: the first ones share the slots, the others follow them in turn."""
    first = servers.client(ports[0])
    ids = [_text(servers.client(port).execute_command("CLUSTER MYID")) for port in ports]
    for at, port in enumerate(ports):
        client = servers.client(port)
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", at + 1)
        if at < masters:
            bounds = (SLOTS * at // masters, SLOTS * (at + 1) // masters - 1)
            client.execute_command("CLUSTER ADDSLOTSRANGE", *bounds)
        if at:
            first.execute_command("CLUSTER MEET", "127.0.0.1", port)
    for at, port in enumerate(ports):
        client = servers.client(port)
        servers.wait_for(lambda client=client: _knows(client, ids), f"{port} has not met all")  # type: ignore[misc]
        if at >= masters:
            client.execute_command("CLUSTER REPLICATE", ids[at % masters])
            servers.wait_for(lambda client=client: client.info("replication")["master_link_status"] == "up", "no link")  # type: ignore[misc]


def _knows(client: redis.Redis, ids: list[str]) -> bool:
    nodes = _text(client.execute_command("CLUSTER NODES", NEVER_DECODE=True))
    return all(one in nodes for one in ids)


def _text(reply: object) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _covers_all(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in bytes(info) if isinstance(info, bytes) else info.get("cluster_state") == "ok"


@contextlib.contextmanager
def redis_with_sentinels(folder: Path, sentinels: int = 2, down_after_ms: int = 500) -> Iterator[tuple[Servers, str]]:
    """A master, a replica and Sentinels that call the master `mymaster`; and the URL."""
    servers = Servers(folder)
    master, replica, *watching = free_ports(2 + sentinels)
    try:
        servers.serve(master)
        servers.serve(replica, "--replicaof", "127.0.0.1", str(master))
        servers.wait_for(lambda: servers.client(replica).info("replication")["master_link_status"] == "up", "no link")
        for port in watching:
            config = folder / f"sentinel-{port}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {master} 1\n"
                f"sentinel down-after-milliseconds mymaster {down_after_ms}\n"
                "sentinel failover-timeout mymaster 2000\n"
            )
            servers.start(port, str(config), "--sentinel")
        for port in watching:
            sentinel = servers.client(port)
            servers.wait_for(lambda s=sentinel: s.execute_command("SENTINEL", "REPLICAS", "mymaster"), "no replica")  # type: ignore[misc]
        yield servers, "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in watching) + "/mymaster"
    finally:
        servers.stop()
