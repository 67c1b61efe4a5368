"""Speed of the service beside a naive one and its ceilings, all in one run; everything it needs is started here.

    python -m benchmarks.speed [--seconds 4] [--only naive,ceilings,bulk,single,hot,two,strict]

Readings a second, p50 and p99 of a request, and CPU time a reading of the service and of Redis; under each load, where
the service's time goes, a reading. Load generator, service and Redis share the machine's cores. 2 x 64 LSTM, 8
channels, history of 128 readings.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import QUIET, START, Load, artefact, bodies, cpu_s, drive, one_stream_bodies, resident_mib, server
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.storage.private_redis import start_private_redis

BULK = 1000
SERVE = [sys.executable, "-m", "gatewatch", "serve"]
NAIVE = [sys.executable, "-m", "uvicorn", "benchmarks.naive:app", "--no-access-log", "--log-level", "error"]
STAGES = ("parse", "load", "step", "save")


class Report:
    """The table, and the rates for the ratios."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        self.ceilings: dict[str, float] = {}
        self._table = Table(title=f"{os.cpu_count()} cores shared by load generator, service and Redis")
        for column in ("what", "readings/s", "p50 / p99 ms", "service µs", "Redis µs", "MiB", "answers", "stages, µs"):
            self._table.add_column(column, justify="left" if column in ("what", "answers", "stages, µs") else "right")

    def load(self, what: str, load: Load, pid: int, stages: str = "") -> None:
        """A row for a load."""
        self.rates[what] = load.rate
        latency = f"{load.percentile(0.5):.1f} / {load.percentile(0.99):.1f}"
        cpu = [f"{load.cpu_us(of):.1f}" for of in (0, 1)]
        answers = " ".join(f"{status}: {count}" for status, count in load.statuses.items())
        self._table.add_row(what, f"{load.rate:,.0f}", latency, *cpu, f"{resident_mib(pid):.0f}", answers, stages)

    def ceiling(self, what: str, rate: float, redis_us: float | None = None) -> None:
        """A row for something that does a part of the work only."""
        self.ceilings[what] = rate
        redis = "" if redis_us is None else f"{redis_us:.1f}"
        self._table.add_row(what, f"{rate:,.0f}", "", f"{1e6 / rate:.1f}", redis, "", "", "")

    def print(self) -> None:
        """The table and the ratios."""
        console = Console(width=170)
        console.print(self._table)
        naive = [rate for what, rate in self.rates.items() if what.startswith("naive")]
        bulk = [rate for what, rate in self.ceilings.items() if "1,0" in what]
        for what, rate in self.rates.items() if naive else ():
            if not what.startswith("naive"):
                of_ceiling = f", {rate / min(bulk):.2f} of the slowest ceiling" if bulk and "bulk" in what else ""
                console.print(f"{what}: {rate / max(naive):.1f} times the naive handler{of_ceiling}")


def ceilings(report: Report, folder: Path, url: str, redis_pid: int) -> None:
    """The detector alone, its network's step alone, and the same bytes through Redis alone."""
    detector = TrainedDetector.load(folder)
    values = np.random.default_rng(0).normal(size=(1024, 8))
    for batch in (1, 64, 1024):
        states, times = detector.initial(batch), np.full(batch, START * 1000)

        def step(batch: int = batch, states: Any = states, times: Any = times) -> None:
            detector.advance(values[:batch], times, states)

        report.ceiling(f"detector alone, batch {batch:,}", batch * _times_a_second(step))
    with Redis.from_url(url) as client:
        keys = [f"ceiling:{n}" for n in range(BULK)]
        record = os.urandom(1310)
        before, began = cpu_s(redis_pid), time.perf_counter()

        def through() -> None:
            client.mget(keys)
            client.mset(dict.fromkeys(keys, record))

        rate = BULK * _times_a_second(through)
        count = rate * (time.perf_counter() - began)
        redis_us = (cpu_s(redis_pid) - before) / count * 1e6
        report.ceiling("Redis alone, MGET and MSET of 1,000 records", rate, redis_us)


def _times_a_second(work: Callable[[], None]) -> float:
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < 1:
        work()
        count += 1
    return count / (time.perf_counter() - began)


def stages(port: int) -> dict[str, float]:
    """Seconds the service has spent in each stage since its start, from its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    prefix = 'gatewatch_stage_seconds_sum{stage="'
    found = {
        line[len(prefix) :].partition('"')[0]: float(line.split()[-1]) for line in lines if line.startswith(prefix)
    }
    return {stage: found.get(stage, 0.0) for stage in STAGES}


def measure(
    report: Report, what: str, port: int, pids: tuple[int, int], sent: list[list[bytes]], size: int, seconds: float
) -> None:
    """Drive the service and add a row, with the time it spent by stage."""
    before = stages(port)
    load = drive(port, pids, "/v1/readings", sent, size, seconds)
    all_readings = load.readings + size * len(sent)
    spent = {stage: (after - before[stage]) / all_readings * 1e6 for stage, after in stages(port).items()}
    report.load(what, load, pids[0], " ".join(f"{stage} {us:.1f}" for stage, us in spent.items()))


def serve(
    report: Report,
    environment: dict[str, str],
    redis_pid: int,
    only: list[str],
    seconds: float,
    workers: int,
    name: str,
) -> None:
    """The real service under all its loads."""
    with server([*SERVE, "--workers", str(workers)], environment) as (port, pid):
        pids = (pid, redis_pid)
        for connections in (1, 4, 16) if "bulk" in only else ():
            rounds = max(40, int(80 * seconds / connections))
            sent = bodies(connections, rounds, BULK, seed=1000 * workers + 500 + connections)
            measure(report, f"{name}bulk, {connections} connections", port, pids, sent, BULK, seconds)
        for connections in (1, 32, 128) if "single" in only else ():
            sent = bodies(
                connections, max(60, int(12_000 * seconds / connections)), 1, seed=1000 * workers + connections
            )
            measure(report, f"{name}single, {connections} connections", port, pids, sent, 1, seconds)
        if "hot" in only:
            sent = one_stream_bodies(8, 100_000)
            measure(report, f"{name}one stream, 8 connections", port, pids, sent, 1, seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="a load's length")
    parser.add_argument("--only", default="naive,ceilings,bulk,single,hot,two,strict")
    options = parser.parse_args()
    only, seconds, report = options.only.split(","), options.seconds, Report()
    with tempfile.TemporaryDirectory() as scratch:
        folder = artefact(Path(scratch) / "artefact")
        for durability in ("fast", "strict") if "strict" in only else ("fast",):
            fsync = "always" if durability == "strict" else "everysec"
            with start_private_redis(Path(scratch) / durability, fsync) as private:  # type: ignore[arg-type]
                with Redis.from_url(private.url) as client:
                    redis_pid = int(client.info("server")["process_id"])
                environment = {
                    **QUIET,
                    "GATEWATCH_REDIS_URL": private.url,
                    "GATEWATCH_MODEL": str(folder),
                    "GATEWATCH_DURABILITY": durability,
                }
                if durability == "strict":
                    serve(report, environment, redis_pid, ["bulk"], seconds, 1, "strict, ")
                    continue
                if "ceilings" in only:
                    ceilings(report, folder, private.url, redis_pid)
                if "naive" in only:
                    with server(NAIVE, environment) as (port, pid):
                        for connections in (1, 32, 128):
                            sent = bodies(connections, max(60, int(2000 * seconds / connections)), 1, seed=1)
                            load = drive(port, (pid, redis_pid), "/v1/readings", sent, 1, seconds)
                            report.load(f"naive handler, {connections} connections", load, pid)
                        sent = bodies(32, int(400 * seconds), 1, seed=1)
                        load = drive(port, (pid, redis_pid), "/echo", sent, 1, seconds)
                        report.ceiling("FastAPI echo of one reading, 32 connections", load.rate)
                        load = drive(port, (pid, redis_pid), "/echo-many", bodies(4, 60, BULK, 1), BULK, seconds)
                        report.ceiling("FastAPI echo of 1,000 readings, 4 connections", load.rate)
                serve(report, environment, redis_pid, only, seconds, 1, "")
                if "two" in only:
                    serve(report, environment, redis_pid, only, seconds, 2, "2 processes, ")
    report.print()


if __name__ == "__main__":
    main()
