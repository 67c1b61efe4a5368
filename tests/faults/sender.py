"""Send readings with the client while the service and its Redis are killed: each is applied once, in its order.

    python -m tests.faults.sender --readings 1000000 --kills 20 --spool /tmp/spool

Both are killed at once, the service alone, or Redis alone, at a random moment after the service was ready again. At the
end each stream's count must be the number sent, and the rate is shown beside that of plain requests to the service
without kills.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import redis

from gatewatch.client import Client, Reading, Result
from gatewatch.client.readings import body_of

BEGAN = 1_700_000_000
BATCH = 1000
KILLED = ("both", "service", "Redis")
LONGEST_S = 6.0
"""Between the service being ready and the next kill, at most."""


@dataclass
class Sent:
    """What a run came to: readings sent and applied, statuses and repeats of their answers, kills, seconds."""

    readings: int
    applied: int
    answers: Counter[str]
    kills: int
    seconds: float

    @property
    def wrong(self) -> int:
        """Readings lost or applied twice, and those that got no answer as a reading."""
        scored = sum(self.answers[word] for word in ("warming_up", "normal", "anomalous", "late"))
        return abs(self.readings - self.applied) + abs(self.readings - scored)


class Victim:
    """A service with a private Redis, in a group of processes that dies as one and is begun again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWATCH_")}
        self._environment = kept | {
            "GATEWATCH_MODEL": "demo",
            "GATEWATCH_PORT": str(port),
            "GATEWATCH_DATA_DIR": str(folder),
        }
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "gatewatch", "serve"],
            env=self._environment,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, what: str) -> None:
        """Kill both, the service or Redis (one of KILLED) in the middle of whatever they do, and begin them again.

        A service whose Redis was killed starts that again itself; one that was killed alone finds its Redis running.
        """
        if what != "service":
            with redis.Redis(unix_socket_path=str(self._folder / "redis.sock")) as client:
                redis_pid = client.info("server")[
                    "process_id"
                ]  # of a session of its own, and perhaps of an earlier one
            os.kill(redis_pid, signal.SIGKILL)
        if what != "Redis":
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = self._start()

    def stop(self) -> None:
        """End both."""
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()


@contextmanager
def victim(folder: Path, port: int) -> Iterator[Victim]:
    """A service that is ready, and is ended at the end."""
    one = Victim(folder, port)
    try:
        await_ready(one.url)
        yield one
    finally:
        one.stop()


def await_ready(url: str) -> None:
    """Wait until the service is ready. Raises RuntimeError after a minute."""
    for _ in range(600):
        try:
            if httpx2.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service is not ready after a minute")


def readings(streams: int, count: int) -> Iterator[Reading]:
    """Readings of streams in turn."""
    for n in range(count):
        second, stream = divmod(n, streams)
        values = {"pressure": 4 + second % 7 / 10, "flow": 120 + second % 5, "temperature": 40.0, "current": 11.0}
        yield Reading(f"pump-{stream}", dict(values), BEGAN + second)


def run(folder: Path, port: int, count: int, streams: int, kills: int, spool: Path | None, seed: int) -> Sent:
    """Send `count` readings through `kills` kills at random moments."""
    chance, answers, killed = random.Random(seed), Counter[str](), 0
    sent_all = threading.Event()

    def tell(_: Reading, result: Result) -> None:
        answers.update([result.status, *(["replayed"] if result.replayed else [])])

    with victim(folder, port) as service:
        began = time.perf_counter()
        with Client(service.url, spool=spool, batch_readings=BATCH, on_result=tell) as client:

            def send() -> None:
                client.send_many(readings(streams, count))
                sent_all.set()

            threading.Thread(target=send, daemon=True).start()
            while killed < kills and (client.waiting or not sent_all.is_set()):
                await_ready(service.url)
                sent_all.wait(chance.uniform(0.1, LONGEST_S))
                service.kill(KILLED[killed % len(KILLED)])
                killed += 1
            sent_all.wait()
            client.flush(3600)
        seconds = time.perf_counter() - began
        await_ready(service.url)
        found = [httpx2.get(f"{service.url}/v1/streams/pump-{n}").json()["readings"] for n in range(streams)]
    return Sent(count, sum(found), answers, killed, seconds)


def plain(folder: Path, port: int, count: int, streams: int) -> float:
    """Readings a second of plain requests, one after the other, to a service that nobody kills."""
    with victim(folder, port) as service, httpx2.Client(base_url=service.url, timeout=60) as http:
        began, rest = time.perf_counter(), readings(streams, count)
        while part := list(itertools.islice(rest, BATCH)):
            http.post("/v1/readings", content=body_of(part)).raise_for_status()
        return count / (time.perf_counter() - began)


def main() -> None:
    """Run it and print what it came to; exit status 1 if a reading was lost or applied twice."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--readings", type=int, default=1_000_000)
    options.add_argument("--streams", type=int, default=1000)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--spool", type=Path, help="a file; without it readings wait in memory")
    options.add_argument("--port", type=int, default=8765)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        came_to = run(
            Path(folder, "a"), given.port, given.readings, given.streams, given.kills, given.spool, given.seed
        )
        print(
            f"{came_to.readings:,} readings, {came_to.kills} kills, {came_to.seconds:.0f} s "
            f"({came_to.readings / came_to.seconds:,.0f}/s): applied {came_to.applied:,}, wrong {came_to.wrong}; "
            f"{dict(came_to.answers)}"
        )
        few = min(given.readings, 100_000)
        undisturbed = run(
            Path(folder, "b"), given.port, few, given.streams, 0, given.spool and given.spool.with_suffix(".b"), 0
        )
        rate = few / undisturbed.seconds
        print(f"client {rate:,.0f}/s, plain requests {plain(Path(folder, 'c'), given.port, few, given.streams):,.0f}/s")
    sys.exit(came_to.wrong > 0)


if __name__ == "__main__":
    main()
