"""How the cost of a reading grows: with streams, channels, hidden units, readings a request, connections.

    python -m benchmarks.scaling [--seconds 3] [--million]

Beside it: what a stream costs Redis, with an empty and with a full history. `--million` creates 1,000,000 streams.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import QUIET, artefact, bodies, drive, resident_mib, server
from benchmarks.speed import SERVE
from gatewatch.service.storage.private_redis import start_private_redis

BULK = 1000


@contextmanager
def running(scratch: Path, hidden: int = 64, channels: int = 8) -> Iterator[tuple[int, tuple[int, int], Redis]]:
    """A service on a Redis of its own: port, the pids of both, a client."""
    folder = scratch / f"artefact-{hidden}-{channels}"
    if not folder.exists():
        artefact(folder, hidden, channels)
    with (
        tempfile.TemporaryDirectory(dir=scratch) as data,
        start_private_redis(Path(data)) as private,
        Redis.from_url(private.url) as client,
    ):
        redis_pid = int(client.info("server")["process_id"])
        environment = {
            **QUIET,
            "GATEWATCH_REDIS_URL": private.url,
            "GATEWATCH_MODEL": str(folder),
        }
        with server(SERVE, environment) as (port, pid):
            yield port, (pid, redis_pid), client


def used(client: Redis) -> int:
    """Bytes of data in Redis."""
    return int(client.info("memory")["used_memory_dataset"])


def cost(table: Table, scratch: Path, seconds: float) -> None:
    """A row for each setting of each quantity, the others as in `benchmarks.speed`."""

    def row(what: str, sent: list[list[bytes]], size: int, **model: int) -> None:
        with running(scratch, **model) as (port, pids, _):
            load = drive(port, pids, "/v1/readings", sent, size, seconds)
            latency = f"{load.percentile(0.5):.1f} / {load.percentile(0.99):.1f}"
            cpu = [f"{load.cpu_us(of):.0f}" for of in (0, 1)]
            table.add_row(what, f"{load.rate:,.0f}", latency, *cpu, f"{resident_mib(pids[0]):.0f}")

    for streams in (100, 1000, 10_000, 100_000):
        row(f"{streams:,} streams", bodies(1, 120, min(streams, BULK), 1, streams=streams), min(streams, BULK))
    for channels in (1, 8, 64):
        row(f"{channels} channels", bodies(1, 60, BULK, 1, channels), BULK, channels=channels)
    for hidden in (16, 64, 256):
        row(f"2 x {hidden} units", bodies(1, 60, BULK, 1), BULK, hidden=hidden)
    for size in (1, 10, 100, 1000):
        rounds = int(min(4000, 60_000 / size) * seconds)
        row(f"{size} readings a request, 4 connections", bodies(4, rounds, size, 1), size)
    for connections in (1, 8, 64, 512):
        rounds = max(20, int(6000 * seconds / connections))
        row(f"{connections} connections, single readings", bodies(connections, rounds, 1, 1), 1)


def memory(console: Console, scratch: Path) -> None:
    """Bytes of Redis a stream: record and index entry, and each reading of history."""
    with running(scratch) as (port, pids, client):
        empty, sent = used(client), bodies(1, 129, BULK, 1)
        drive(port, pids, "/v1/readings", [sent[0][:1]], BULK, 60)
        first = used(client)
        drive(port, pids, "/v1/readings", [sent[0][1:]], BULK, 600)
        full = used(client)
        record = int(client.strlen(next(client.scan_iter("*:state"))))
    console.print(
        f"bytes a stream: record {record}; in Redis {(first - empty) / BULK:,.0f} after the first reading, "
        f"{(full - empty) / BULK:,.0f} with a full history of 128 readings"
    )


def million(console: Console, scratch: Path) -> None:
    """1,000,000 streams, a reading each, then a second one of each."""
    count = 1_000_000
    with running(scratch) as (port, pids, client):
        empty = used(client)
        for turn in ("first", "second"):
            rates, done = [], 0
            for part in range(10):  # bodies of one part at a time in memory
                sent = bodies(1, 2 * count // 10 // BULK, BULK, 100 + part, streams=count // 10)[0]
                half = sent[: len(sent) // 2] if turn == "first" else sent[len(sent) // 2 :]
                load = drive(port, pids, "/v1/readings", [half], BULK, 600)
                rates.append(load.rate)
                done += load.readings + BULK
            console.print(
                f"{turn} reading of {done:,} streams: {min(rates):,.0f} to {max(rates):,.0f} a second, "
                f"{(used(client) - empty) / count:,.0f} bytes a stream, service {resident_mib(pids[0]):,.0f} MiB, "
                f"Redis {resident_mib(pids[1]):,.0f} MiB"
            )
        console.print(f"streams listed: {client.zcard('gatewatch:{ZGVmYXVsdA}:streams'):,}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="a load's length")
    parser.add_argument("--million", action="store_true", help="only this: create 1,000,000 streams")
    options = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        if options.million:
            million(console, Path(scratch))
            return
        table = Table(title=f"{os.cpu_count()} cores shared by load generator, service and Redis")
        for column in ("what", "readings/s", "p50 / p99 ms", "service µs", "Redis µs", "MiB"):
            table.add_column(column, justify="left" if column == "what" else "right")
        cost(table, Path(scratch), options.seconds)
        console.print(table)
        memory(console, Path(scratch))


if __name__ == "__main__":
    main()
