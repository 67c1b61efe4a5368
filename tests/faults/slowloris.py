"""Many connections that never finish their request, and what a good client notices of them.

    python -m tests.faults.slowloris --sockets 10000 [--connections 12000] [--reopen]

Half of the sockets dribble a head, half a body, a byte a second each; with --reopen, as many as were closed are opened
again every second. The service is one process of `gatewatch serve` with the shipped model and default settings but
--connections. Printed: how many sockets were open at once (the limit of open files is raised as far as allowed), p50
and p99 of a client that posts single readings, one in ten on a new connection, before and meanwhile, and how many
sockets the service still holds once the deadlines are over.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import resource
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

HEAD = b"POST /v1/readings HTTP/1.1\r\nhost: localhost\r\nx-slow: "
BODY = b"POST /v1/readings HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n["


class Flag(Protocol):
    """An event of threads or of processes."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


@dataclass
class Held:
    """What became of the sockets."""

    opened: int = 0
    most: int = 0  # open at once
    left: int = 0  # open when all deadlines were over
    open: set[asyncio.Transport] = field(default_factory=set)


class Dribbler(asyncio.Protocol):
    """One socket."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, held = transport, self._held
        held.open.add(transport)
        held.opened += 1
        held.most = max(held.most, len(held.open))
        transport.write(HEAD if held.opened % 2 else BODY)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._held.open.discard(self._transport)


async def dribble(port: int, sockets: int, all_open: Flag, stop: Flag, within_s: float, reopen: bool = False) -> Held:
    """Hold up to `sockets` connections open until `stop`; then see whether all are closed within `within_s`."""
    held, loop = Held(), asyncio.get_running_loop()

    async def connect(count: int) -> None:
        for at in range(0, count, 50):
            some = range(min(50, count - at))
            connecting = (loop.create_connection(lambda: Dribbler(held), "127.0.0.1", port) for _ in some)
            await asyncio.gather(*connecting, return_exceptions=True)
            await asyncio.sleep(0.01)

    await connect(sockets)
    all_open.set()
    give_up = None
    while held.open and (give_up is None or loop.time() < give_up):
        for number, transport in enumerate(list(held.open)):
            transport.write(b" ")
            if number % 100 == 99:
                await asyncio.sleep(0.002)
        if reopen and not stop.is_set():
            await connect(sockets - len(held.open))
        if give_up is None and stop.is_set():
            give_up = loop.time() + within_s
        await asyncio.sleep(1)
    held.left = len(held.open)
    for transport in list(held.open):
        transport.abort()
    held.open.clear()
    return held


def post_readings(port: int, seconds: float, values: dict[str, float]) -> list[float]:
    """Post single readings one after the other; the time of each in ms. Anything but 200 is an error."""
    took: list[float] = []
    end, seq = time.monotonic() + seconds, time.time_ns()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while (began := time.perf_counter()) and time.monotonic() < end:
        if len(took) % 10 == 0:
            connection.close()  # the next request opens a new one
        seq += 1
        connection.request("POST", "/v1/readings", json.dumps([{"stream": "good", "seq": seq, "values": values}]))
        reply = connection.getresponse()
        body = reply.read()
        took.append(1000 * (time.perf_counter() - began))
        if reply.status != 200:
            raise RuntimeError(f"{reply.status} {body[:200]!r}")
        time.sleep(0.005)
    connection.close()
    return took


def main() -> None:
    """Measure as the command says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--connections", default="4096", help="GATEWATCH_CONNECTIONS")
    parser.add_argument("--reopen", action="store_true")
    options = parser.parse_args()
    from gatewatch.models.artefact.files import model_folder
    from gatewatch.models.detectors.trained.detector import TrainedDetector
    from gatewatch.service.settings import Settings
    from tests.support.whole_path import serving

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    values = dict.fromkeys(TrainedDetector.load(model_folder("demo")).channels, 1.0)
    let_go_s = Settings(model="demo").body_deadline_s + 5
    spawn = multiprocessing.get_context("spawn")
    all_open, stop, results = spawn.Event(), spawn.Event(), spawn.Queue()
    settings = {"GATEWATCH_CONNECTIONS": options.connections}
    with tempfile.TemporaryDirectory() as data, serving(Path("demo"), Path(data), **settings) as (url, service):
        port = urlsplit(url).port or 0
        post_readings(port, 2, values)
        before, files, rss = post_readings(port, options.seconds, values), open_files(service.pid), rss_mb(service.pid)
        arguments = (port, options.sockets, all_open, stop, let_go_s, options.reopen, results)
        attacker = spawn.Process(target=_attack, args=arguments)
        attacker.start()
        opening = []
        while not all_open.is_set():
            opening += post_readings(port, 0.2, values)
        during = post_readings(port, options.seconds, values)
        most_files, most_rss = open_files(service.pid) - files, rss_mb(service.pid)
        stop.set()
        held: Held = results.get(timeout=let_go_s + 60)
        attacker.join()
        left_files = open_files(service.pid) - files
    for name, took in (("before", before), ("while they open", opening), ("while they dribble", during)):
        p50, p99 = np.percentile(took, (50, 99))
        print(f"good client {name}: {len(took)} readings, all 200, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    print(
        f"sockets: {held.opened} opened, {held.most} at once of {options.sockets} wanted (open files: {hard}); held by "
        f"the service after {options.seconds:g} s: {most_files}; still held at the end: {held.left} by the sender, "
        f"{left_files} by the service; memory of the service {rss:.0f} MB before, {most_rss:.0f} MB during"
    )


def _attack(port: int, sockets: int, all_open: Any, stop: Any, within_s: float, reopen: bool, results: Any) -> None:
    sockets = min(sockets, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64)
    results.put(asyncio.run(dribble(port, sockets, all_open, stop, within_s, reopen)))


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def rss_mb(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of a process, or with VmHWM the most it ever had, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
