"""Speed of the service beside a naive one and its ceilings, all in one run; everything it needs is started here.

    python -m benchmarks.speed [--seconds 4] [--only bulk,single,hot,ceilings,naive]

Readings a second, p50 and p99 of a request, and CPU time a reading of the service and of Redis. Load generator,
service and Redis share the machine's cores. 2 x 64 LSTM, 8 channels, ring of 32 results, history of 128 readings.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from redis import Redis
from rich.console import Console
from rich.table import Table

from models.artefact import FORMAT_VERSION, Manifest, save_artefact
from models.detector import Detector
from models.scaling import Scaling
from models.training.architectures import build
from models.training.calibration import neutral
from models.training.config import TrainConfig
from models.training.export import export_step, weights
from service.private_redis import start_private_redis

CHANNELS = tuple(f"c{n}" for n in range(8))
START = 1_700_000_000
BULK = 1000
console = Console(width=120)


@dataclass
class Load:
    """What one load came to."""

    readings: int
    seconds: float
    latencies: list[float]
    statuses: dict[str, int]
    cpu_s: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        return float(np.quantile(self.latencies, share)) * 1000


def artefact(folder: Path, hidden: int = 64) -> Path:
    """An untrained 2 x `hidden` network with 8 channels: the speed does not depend on the weights."""
    torch.manual_seed(0)
    config = TrainConfig(layers=2, hidden=hidden)
    network = build(config, len(CHANNELS)).eval()
    channels, calibration = neutral(Scaling(np.zeros(8), np.ones(8), 60.0), CHANNELS, [""] * 8)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        architecture="lstm",
        architecture_settings=config.model_dump(mode="json"),
        state={name: list(shape) for name, shape in network.state_shapes().items()},
        channels=channels,
        interval_s=60.0,
        calibration=calibration.model_copy(update={"event_threshold": 9.0, "level_threshold": 9.0}),
        training={},
        files={},
    )
    save_artefact(folder, manifest, export_step(network), weights(network), "# Untrained\n")
    return folder


def reading(stream: str, seq: int, rng: np.random.Generator) -> dict[str, object]:
    """A reading as a sender would write it."""
    values = dict(zip(CHANNELS, rng.normal(size=8).round(3).tolist(), strict=True))
    return {"stream": stream, "seq": seq, "timestamp": START + 60 * seq, "values": values}


def request(path: str, content: object) -> bytes:
    """A whole HTTP request."""
    body = json.dumps(content).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def connection(port: int, requests: Iterator[bytes], size: int, until: float, load: Load) -> None:
    """Send requests one after another on one connection until the time is up; check every answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for sent in requests:
        began = time.perf_counter()
        if began > until:
            break
        writer.write(sent)
        head = await reader.readuntil(b"\r\n\r\n")
        status = head[9:12].decode()
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        load.latencies.append(time.perf_counter() - began)
        load.statuses[status] = load.statuses.get(status, 0) + 1
        if status == "200":
            load.readings += size
            if b'"rejected"' in body or b'"late"' in body:
                raise RuntimeError(body[:300])
    writer.close()


def drive(
    port: int,
    pids: tuple[int, int],
    path: str,
    connections: int,
    bulk: int,
    seconds: float,
    seed: int,
    one_stream: bool = False,
) -> Load:
    """Load the service from `connections` connections; requests are made before the clock starts."""
    rng = np.random.default_rng(seed)
    rounds = 60 if bulk > 1 else max(60, int(15_000 * seconds / connections))
    made = []
    for number in range(connections):
        name = "hot" if one_stream else f"s{seed}-{number}"
        if bulk > 1:
            made.append(
                [request(path, [reading(f"{name}-{n}", seq, rng) for n in range(bulk)]) for seq in range(rounds)]
            )
        else:
            pattern = reading(name, 0, rng)
            if one_stream:
                pattern = {"stream": name, "values": pattern["values"]}
                made.append([request(path, pattern)] * rounds)
            else:
                made.append(
                    [request(path, {**pattern, "seq": seq, "timestamp": START + 60 * seq}) for seq in range(rounds)]
                )
    load = Load(0, 0.0, [], {})

    async def run() -> None:
        for requests in made:  # every stream exists before the clock starts
            await connection(port, iter(requests[:1]), bulk, math.inf, Load(0, 0.0, [], {}))
        cpu_before = [cpu_s(pid) for pid in pids]
        began = time.perf_counter()
        rest = (iter(requests[1:]) for requests in made)
        await asyncio.gather(*(connection(port, requests, bulk, began + seconds, load) for requests in rest))
        load.seconds = time.perf_counter() - began
        load.cpu_s = [cpu_s(pid) - before for pid, before in zip(pids, cpu_before, strict=True)]

    asyncio.run(run())
    return load


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(cpu_s(int(child)) for child in children)


def resident_mib(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def server(command: list[str], environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """A server process on a free port, ready to answer; its port and pid."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    process = subprocess.Popen(
        [*command, "--port", str(port)], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended")
            time.sleep(0.05)
        time.sleep(0.3)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def measured(table: Table, what: str, port: int, pids: tuple[int, int], load_options: dict[str, object]) -> float:
    """Drive, add a row; returns readings a second."""
    load = drive(port, pids, **load_options)  # type: ignore[arg-type]
    service, redis = (seconds / max(load.readings, 1) * 1e6 for seconds in load.cpu_s)
    rate = load.readings / load.seconds
    table.add_row(
        what, f"{rate:,.0f}", f"{load.percentile(0.5):.1f} / {load.percentile(0.99):.1f}",
        f"{service:.1f}", f"{redis:.1f}", f"{resident_mib(pids[0]):.0f}", str(load.statuses),
    )  # fmt: skip
    return rate


def ceilings(table: Table, folder: Path, url: str, redis_pid: int) -> None:
    """The network's step alone, and the same bytes through Redis alone."""
    detector = Detector.load(folder)
    values = np.random.default_rng(0).normal(size=(1024, 8)).astype(np.float32)
    for batch in (1, 64, 1024):
        states = detector.initial(batch)
        times = np.full(batch, START * 1000)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < 1:
            detector.step(values[:batch], times, states)
            count += batch
        seconds = time.perf_counter() - began
        table.add_row(
            f"detector alone, batch {batch}", f"{count / seconds:,.0f}", "", f"{seconds / count * 1e6:.1f}", "", "", ""
        )
    client = Redis.from_url(url)
    keys = [f"ceiling:{n}" for n in range(BULK)]
    record = os.urandom(2000)
    count, began, before = 0, time.perf_counter(), cpu_s(redis_pid)
    while time.perf_counter() - began < 1:
        client.mget(keys)
        client.mset(dict.fromkeys(keys, record))
        count += BULK
    seconds = time.perf_counter() - began
    table.add_row(
        "Redis alone, MGET and MSET of 1,000 records", f"{count / seconds:,.0f}", "", f"{seconds / count * 1e6:.1f}",
        f"{(cpu_s(redis_pid) - before) / count * 1e6:.1f}", "", "",
    )  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="a load's length")
    parser.add_argument("--only", default="naive,ceilings,bulk,single,hot")
    parser.add_argument("--workers", default="1", help="processes of the service")
    options = parser.parse_args()
    only = options.only.split(",")
    table = Table(title=f"{os.cpu_count()} cores shared by load generator, service and Redis")
    for column in ("what", "readings/s", "p50 / p99 ms", "service µs", "Redis µs", "MiB", "answers"):
        table.add_column(column, justify="left" if column in ("what", "answers") else "right")
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
        folder = artefact(Path(scratch) / "artefact")
        with Redis.from_url(private.url) as client:
            redis_pid = int(client.info("server")["process_id"])  # type: ignore[index]
        environment = {
            "GATEWATCH_REDIS_URL": private.url,
            "GATEWATCH_MODEL": str(folder),
            "GATEWATCH_LOG_LEVEL": "error",
        }
        if "ceilings" in only:
            ceilings(table, folder, private.url, redis_pid)
        if "naive" in only:
            command = [
                sys.executable,
                "-m",
                "uvicorn",
                "benchmarks.naive:app",
                "--no-access-log",
                "--log-level",
                "error",
            ]
            with server(command, environment) as (port, pid):
                for connections in (1, 32):
                    load = {
                        "path": "/v1/readings",
                        "connections": connections,
                        "bulk": 1,
                        "seconds": options.seconds,
                        "seed": 1,
                    }
                    what = f"naive handler, {connections} connections"
                    rates["naive"] = measured(table, what, port, (pid, redis_pid), load)
                load["path"] = "/echo"
                measured(table, "FastAPI echo, 32 connections", port, (pid, redis_pid), load)
        command = [sys.executable, "-m", "service.cli", "serve", "--workers", options.workers]
        with server(command, environment) as (port, pid):
            for kind, counts, bulk in (("bulk", (1, 4, 16), BULK), ("single", (1, 32, 128), 1)):
                for connections in counts if kind in only else ():
                    seed = connections + (500 if bulk > 1 else 0)
                    load = {
                        "path": "/v1/readings", "connections": connections, "bulk": bulk,
                        "seconds": options.seconds, "seed": seed,
                    }  # fmt: skip
                    what = f"{kind}, {connections} connections"
                    rates[what] = measured(table, what, port, (pid, redis_pid), load)
            if "hot" in only:
                load = {
                    "path": "/v1/readings", "connections": 8, "bulk": 1,
                    "seconds": options.seconds, "seed": 3, "one_stream": True,
                }  # fmt: skip
                rates["hot"] = measured(table, "one stream, 8 connections", port, (pid, redis_pid), load)
    console.print(table)
    if "naive" in rates:
        for what, rate in rates.items():
            console.print(f"{what}: {rate / rates['naive']:.1f} times the naive handler")


if __name__ == "__main__":
    main()
