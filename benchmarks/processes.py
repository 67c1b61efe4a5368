"""One process beside two on the same cores: readings a second, and CPU time a reading, by wrk in turn.

    python -m benchmarks.processes [--processes 1,2] [--rounds 5] [--seconds 3] [--models general,demo] [--mixed]
                                   [--before FOLDER]

Readings of a simulated pump station, single ones over 32 and 128 connections and 400 at once over 4. Each connection
has streams of its own; with `--mixed` a stream's readings come over any connection, and so to any process. All services
run beside each other, each with a Redis of its own, and are loaded one after the other, round by round: on a machine
that others use, only what was measured in turn can be compared. Medians of the rounds, and the median of their ratios.
`--before` names a checkout of another version, measured beside. wrk, services and Redis share the machine's cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import PATIENT, START, cpu_s, server
from benchmarks.replicas import counted
from gatewatch.service.demo.station import DAY_MINUTES, RECORDINGS_START_MS, simulate
from gatewatch.service.storage.private_redis import start_private_redis

STREAMS: Final = 4000
LOADS: Final = {"32 single": (32, 1), "128 single": (128, 1), "400 at once": (4, 400)}

SCRIPT: Final = """
local threads = {}
function setup(thread)
  thread:set("id", #threads)
  thread:set("n", tonumber(BEGIN))
  threads[#threads + 1] = thread
end
function request()
  local parts = {}
  for at = 1, BULK do
    local seq = math.floor(n / STREAMS)
    parts[at] = string.format('{"stream":"LOAD-%d-%d","seq":%d,"timestamp":%d,"values":%s}',
      id, n % STREAMS, seq, START + 60 * seq, rows[(n % STREAMS * 37 + seq) % #rows + 1])
    n = n + 1
  end
  local body = BULK == 1 and parts[1] or "[" .. table.concat(parts, ",") .. "]"
  return wrk.format("POST", "/v1/readings", {["content-type"] = "application/json"}, body)
end
function done(summary, latency)
  local most = 0
  for _, thread in ipairs(threads) do most = math.max(most, thread:get("n")) end
  print(string.format("CAME %d %d %d %d %d", summary.requests, summary.errors.status, latency:percentile(50),
    latency:percentile(99), most))
end
"""


@dataclass
class Served:
    """A service, its Redis, and what came of its loads.

    Attributes:
        next: by load, how many readings each sender has made.
        rounds: by load, of each round: readings a second, µs of CPU of service and Redis, readings a batch, share of
            batches repeated, p50 and p99 in ms.
        refused: answers that were no 200.
    """

    what: str
    port: int
    pids: tuple[int, int]
    next: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    refused: int = 0

    def count(self) -> tuple[float, float, float]:
        """Loads, batches and readings of all processes so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as reply:
            return counted([reply.read().decode()])

    def load(self, name: str, rows: list[str], seconds: int, mixed: bool, folder: Path, counts: bool) -> None:
        """Load it for some seconds."""
        connections, bulk = LOADS[name]
        threads = 1 if mixed else connections
        begin = -(-self.next.get(name, 0) // bulk) * bulk
        values = {
            "BULK": bulk, "STREAMS": max(bulk, STREAMS // threads), "START": START, "BEGIN": begin,
            "LOAD": name.replace(" ", "-"),
        }  # fmt: skip
        script = "local rows = {" + ",".join(f"'{row}'" for row in rows) + "}\n" + SCRIPT
        for word, value in values.items():
            script = re.sub(rf"\b{word}\b", str(value), script)
        path = folder / "load.lua"
        path.write_text(script)
        before, cpu = self.count(), [cpu_s(pid) for pid in self.pids]
        command = ["wrk", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s", "--timeout", "30s"]
        said = subprocess.check_output([*command, "-s", str(path), f"http://127.0.0.1:{self.port}"], text=True)
        spent = [cpu_s(pid) - then for pid, then in zip(self.pids, cpu, strict=True)]
        loads, batches, readings = (now - then for now, then in zip(self.count(), before, strict=True))
        _, refused, p50, p99, most = map(int, said.partition("CAME ")[2].split()[:5])
        self.next[name] = most
        self.refused += refused
        if counts:
            took = [readings / seconds, *(1e6 * one / readings for one in spent), readings / batches]
            self.rounds.setdefault(name, []).append([*took, loads / batches - 1, p50 / 1000, p99 / 1000])


def station_rows() -> list[str]:
    """Two days of normal readings of one pump, as JSON."""
    recording = simulate(RECORDINGS_START_MS, 2 * DAY_MINUTES, seed=5)[0]
    numbers = [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in recording.values]
    return [json.dumps(dict(zip(recording.channels, row, strict=True))) for row in numbers]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--models", default="general,demo")
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each load")
    parser.add_argument("--before", type=Path, help="a checkout of another version")
    parser.add_argument("--mixed", action="store_true", help="a stream's readings come over any connection")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("needs wrk")
    rows = station_rows()
    columns = ("model", "load", "processes", "readings/s", "of the first", "service µs", "Redis µs",
               "both, of the first", "a batch", "repeated", "p50 / p99 ms", "refused")  # fmt: skip
    table = Table(*columns)
    for model in options.models.split(","):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            services: list[Served] = []
            folders = {"before, ": options.before, "": Path.cwd()}
            for version, count in itertools.product(folders, options.processes.split(",")):
                if folders[version] is None:
                    continue
                private = stack.enter_context(start_private_redis(folder / f"redis-{len(services)}"))
                with Redis.from_url(private.url) as client:
                    redis_pid = int(client.info("server")["process_id"])
                environment = {**PATIENT, "GATEWATCH_MODEL": model, "GATEWATCH_REDIS_URL": private.url}
                here = ["env", "-C", str(folders[version]), sys.executable, "-m", "gatewatch", "serve"]
                command = [*here, "--workers", count]
                port, pid = stack.enter_context(server(command, environment))
                services.append(Served(version + count, port, (pid, redis_pid)))
            for name in options.loads.split(","):
                for turn in range(-1, options.rounds):
                    for one in services[:: -1 if turn % 2 else 1]:
                        one.load(name, rows, options.seconds, options.mixed, folder, counts=turn >= 0)
                first = np.array(services[0].rounds[name])
                for one in services:
                    own = np.array(one.rounds[name])
                    rate, service, redis, size, again, p50, p99 = np.median(own, axis=0)
                    of_one = [np.median(own[:, 0] / first[:, 0]), np.median(own[:, 1:3].sum(1) / first[:, 1:3].sum(1))]
                    row = [f"{rate:,.0f}", f"{of_one[0]:.2f}", f"{service:.1f}", f"{redis:.1f}", f"{of_one[1]:.2f}",
                           f"{size:.1f}", f"{again:.0%}", f"{p50:.1f} / {p99:.1f}", str(one.refused)]  # fmt: skip
                    table.add_row(model, name, one.what, *row)
                    print(model, name, one.what, *row, sep=" | ", flush=True)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
