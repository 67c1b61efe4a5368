"""Size and time of a scrape among many streams, with none, some and many of them in an incident.

    python -m benchmarks.scrape --streams 100000 --shares 0,0.01,0.1

One service on a Redis of its own, with as many names in /metrics as are the default. A scrape looks anew two seconds
after the last one. Beside it another client asks for `/livez` without a pause: its slowest answer is how long a scrape
keeps others waiting; CPU is that of the service's process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
from redis import Redis

from benchmarks.load import cpu_s, resident_mib, server
from gatewatch.service.http.scrape import FRESH_S
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.samples import make_artefact

NAMED = ("gatewatch_open_anomaly_", "gatewatch_open_group_")
COLUMNS = (
    "streams in an incident", "size", "series", "of them by name", "left out", "a scrape, median and longest, ms",
    "at once again, ms", "CPU of a scrape, ms", "longest wait of another request, ms",
)  # fmt: skip
BULK = 2000
CALM = 3


def bodies(names: list[str], seq: int, pressure: float, now: float) -> Iterator[bytes]:
    """Requests with one reading of each stream."""
    for start in range(0, len(names), BULK):
        yield b"".join(
            json.dumps(
                {
                    "stream": name,
                    "seq": seq,
                    "timestamp": now + seq,
                    "values": {"pressure": pressure, "flow": 3.0 + seq},
                }
            ).encode()
            + b"\n"
            for name in names[start : start + BULK]
        )


def send(client: httpx2.Client, names: list[str], seq: int, pressure: float, now: float) -> None:
    """Post one reading of each stream."""
    for body in bodies(names, seq, pressure, now):
        reply = client.post("/v1/readings", content=body, headers={"content-type": "application/x-ndjson"})
        reply.raise_for_status()
        assert b'"rejected"' not in reply.content, reply.text[:300]


def slowest_other(port: int, done: threading.Event, found: list[float]) -> None:
    """Ask for /livez until done; the time of each answer, s."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        while not done.is_set():
            began = time.monotonic()
            client.get("/livez")
            found.append(time.monotonic() - began)
            time.sleep(0.002)


def scrapes(port: int, pid: int, times: int) -> str:
    """What so many scrapes came to."""
    seconds, cpu, fresh, text = [], [], [], ""
    done, others = threading.Event(), list[float]()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(times):
            time.sleep(FRESH_S + 0.2)
            done.clear()
            thread = threading.Thread(target=slowest_other, args=(port, done, others))
            before, began = cpu_s(pid), time.monotonic()
            text = client.get("/metrics").text
            seconds.append(time.monotonic() - began)
            cpu.append(cpu_s(pid) - before)
            began = time.monotonic()
            client.get("/metrics")
            fresh.append(time.monotonic() - began)
            time.sleep(FRESH_S + 0.2)
            thread.start()
            time.sleep(0.1)
            client.get("/metrics")
            done.set()
            thread.join()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    named = [line for line in lines if line.startswith(NAMED)]
    of = {line.partition(" ")[0]: float(line.partition(" ")[2]) for line in lines if "{" not in line}
    return (
        f"{len(text):,} bytes | {len(lines)} | {len(named)} | {of['gatewatch_open_anomalies_left_out']:,.0f} | "
        f"{1e3 * float(np.median(seconds)):.0f}, {1e3 * max(seconds):.0f} | {1e3 * float(np.median(fresh)):.0f} | "
        f"{1e3 * float(np.mean(cpu)):.0f} | {1e3 * max(others):.0f}"
    )


def main() -> None:
    """Print a row for each share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--shares", default="0,0.01,0.1", help="of the streams, in an incident")
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    names = [f"stream-{number:06d}" for number in range(given.streams)]
    with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
        artefact = make_artefact(Path(scratch) / "model", warm_up=1)
        environment = {
            "GATEWATCH_REDIS_URL": private.url, "GATEWATCH_MODEL": str(artefact), "GATEWATCH_LOG_LEVEL": "error",
            "GATEWATCH_HISTORY_READINGS": "32", "GATEWATCH_STORE_TIMEOUT_MS": "20000", "GATEWATCH_WAITING_MS": "60000",
            "GATEWATCH_INCIDENTS": "1000000",
        }  # fmt: skip
        with (
            server([sys.executable, "-m", "gatewatch", "serve"], environment) as (port, pid),
            httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
        ):
            now, began = time.time() - 3600, time.monotonic()
            for seq in range(CALM):
                send(client, names, seq, 3.0, now)
            print(f"{given.streams:,} streams of {CALM} readings in {time.monotonic() - began:.0f} s")
            print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
            open_ = 0
            for share in map(float, given.shares.split(",")):
                wanted = round(share * given.streams)
                send(client, names[open_:wanted], CALM, 900.0, now)
                open_ = wanted
                print(f"| {open_:,} | {scrapes(port, pid, given.times)} |", flush=True)
            memory = Redis.from_url(private.url).info("memory")["used_memory"] / 2**20
            print(f"service {resident_mib(pid):.0f} MiB, Redis {memory:,.0f} MiB")


if __name__ == "__main__":
    main()
