"""A load under faults: readings sent through broken connections to services over a broken Redis, and what is left.

    python -m tests.faults.load --readings 100000 --streams 32

Two services share one Redis. A proxy that drops, cuts and delays stands before each service and before Redis; a sender
sends every reading until it is answered, and some of them twice at once. In the end every stream must hold exactly its
readings, in order: its chain tag, computed here, and its scores, computed by the detector alone, must be equal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from gatewatch.service.core.chain import Chain
from gatewatch.service.storage.private_redis import PrivateRedis, start_private_redis
from tests.support.mutants import Reply, Request
from tests.support.replicas import Replica
from tests.support.wire import CLOSE, exchange, written

FAULT_SHARE = 0.04
"""Of the chunks that pass a proxy before a service, each way; a quarter of it before Redis."""

ANSWERED = ("warming_up", "normal", "anomalous")


@dataclass
class Ledger:
    """What happened."""

    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    sent: int = 0
    wrong: list[str] = field(default_factory=list)


class Proxy:
    """Passes bytes between a port and a target, and sometimes does not."""

    def __init__(self, target: str | int, ledger: Ledger, rng: random.Random, share: float) -> None:
        self._target, self._ledger, self._rng, self._share = target, ledger, rng, share
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[Any]] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        try:
            if isinstance(self._target, int):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            else:
                far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            await _close(writer)
            return
        self._ends |= {writer, far_writer}
        ways = [asyncio.create_task(self._pass(*way)) for way in ((reader, far_writer), (far_reader, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        self._ends -= {writer, far_writer}
        for end in (writer, far_writer):
            await _close(end)

    def cut(self) -> None:
        """Break all connections that there are."""
        for end in self._ends:
            end.transport.abort()

    async def stop(self) -> None:
        """Listen no more; wait for the connections that are left."""
        if self._server is not None:
            self._server.close()
        if self._open:
            await asyncio.wait(self._open, timeout=5)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                if self._rng.random() < self._share:
                    fault = self._rng.choice(("drop", "cut", "delay"))
                    self._ledger.faults[fault] += 1
                    if fault == "drop":  # nothing arrives, the connection breaks
                        return
                    if fault == "cut":  # half of it arrives, the connection breaks
                        writer.write(chunk[: len(chunk) // 2])
                        await writer.drain()
                        return
                    await asyncio.sleep(self._rng.choice((0.02, 0.1, 0.35)))
                writer.write(chunk)
                await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def post(port: int, reading: dict[str, Any] | list[dict[str, Any]]) -> tuple[int, Any]:
    """One reading on a connection of its own; status 0 for a broken one."""
    request = Request("POST", "/v1/readings", b"", [CLOSE], [json.dumps(reading).encode()])
    return content_of(await exchange(port, written(request)))


def content_of(reply: Reply | None) -> tuple[int, Any]:
    """Status and JSON of a reply; 0 where none came."""
    return (0, None) if reply is None else (reply.status, json.loads(reply.body))


async def send_stream(
    name: str, values: np.ndarray[Any, Any], ports: list[int], ledger: Ledger, rng: random.Random
) -> list[float]:
    """Send a stream's readings in order, each until it is answered, some to two services at once; their scores."""
    scores = []
    for seq, row in enumerate(values.tolist()):
        pressure, flow = row
        reading = {
            "stream": name,
            "seq": seq,
            "timestamp": 1_700_000_000 + 60 * seq,
            "values": {"pressure": pressure, "flow": flow},
        }
        answered: set[float] = set()
        while not answered:
            twice = rng.random() < 0.2
            targets = ports if twice else [rng.choice(ports)]
            ledger.sent += len(targets)
            for status, result in await asyncio.gather(*(post(port, reading) for port in targets)):
                if status == 200 and result["status"] in ANSWERED:
                    ledger.answers["replayed" if result["replayed"] else "applied"] += 1
                    answered.add(result["score"])
                elif status == 200:
                    ledger.wrong.append(f"{name} {seq}: {result['status']} {result['error']}")
                    answered.add(float("nan"))
                else:
                    ledger.answers[str(status)] += 1
                    if status not in (0, 503):
                        ledger.wrong.append(f"{name} {seq}: HTTP {status}: {result}")
            if not answered:
                await asyncio.sleep(0.01)
        if len(answered) > 1:
            ledger.wrong.append(f"{name} {seq}: two answers {answered}")
        scores.append(answered.pop())
    return scores


async def run(
    artefact: Path, readings: int, streams: int, seed: int, kills: bool, share: float = FAULT_SHARE
) -> Ledger:
    """Send, break, check; what is wrong is in the ledger."""
    rng, ledger = random.Random(seed), Ledger()
    table = np.random.default_rng(seed).normal(3, 1, (streams, readings // streams, 2)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="gatewatch-faults-") as scratch:
        data = Path(scratch) / "redis"
        private = start_private_redis(data, appendfsync="always")
        store = Proxy(private.url.removeprefix("unix://"), ledger, rng, share / 4)
        await store.start()
        with services(artefact, f"redis://127.0.0.1:{store.port}/0", 2) as own_ports:
            proxies = [Proxy(port, ledger, rng, share) for port in own_ports]
            for proxy in proxies:
                await proxy.start()
            ports = [proxy.port for proxy in proxies]
            done = asyncio.Event()
            killer = asyncio.create_task(_kill_redis(private, data, ledger, rng, done if kills else None))
            jobs = [send_stream(f"s{n}", table[n], ports, ledger, rng) for n in range(streams)]
            scores = await asyncio.gather(*jobs)
            done.set()
            private = await killer
            for n in range(streams):
                await _check_stream(f"s{n}", table[n], scores[n], own_ports, artefact, ledger)
        for proxy in (*proxies, store):
            await proxy.stop()
        private.stop()
    return ledger


async def _kill_redis(
    private: PrivateRedis, data: Path, ledger: Ledger, rng: random.Random, done: asyncio.Event | None
) -> PrivateRedis:
    """kill -9 of Redis every second or so until `done`, and a new one on the same append-only file; the last one."""
    while done is not None and not done.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), rng.uniform(0.5, 1.5))
            break
        with Redis.from_url(private.url) as client:
            pid = int(client.info("server")["process_id"])
        os.kill(pid, signal.SIGKILL)
        ledger.kills += 1
        await asyncio.to_thread(private.stop)
        private = await asyncio.to_thread(start_private_redis, data, "always")
    return private


@contextlib.contextmanager
def services(artefact: Path, redis_url: str, count: int, **settings: str) -> Iterator[list[int]]:
    """Services on one Redis, ready or not; their ports."""
    given = {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_REDIS_URL": redis_url, "GATEWATCH_LOG_LEVEL": "error"}
    started: list[Replica] = []
    try:
        started += (Replica(given | settings) for _ in range(count))
        for replica in started:
            replica.await_listening()
        yield [replica.port for replica in started]
    finally:
        for replica in started:
            replica.tell(signal.SIGTERM)
        for replica in started:
            replica.end()


async def _check_stream(
    name: str, values: np.ndarray[Any, Any], scores: list[float], ports: list[int], artefact: Path, ledger: Ledger
) -> None:
    detector = TrainedDetector.load(artefact)
    order = [("pressure", "flow").index(channel) for channel in detector.channels]
    values = values[:, order]
    times = 1_700_000_000_000 + 60_000 * np.arange(len(values))
    tags, chain = np.zeros(1, "V16"), Chain(detector.channels)
    for seq in range(len(values)):
        tags = chain.tags(tags, np.array([seq]), times[seq : seq + 1], values[seq : seq + 1])
    tag = bytes(tags[0])
    for _ in range(100):
        request = Request("GET", f"/v1/streams/{name}", b"", [CLOSE], [])
        status, known = content_of(await exchange(ports[0], written(request)))
        if status == 200:
            break
        await asyncio.sleep(0.1)
    if status != 200 or known["readings"] != len(values) or known["tag"] != tag.hex():
        ledger.wrong.append(f"{name}: {known}, expected {len(values)} readings and tag {tag.hex()}")
    alone = scan(detector, Recording(name, detector.channels, times, values)).score.tolist()
    differing = sum(a != b for a, b in zip(alone, scores, strict=True))
    if differing:
        ledger.wrong.append(f"{name}: {differing} scores differ from the detector's alone")


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=FAULT_SHARE, help="of the chunks that meet a fault")
    options = parser.parse_args()
    from tests.support.samples import make_artefact

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        artefact = make_artefact(Path(scratch) / "tiny")
        ledger = asyncio.run(run(artefact, options.readings, options.streams, options.seed, True, options.share))
    print(f"{time.monotonic() - began:.0f} s, {ledger.sent} requests, {ledger.kills} kills of Redis")
    print(f"faults {dict(ledger.faults)}")
    print(f"answers {dict(ledger.answers)}")
    print(f"wrong: {len(ledger.wrong)}", *ledger.wrong[:20], sep="\n")
    sys.exit(bool(ledger.wrong))


if __name__ == "__main__":
    main()
