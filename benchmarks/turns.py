"""What a reading costs two services that run at once, beside another checkout or interpreter; CPU time.

    python -m benchmarks.turns --before FOLDER
    python -m benchmarks.turns --python OTHER [--blocks 100]

For machines that are never quiet: blocks of a few hundredths of a second go to one service and then to the other, so
that whatever else the machine does meets both alike. Each has a Redis of its own. Time is what the scheduler counted
of all threads, in nanoseconds; stated are the lower quartile of the blocks and the least. The first block is not
counted. The answers of both have to be the same to the byte. 2 x 64 LSTM, 8 channels, nothing anomalous.

`--python` runs the second service with another interpreter, which has to find the same packages.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
from redis import Redis

from benchmarks.load import PATIENT, artefact, bodies, request, server
from gatewatch.service.storage.private_redis import start_private_redis

LOADS = {"single, 1 connection": (1, 20, 1), "single, 32 connections": (32, 3, 1), "bulk of 400": (1, 1, 400)}
"""Connections, requests of each in a block, readings of a request."""


class Service(NamedTuple):
    """One of the two: where it listens, its process, and that of its Redis."""

    port: int
    pid: int
    redis_pid: int


class Connection:
    """A connection that is read when it is asked to be."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._file = self.socket.makefile("rb")

    def answer(self) -> bytes:
        """The body of the next answer."""
        status, size = self._file.readline(), 0
        while (line := self._file.readline().lower()) != b"\r\n":
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        body = self._file.read(size)
        if not status.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(status + body[:300])
        return body


def cpu_ns(pid: int) -> int:
    """CPU time of all threads of a process that are there."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def block(service: Service, connections: Sequence[Connection], sent: Sequence[list[bytes]]) -> tuple[list[bytes], int]:
    """The answers to the requests of each connection, which all have one under way, and the service's time."""
    before, answers = cpu_ns(service.pid), list[bytes]()
    for requests in zip(*sent, strict=True):
        for connection, one in zip(connections, requests, strict=True):
            connection.socket.sendall(one)
        answers += [connection.answer() for connection in connections]
    return answers, cpu_ns(service.pid) - before


def measure(services: Sequence[Service], load: str, blocks: int) -> list[list[tuple[int, int]]]:
    """Nanoseconds of each service and of its Redis, block by block."""
    count, each, size = LOADS[load]
    sent = [
        [request("/v1/readings", body) for body in own] for own in bodies(count, (blocks + 1) * each, size, seed=count)
    ]
    connections = [[Connection(service.port) for _ in range(count)] for service in services]
    found: list[list[tuple[int, int]]] = [[] for _ in services]
    for at in range(blocks + 1):
        answers = []
        for which in (0, 1) if at % 2 else (1, 0):
            service = services[which]
            redis, part = cpu_ns(service.redis_pid), [own[at * each : (at + 1) * each] for own in sent]
            given, took = block(service, connections[which], part)
            answers.append(given)
            found[which].append((took, cpu_ns(service.redis_pid) - redis))
        if answers[0] != answers[1]:
            raise RuntimeError(f"{load}, block {at}: the answers differ")
    return [own[1:] for own in found]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout, which is the first; this one is the second")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the second")
    parser.add_argument("--blocks", type=int, default=100)
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    ways = [(sys.executable, options.before or here), (options.python, here)]
    with ExitStack() as until_done:
        scratch = Path(until_done.enter_context(tempfile.TemporaryDirectory()))
        folder, services = artefact(scratch / "artefact"), list[Service]()
        for at, (python, checkout) in enumerate(ways):
            private = until_done.enter_context(start_private_redis(scratch / str(at), "everysec"))
            with Redis.from_url(private.url) as client:
                redis_pid = int(client.info("server")["process_id"])
            environment = {**PATIENT, "GATEWATCH_REDIS_URL": private.url, "GATEWATCH_MODEL": str(folder)}
            command = [python, "-m", "gatewatch", "serve"]
            services.append(Service(*until_done.enter_context(server(command, environment, checkout)), redis_pid))
        print("| load | service, µs | Redis, µs | ratio of the service: quartile, least |")
        for load, (count, each, size) in LOADS.items():
            us = np.array(measure(services, load, options.blocks)) / (1e3 * count * each * size)  # (2, blocks, 2)
            quartile, least = np.quantile(us, 0.25, axis=1), us.min(1)
            ratios = ", ".join(f"{one[1, 0] / one[0, 0]:.2f}" for one in (quartile, least))
            shown = " | ".join(f"{quartile[0, of]:.1f}, {quartile[1, of]:.1f}" for of in (0, 1))
            print(f"| {load} | {shown} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
