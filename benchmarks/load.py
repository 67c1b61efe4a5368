"""Loads for a service: connections that send one prepared request after another, and what came of them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
import uvloop

from gatewatch.models.artefact.files import FORMAT_VERSION, Manifest, save_artefact
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.training.architectures import build
from gatewatch.models.training.architectures.cells import CellForecaster
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.export import export_step, weights
from gatewatch.models.training.trained.calibration import neutral
from tests.support.ports import free_port

START = 1_700_000_000

QUIET = {"GATEWATCH_LOG_LEVEL": "error"}
"""The environment of a service that is measured."""

PATIENT = {**QUIET, "GATEWATCH_WAITING_MS": "60000", "GATEWATCH_STORE_TIMEOUT_MS": "60000"}
"""The same where a busy machine would mean 429 and 503."""


@dataclass
class Load:
    """What one load came to."""

    readings: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    cpu_s: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Readings a second that were answered with a score."""
        return self.readings / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        return float(np.quantile(self.latencies, share)) * 1000 if self.latencies else math.nan

    def cpu_us(self, of: int) -> float:
        """Of the processes given to `drive`: CPU time a reading."""
        return self.cpu_s[of] / max(self.readings, 1) * 1e6


class Sender(asyncio.Protocol):
    """One connection; sends the next request when the answer to the one before is whole."""

    def __init__(self, requests: Sequence[bytes], size: int, load: Load) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.until = math.inf
        self._requests = iter(requests)
        self._size = size
        self._load = load
        self._received = b""
        self._began = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection; `send` begins."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self) -> None:
        """Send the next request, or be done."""
        self._began = time.perf_counter()
        following = next(self._requests, None) if self._began < self.until else None
        if following is None:
            self.done.set_result(None)
        elif self._transport is not None:
            self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        """Gather an answer; check and count it."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        at = head.lower().index(b"content-length:") + 15
        if len(body) < int(head[at:].split(b"\r", 1)[0]):
            return
        self._received = b""
        load, status = self._load, head[9:12].decode()
        load.latencies.append(time.perf_counter() - self._began)
        load.statuses[status] += 1
        if status == "200":
            load.readings += self._size
            if b'"rejected"' in body or b'"late"' in body:
                raise RuntimeError(body[:300])
        self.send()

    def connection_lost(self, _: Exception | None) -> None:
        """Count a connection that the service ended."""
        if not self.done.done():
            self._load.statuses["lost"] += 1
            self.done.set_result(None)


def drive(
    port: int,
    pids: Sequence[int],
    path: str,
    bodies: list[list[bytes]],
    size: int,
    seconds: float,
    key: str | None = None,
) -> Load:
    """Send each connection's bodies, of `size` readings each, for some seconds; the first of each is not counted."""
    made = [[request(path, body, key) for body in own] for own in bodies]

    async def run() -> Load:
        loop = asyncio.get_running_loop()

        async def connect(requests: Sequence[bytes], load: Load) -> Sender:
            _, sender = await loop.create_connection(lambda: Sender(requests, size, load), "127.0.0.1", port)
            return sender

        for requests in made:  # every stream exists before the clock starts
            first = await connect(requests[:1], Load())
            first.send()
            await first.done
        load = Load()
        senders = [await connect(requests[1:], load) for requests in made]
        before = [cpu_s(pid) for pid in pids]
        began = time.perf_counter()
        for sender in senders:
            sender.until = began + seconds
            sender.send()
        await asyncio.gather(*(sender.done for sender in senders))
        load.seconds = time.perf_counter() - began
        load.cpu_s = [cpu_s(pid) - then for pid, then in zip(pids, before, strict=True)]
        return load

    return uvloop.run(run())


def request(path: str, body: bytes, key: str | None = None) -> bytes:
    """A whole HTTP request, with a key where there is one."""
    headers = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    if key is not None:
        headers += f"authorization: Bearer {key}\r\n"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n".encode() + body


def bodies(
    connections: int, rounds: int, bulk: int, seed: int, channels: int = 8, streams: int | None = None
) -> list[list[bytes]]:
    """For each connection, `rounds` bodies of `bulk` readings of as many streams, all its own.

    Args:
        streams: how many streams a connection has, if more than `bulk`: its requests then go round them.
    """
    rng = np.random.default_rng(seed)
    names = [f"c{n}" for n in range(channels)]
    streams = max(streams or bulk, bulk)
    made = []
    for connection in range(connections):
        mine = []
        for turn in range(rounds):
            start = turn * bulk
            table = rng.normal(size=(bulk, channels)).round(3).tolist()
            readings = []
            for row, values in enumerate(table):
                seq, stream = divmod(start + row, streams)
                readings.append(
                    {
                        "stream": f"s{seed}-{connection}-{stream}",
                        "seq": seq,
                        "timestamp": START + 60 * seq,
                        "values": dict(zip(names, values, strict=True)),
                    }
                )
            mine.append(json.dumps(readings if bulk > 1 else readings[0]).encode())
        made.append(mine)
    return made


def one_stream_bodies(connections: int, rounds: int) -> list[list[bytes]]:
    """Readings of one stream from all connections, by the time of their arrival."""
    body = json.dumps({"stream": "hot", "values": {f"c{n}": n / 8 for n in range(8)}}).encode()
    return [[body] * rounds] * connections


def artefact(folder: Path, hidden: int = 64, channels: int = 8) -> Path:
    """An untrained 2 x `hidden` network: the speed does not depend on the weights."""
    torch.manual_seed(0)
    names = tuple(f"c{n}" for n in range(channels))
    config = TrainConfig(layers=2, hidden=hidden)
    network = build(config, channels).eval()
    described, calibration = neutral(Scaling(np.zeros(channels), np.ones(channels), 60.0), names, [""] * channels)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        architecture="lstm",
        architecture_settings=config.model_dump(mode="json"),
        state={name: list(shape) for name, shape in network.state_shapes().items()},
        channels=described,
        interval_s=60.0,
        calibration=calibration.model_copy(update={"event_threshold": 9.0, "level_threshold": 9.0}),
        training={},
        files={},
    )
    save_artefact(folder, manifest, export_step(cast(CellForecaster, network)), weights(network), "# Untrained\n")
    return folder


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_s(int(child)) for child in children)


def resident_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(resident_mib(int(child)) for child in children)


@contextmanager
def server(command: list[str], environment: dict[str, str], folder: Path | None = None) -> Iterator[tuple[int, int]]:
    """A server process on a free port, ready to answer, started in a folder; its port and pid."""
    port = free_port()
    process = subprocess.Popen(
        [*command, "--port", str(port)], env={**os.environ, **environment}, cwd=folder, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended")
            time.sleep(0.05)
        time.sleep(0.5)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()
