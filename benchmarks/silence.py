"""How silent streams are found among many: how many, how often, how late, and what it costs.

    python -m benchmarks.silence --streams 100000 --every 6

Streams are written into a Redis of their own, as if they had sent for a while. Most go on: a process counts their
records up. One in a hundred stops. Three processes look, and one of them is killed when half are found. They are what
looks in a service, and nothing else; with `--serve` they are whole services, and what is told are the lines of their
logs. Redis keeps no append-only file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
import zlib
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import redis
import structlog

from gatewatch.models.artefact.files import load_artefact, model_folder
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.clock import SystemClock
from gatewatch.service.core import records as state
from gatewatch.service.core.bookkeeping import Alert, Bookkeeping
from gatewatch.service.core.layout import layout_of
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.lookout import Lookout
from gatewatch.service.incidents.silence import Watch
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.keys import Keys, identity, tag_of
from gatewatch.service.storage.private_redis import start_private_redis
from gatewatch.service.storage.silence_store import SilenceStore
from gatewatch.service.storage.store import StateStore
from tests.support.replicas import Replica
from tests.support.scorer import NothingAsked

TENANT: Final = "bench"
K: Final = 10.0
PROCESSES: Final = 3
KEPT: Final = 64
AT_ONCE: Final = 1000


class Streams:
    """Their records, made of one."""

    def __init__(self, count: int, every_ms: int) -> None:
        self.count, self.every_ms = count, every_ms
        self.keys = Keys(TENANT, 64)
        detector = TrainedDetector(load_artefact(model_folder("demo")))
        model = ServedModel(detector, ReadingDecoder(detector.channels, 0, 10), KEPT)
        self.stepper, self.layout = model.stepper, layout_of(detector.channels, detector.channels)
        (packed,) = state.pack(self.stepper.fresh(1), [self.layout], [0])
        self._body = bytearray(packed[:-4])
        fields: Any = state.STREAM_PART.fields
        self._readings, self._last = fields["readings"][1], fields["last_ms"][1]

    def stream(self, at: int) -> StreamKey:
        return StreamKey(TENANT, f"stream-{at:07d}")

    def record(self, seed: int, readings: int, last_ms: int) -> bytes:
        body = self._body
        body[self._readings : self._readings + 8] = readings.to_bytes(8, "little")
        body[self._last : self._last + 8] = last_ms.to_bytes(8, "little")
        return bytes(body) + zlib.crc32(body, seed).to_bytes(4, "little")

    def ring(self, last_ms: int) -> bytes:
        """The times of the last readings, which is all of a history that is asked."""
        entries = np.zeros(KEPT, self.layout.entry)
        entries["n"] = np.arange(1000 - KEPT, 1000)
        entries["timestamp_ms"] = last_ms - self.every_ms * np.arange(KEPT)[::-1]
        return self.layout.ring_header + entries.tobytes()


def write(url: str, streams: Streams, stopping: set[int], now_ms: int) -> None:
    """All streams, as if they had sent 1,000 readings, the last of them at some time within their interval."""
    with redis.Redis.from_url(url) as database:
        allowed_ms = max(K * streams.every_ms, 60_000)
        for start in range(0, streams.count, AT_ONCE):
            pipe = database.pipeline(False)
            for at in range(start, min(start + AT_ONCE, streams.count)):
                stream = streams.stream(at)
                key, name = streams.keys[stream], identity(stream)
                last_ms = now_ms - at * 7919 % streams.every_ms
                looked_ms = round(now_ms - allowed_ms * (at * 104_729 % 1000) / 1000)
                before = 1000 - max(0, (last_ms - looked_ms) // streams.every_ms)
                watch = Watch(before, looked_ms, looked_ms, looked_ms, streams.every_ms, streams.every_ms / 2, 0.0, 9)
                pipe.set(key.record, streams.record(key.seed, 1000, last_ms))
                pipe.zadd(streams.keys.due(tag_of(key.record)), {name: looked_ms + allowed_ms})
                pipe.hset(streams.keys.watched(tag_of(key.record)), name, watch.encode())
                if at in stopping:
                    pipe.set(key.history, streams.ring(last_ms))
            pipe.execute()


def go_on(url: str, streams: Streams, stopping: set[int], now_ms: int) -> None:
    """Count the records of the others up, for ever: each once in half of what a stream may be silent for."""
    pass_s = max(K * streams.every_ms, 60_000) / 2000
    with redis.Redis.from_url(url) as database:
        while True:
            began = time.time()
            for start in range(0, streams.count, AT_ONCE):
                pipe, moment = database.pipeline(False), time.time() * 1000
                readings = 1000 + round((moment - now_ms) / streams.every_ms)
                for at in range(start, min(start + AT_ONCE, streams.count)):
                    if at not in stopping:
                        key = streams.keys[streams.stream(at)]
                        pipe.set(key.record, streams.record(key.seed, readings, round(moment)))
                pipe.execute()
                time.sleep(max(0.0, began + pass_s * start / streams.count - time.time()))


def look(url: str, told: str, most_open: int) -> None:
    """One process that looks; each stream that it tells of is a line in a file."""

    async def run() -> None:
        store, metrics, clock = StateStore(url, TENANT, 10_000), Metrics(), SystemClock()
        books = Bookkeeping(metrics, store, clock)
        tell, out = books.tell, os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def noted(alert: bytes) -> None:
            known = msgspec.msgpack.decode(alert, type=Alert)
            os.write(out, f"{known.stream} {time.time():.3f}\n".encode())
            tell(alert)

        books.tell = noted  # type: ignore[method-assign]
        asked = NothingAsked()
        groups = Groups(GroupStore(store, 86_400_000), asked, None, 60_000)
        telling = asyncio.create_task(books.run())
        await Lookout(store, SilenceStore(store), groups, asked, books, clock, K, most_open).run()
        await telling

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    asyncio.run(run())


class Looking:
    """A process that looks by itself, see `look`."""

    def __init__(self, url: str, told: Path, most_open: int) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=look, args=(url, str(told), most_open))
        self._process.start()
        self._told = told

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid or 0

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()

    def told(self) -> list[tuple[str, float]]:
        """The streams that it told of, and when, Unix time."""
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        return [(name, float(at)) for name, at in map(str.split, lines)]


class Serving:
    """A service that looks."""

    def __init__(self, url: str, told: Path, most_open: int) -> None:
        settings = {
            "GATEWATCH_REDIS_URL": url, "GATEWATCH_MODEL": "demo", "GATEWATCH_TENANT": TENANT,
            "GATEWATCH_INCIDENTS": str(most_open), "GATEWATCH_STORE_TIMEOUT_MS": "10000",
            "GATEWATCH_SILENT_AFTER": str(K),
        }  # fmt: skip
        self._replica = Replica(settings, log=told)
        self._told = told
        self._replica.await_listening(300)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._replica.pid

    def kill(self) -> None:
        """End it at once."""
        self._replica.end(signal.SIGKILL)

    def told(self) -> list[tuple[str, float]]:
        """The streams that it told of, and when, Unix time."""
        lines = [line for line in self._told.read_text().splitlines() if '"stream fell silent"' in line]
        return [(one["stream"], datetime.fromisoformat(one["timestamp"]).timestamp()) for one in map(json.loads, lines)]


def cpu_s(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=6.0, help="seconds between the readings of a stream")
    parser.add_argument("--serve", action="store_true", help="whole services look")
    given = parser.parse_args()
    streams = Streams(given.streams, round(given.every * 1000))
    stopping = set(random.Random(1).sample(range(given.streams), given.streams // 100))
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
        database = redis.Redis.from_url(private.url)
        database.config_set("appendonly", "no")
        before = database.info("memory")["used_memory"]
        now_ms = round(time.time() * 1000)
        write(private.url, streams, stopping, now_ms)
        used_memory = database.info("memory")["used_memory"]
        print(
            f"{given.streams:,} streams written in {time.time() - now_ms / 1000:.0f} s, "
            f"{(used_memory - before) / given.streams:,.0f} bytes each, {used_memory / 2**20:,.0f} MiB in all",
            flush=True,
        )
        now_ms = round(time.time() * 1000)
        sender = context.Process(target=go_on, args=(private.url, streams, stopping, now_ms))
        sender.start()
        kind = Serving if given.serve else Looking
        looking = [kind(private.url, Path(scratch) / f"told-{at}", 100_000) for at in range(PROCESSES)]
        try:
            idle, used = [cpu_s(one.pid) for one in looking], [0.0] * PROCESSES
            killed = False
            began, redis_began = time.time(), database.info("cpu")
            patience_s, found = max(K * given.every, 60.0), 0
            quiet_since = time.time() + patience_s
            while time.time() - quiet_since < patience_s and time.time() - began < 6 * patience_s:
                time.sleep(2)
                now = sum(len(one.told()) for one in looking)
                if now > found:
                    found, quiet_since = now, time.time()
                for at, one in enumerate(looking):
                    if at or not killed:
                        used[at] = cpu_s(one.pid) - idle[at]
                if found > len(stopping) / 2 and not killed:
                    killed = True
                    looking[0].kill()
                    print(f"killed one of {PROCESSES} after {found:,} were found", flush=True)
            took_s, redis_ended = time.time() - began, database.info("cpu")
            lines = [line for one in looking for line in one.told()]
            highest = database.info("memory")["used_memory_peak"] / 2**20
        finally:
            sender.kill()
            sender.join()
            for at, one in enumerate(looking):
                if at or not killed:
                    one.kill()
        times = Counter(name for name, _ in lines)
        expected = {streams.stream(at).name for at in stopping}
        late = sorted(at - now_ms / 1000 for _, at in lines)
        kept = [id_ for sets in streams.keys.sets for id_ in database.zrange(sets.silent, 0, -1)]
        redis_s = sum(redis_ended[f"used_cpu_{kind}"] - redis_began[f"used_cpu_{kind}"] for kind in ("sys", "user"))
        print(
            f"stopped {len(expected):,}: found {len(expected & set(times)):,}, others {len(set(times) - expected):,}; "
            f"incidents {len(kept):,}, of them twice {len(kept) - len(set(kept)):,}; "
            f"told twice {sum(count > 1 for count in times.values()):,}"
        )
        print(
            f"found after the stop: first {late[0]:.0f} s, median {late[len(late) // 2]:.0f} s, last {late[-1]:.0f} s; "
            f"a stream's patience is {patience_s:.0f} s"
        )
        print(
            f"in {took_s:.0f} s: CPU of the processes that look {100 * sum(used) / took_s:.1f} % of a core; "
            f"Redis, with the sender's writes, {100 * redis_s / took_s:.1f} %, at most {highest:,.0f} MiB"
        )


if __name__ == "__main__":
    main()
