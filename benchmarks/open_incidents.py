"""What a reading costs while incidents are open on a part of the streams, beside another checkout in turn; CPU time.

    python -m benchmarks.open_incidents --before FOLDER --shares 0,0.01,0.1,1 --rounds 2

4,000 streams of eight channels, a 2 x 64 LSTM, one process. Of those in an incident every eighth reading is far off, so
that it stays open, or each (`--every 1`). Bulk: 1,000 readings a request on four connections; single: 128 connections.
The first 40 readings of each stream are not counted. A figure is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from redis import Redis

from benchmarks.load import artefact, drive, server
from gatewatch.service.storage.private_redis import start_private_redis

OPEN = "gatewatch_open_anomalies "
STREAMS, CHANNELS, SETTLED = 4000, 8, 40
CONNECTIONS = {"bulk": 4, "single": 128}
ROUNDS_OF_READINGS = {"bulk": 20, "single": 5}


def made(way: str, share: float, every: int, now: float) -> list[list[bytes]]:
    """The bodies of each connection: SETTLED readings of each stream, and those that are counted."""
    rng, connections = np.random.default_rng(0), CONNECTIONS[way]
    turns = SETTLED + ROUNDS_OF_READINGS[way]
    values = rng.normal(size=(turns, STREAMS, CHANNELS)).round(3)
    open_ = np.arange(STREAMS) < round(share * STREAMS)
    for turn in range(SETTLED - 2, turns):
        if (turn - SETTLED + 2) % every == 0:
            values[turn, open_, 0] += 1000.0
    order = rng.permutation(STREAMS)
    bodies = []
    for connection in range(connections):
        own, mine = order[connection::connections].tolist(), []
        for turn in range(turns):
            sent = [
                {
                    "stream": f"s{stream}",
                    "seq": turn,
                    "timestamp": now + turn,
                    "values": {f"c{at}": value for at, value in enumerate(values[turn, stream].tolist())},
                }
                for stream in own
            ]
            whole = way == "bulk" or turn < SETTLED
            mine += [orjson.dumps(sent)] if whole else [orjson.dumps(one) for one in sent]
        bodies.append(mine)
    return bodies


def measured(way: str, share: float, every: int, seconds: float) -> dict[str, Any]:
    """µs of CPU a reading of service and Redis, of this checkout; readings a second."""
    bodies = made(way, share, every, round(time.time()) - 600)
    with tempfile.TemporaryDirectory() as scratch:
        folder = artefact(Path(scratch) / "artefact")
        with start_private_redis(Path(scratch) / "redis") as private:
            redis_pid = int(Redis.from_url(private.url).info("server")["process_id"])
            environment = {
                "GATEWATCH_REDIS_URL": private.url, "GATEWATCH_MODEL": str(folder), "GATEWATCH_LOG_LEVEL": "error",
                "GATEWATCH_STORE_TIMEOUT_MS": "10000", "GATEWATCH_WAITING_MS": "60000",
            }  # fmt: skip
            with server([sys.executable, "-m", "gatewatch", "serve"], environment) as (port, pid):
                pids, size = (pid, redis_pid), STREAMS // CONNECTIONS[way]
                drive(port, pids, "/v1/readings", [own[:SETTLED] for own in bodies], size, 600.0)
                counted = [own[SETTLED:] for own in bodies]
                load = drive(port, pids, "/v1/readings", counted, size if way == "bulk" else 1, seconds)
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
                    (open_,) = [line for line in reply.read().decode().splitlines() if line.startswith(OPEN)]
    return {
        "service": load.cpu_us(0), "redis": load.cpu_us(1), "rate": load.rate, "readings": load.readings,
        "answers": dict(load.statuses), "open": float(open_.removeprefix(OPEN)),
    }  # fmt: skip


def elsewhere(folder: Path, *given: object) -> dict[str, Any]:
    """What `measured` says of a checkout."""
    path, arguments = str(Path(__file__).resolve()), ", ".join(map(repr, given))
    code = f"import json, runpy; print(json.dumps(runpy.run_path({path!r})['measured']({arguments})))"
    said = subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print a row for each share and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--shares", default="0,0.01,0.1,1")
    parser.add_argument("--ways", default="bulk,single")
    parser.add_argument("--every", type=int, default=8, help="of the readings of a stream in an incident, far off")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="a load's length")
    given = parser.parse_args()
    folders = [*([given.before] if given.before else []), Path.cwd()]
    columns = ("load", "in an incident", "µs of service, before and now", "ratio", "µs of Redis", "ratio", "open now")
    print(f"| {' | '.join((*columns, 'readings', 'answers'))} |\n{'|---' * (len(columns) + 2)}|", flush=True)
    for way in given.ways.split(","):
        for share in map(float, given.shares.split(",")):
            found: list[list[dict[str, Any]]] = [[] for _ in folders]
            for _ in range(given.rounds):
                for of, folder in zip(found, folders, strict=True):
                    of.append(elsewhere(folder, way, share, given.every, given.seconds))
            cells = []
            for what in ("service", "redis"):
                us = [statistics.median(one[what] for one in of) for of in found]
                cells += [", ".join(f"{one:.1f}" for one in us), f"{us[-1] / us[0]:.2f}"]
            readings = ", ".join(f"{sum(one['readings'] for one in of):,}" for of in found)
            answers = " ".join(str(one["answers"]) for of in found for one in of if set(one["answers"]) != {"200"})
            cells.append(f"{min(one['open'] for one in found[-1]):,.0f}")
            print(f"| {way} | {share:.0%} | {' | '.join(cells)} | {readings} | {answers or '200'} |", flush=True)


if __name__ == "__main__":
    main()
