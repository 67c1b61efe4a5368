"""A service that dies, stops or is told to stop at a named point of its work, and what becomes of the readings.

    python -m tests.faults.failpoints --times 100

For each point and each way, a service is forked that meets its end there; the readings it was sent are sent again to
another one. In the end each stream must hold exactly its readings, with the scores of the detector alone. A service
that was stopped (SIGSTOP) comes back when the other has moved on: what it then saves must not count.
"""

from __future__ import annotations

import argparse
import http.client
import inspect
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from redis import Redis

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.http.ingest import Ingest
from gatewatch.service.settings import Settings
from gatewatch.service.storage.keys import BUCKETS, Keys
from gatewatch.service.storage.private_redis import start_private_redis
from gatewatch.service.storage.unit_of_work import UnitOfWork
from tests.faults.concurrency import check, reading

POINTS: dict[str, tuple[type, str, bool]] = {
    "after_load": (UnitOfWork, "load", True),
    "in_rebuild": (Loader, "_recover", True),
    "after_step": (Scorer, "_apply", True),
    "before_save": (UnitOfWork, "send", False),
    "after_send": (UnitOfWork, "send", True),
    "after_save": (UnitOfWork, "saved", True),
    "before_reply": (Ingest, "reply", False),
}
"""Name to class, method, and whether the point lies behind it."""

WAYS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
}
STREAMS, READINGS = 2, 10
PATIENCE_S = 0.5


def arm(point: str, way: str, hits: int) -> None:
    """Let this process meet `way` when it comes by `point` for the `hits`th time."""
    owner, name, behind = POINTS[point]
    method = getattr(owner, name)
    left = hits

    def come_by() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            WAYS[way]()

    def at_once(*arguments: Any) -> Any:
        come_by()
        return method(*arguments)

    async def wrapped(*arguments: Any) -> Any:
        if not behind:
            come_by()
        result = await method(*arguments)
        if behind:
            come_by()
        return result

    setattr(owner, name, wrapped if inspect.iscoroutinefunction(method) else at_once)


@contextmanager
def service(settings: Settings, path: Path, prepare: Callable[[], None] = lambda: None) -> Iterator[int]:
    """A service in a forked process, on a unix socket, ready; its pid."""
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            prepare()
            uvicorn.run(create_app(settings), uds=str(path), log_level="critical", lifespan="on")
        os._exit(0)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                if path.exists() and probe.connect_ex(str(path)) == 0:
                    break
            time.sleep(0.01)
        yield pid
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


class Sender(http.client.HTTPConnection):
    """A connection to a service's unix socket."""

    def __init__(self, path: Path, patience_s: float = 30) -> None:
        super().__init__("localhost", timeout=patience_s)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def post(self, readings: list[dict[str, Any]]) -> None:
        """Send; `answers` reads."""
        self.request("POST", "/v1/readings", json.dumps(readings))

    def answers(self) -> list[dict[str, Any]]:
        """The results, or OSError or HTTPException."""
        reply = self.getresponse()
        content = json.loads(reply.read())
        if reply.status != 200:
            raise ConnectionError(f"{reply.status}: {content}")
        return list(content)


def trial(
    detector: TrainedDetector, settings: Settings, plain: Path, folder: Path, point: str, way: str, number: int
) -> list[str]:
    """One end at one point; what is wrong."""
    rng = random.Random(f"{point} {way} {number}")
    names = [f"{point}-{way}-{number}-{row}" for row in range(STREAMS)]
    table = np.random.default_rng(number).normal(3, 1, (STREAMS, READINGS, 2)).astype(np.float32)
    scores = np.full((STREAMS, READINGS), np.nan)
    wrong: list[str] = []

    def note(seq: int, results: list[dict[str, Any]]) -> None:
        for row, result in enumerate(results):
            if not np.isnan(scores[row, seq]) and scores[row, seq] != result["score"]:
                wrong.append(f"{names[row]} {seq}: two answers, {scores[row, seq]} and {result}")
            scores[row, seq] = np.nan if result["score"] is None else result["score"]

    hits = rng.randint(1, 2) if point == "in_rebuild" else rng.randint(1, READINGS)
    path = folder / f"{point}-{way}-{number}"
    met = False
    with service(settings, path, lambda: arm(point, way, hits)) as pid:
        doomed, other = Sender(path, PATIENCE_S), Sender(plain)
        for seq in range(READINGS):
            sent = [reading(name, seq, table[row, seq]) for row, name in enumerate(names)]
            if point == "in_rebuild" and seq == 5:
                _damage(settings, names)
            if not met:
                try:
                    doomed.post(sent)
                    note(seq, doomed.answers())
                    continue
                except (OSError, http.client.HTTPException):
                    met, unanswered = True, (seq, sent)
            other.post(sent)
            note(seq, other.answers())
        if met and way == "stop":  # it comes back with old states in its hands, and must answer as the other one did
            os.kill(pid, signal.SIGCONT)
            seq, sent = unanswered
            late = Sender(path)
            late.post(sent)
            note(seq, late.answers())
            late.close()
        doomed.close()
        found = []
        for name in names:
            other.request("GET", f"/v1/streams/{name}")
            reply = other.getresponse()
            found.append(json.loads(reply.read()))
            assert reply.status == 200, found[-1]
        other.close()
        if way != "terminate" and not met:
            wrong.append(f"{names}: never came by")
    return wrong + check(names, table, scores, found, detector)


def _damage(settings: Settings, names: list[str]) -> None:
    keys = Keys(settings.tenant, BUCKETS)
    with Redis.from_url(str(settings.redis_url)) as client:
        for name in names:
            client.setrange(keys[StreamKey(settings.tenant, name)].record, 60, b"\xff\xff\xff")


def run(artefact: Path, times: int, points: list[str]) -> tuple[Counter[str], list[str]]:
    """Each point and way so many times; trials by point and way, and what is wrong."""
    done: Counter[str] = Counter()
    wrong: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="gatewatch-failpoints-") as scratch,
        start_private_redis(Path(scratch) / "redis") as private,
    ):
        settings = Settings(model=str(artefact), redis_url=private.url, log_level="error", store_timeout_ms=10_000)
        plain = Path(scratch) / "plain"
        with service(settings, plain):
            detector = TrainedDetector.load(artefact)
            for number in range(times):
                for point in points:
                    for way in WAYS:
                        wrong += trial(detector, settings, plain, Path(scratch), point, way, number)
                        done[f"{point} {way}"] += 1
    return done, wrong


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--points", nargs="*", default=list(POINTS))
    options = parser.parse_args()
    from tests.support.samples import make_artefact

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        done, wrong = run(make_artefact(Path(scratch) / "tiny"), options.times, options.points)
    print(f"{time.monotonic() - began:.0f} s; {done.total()} trials: {dict(done)}")
    print(f"wrong: {len(wrong)}", *wrong[:20], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
