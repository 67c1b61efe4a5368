"""What a dead Redis and a power cut cost: readings that were answered and are gone, for `strict` and for `fast`.

    python -m tests.faults.durability --times 10

Senders post to a service; in the middle Redis is killed (kill -9) or the power fails: Redis is killed and its
append-only file is cut at the end of the last fdatasync that had finished, which a library preloaded into it notes
(needs a C compiler). Then Redis starts again on what is left, and the senders, who see in the stream's description
where it stands, send again from there. In the end each stream must be that of a sequential replay.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from redis import Redis

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.storage.private_redis import PrivateRedis, start_private_redis
from tests.faults.concurrency import _get, check, reading
from tests.faults.load import post, services

STREAMS, SENDERS = 40, 8
FSYNC: dict[str, Literal["always", "everysec"]] = {"strict": "always", "fast": "everysec"}


@dataclass
class Loss:
    """What one end of Redis cost.

    Attributes:
        answered: readings answered before it.
        lost: of them, those that Redis did not have afterwards.
        window_ms: from the answer to the first lost one to the end.
    """

    answered: int = 0
    lost: int = 0
    window_ms: float = 0.0
    wrong: list[str] = field(default_factory=list)


def compile_note(folder: Path) -> Path:
    """The library that notes what is on disk."""
    library = folder / "synced.so"
    source = Path(__file__).with_name("synced.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def start(data: Path, durability: str, library: Path | None) -> PrivateRedis:
    """A private Redis, with the library in it."""
    if library is not None:
        os.environ["LD_PRELOAD"] = str(library)
    try:
        return start_private_redis(data, FSYNC[durability])
    finally:
        os.environ.pop("LD_PRELOAD", None)


def cut_power(data: Path) -> None:
    """Take from the append-only files what no fdatasync had covered."""
    for note in (data / "appendonlydir").glob("*.synced"):
        file = note.with_suffix("")
        if file.exists():
            os.truncate(file, min(int(note.read_text()), file.stat().st_size))


async def trial(artefact: Path, durability: str, library: Path | None, after_s: float, seed: int) -> Loss:
    """One end, by power cut if there is a library, else by kill -9."""
    loss = Loss()
    names = [f"s{row}" for row in range(STREAMS)]
    table = np.random.default_rng(seed).normal(3, 1, (STREAMS, 2000, 2)).astype(np.float32)
    scores = np.full(table.shape[:2], np.nan)
    answered_at = np.zeros(table.shape[:2])
    with tempfile.TemporaryDirectory(prefix="gatewatch-durability-") as scratch:
        data = Path(scratch) / "redis"
        private = start(data, durability, library)
        with services(artefact, private.url, 1) as (port,):
            stop = asyncio.Event()
            done = np.zeros(STREAMS, np.intp)

            async def send(rows: list[int], until: np.ndarray[Any, Any] | None) -> None:
                while not stop.is_set() and (until is None or (done[rows] < until[rows]).any()):
                    due = [row for row in rows if until is None or done[row] < until[row]]
                    status, results = await post(
                        port, [reading(names[r], int(done[r]), table[r, done[r]]) for r in due]
                    )
                    if status != 200:
                        await asyncio.sleep(0.02)
                        continue
                    for row, result in zip(due, results, strict=True):
                        answered_at[row, done[row]] = time.monotonic()
                        scores[row, done[row]] = result["score"]
                        done[row] += 1

            groups = [list(range(start, STREAMS, SENDERS)) for start in range(SENDERS)]
            jobs = [asyncio.create_task(send(rows, None)) for rows in groups]
            await asyncio.sleep(after_s)
            with Redis.from_url(private.url) as client:
                pid = int(client.info("server")["process_id"])
            os.kill(pid, signal.SIGKILL)
            ended = time.monotonic()
            stop.set()
            await asyncio.gather(*jobs)
            answered = done.copy()
            await asyncio.to_thread(private.stop)
            if library is not None:
                cut_power(data)
            private = await asyncio.to_thread(start, data, durability, library)
            stood = np.array([await _stands(port, name) for name in names])
            loss.answered, loss.lost = int(answered.sum()), int(np.maximum(answered - stood, 0).sum())
            first = [answered_at[row, stood[row]] for row in range(STREAMS) if stood[row] < answered[row]]
            loss.window_ms = 1000 * (ended - min(first)) if first else 0.0
            done[:] = np.minimum(stood, answered)
            stop.clear()
            target = np.full(STREAMS, int(answered.max()) + 5)
            await asyncio.gather(*(send(rows, target) for rows in groups))
            found = [await _get(port, f"/v1/streams/{name}") for name in names]
            upto = int(target[0])
            loss.wrong = check(names, table[:, :upto], scores[:, :upto], found, TrainedDetector.load(artefact))
        await asyncio.to_thread(private.stop)
    return loss


async def _stands(port: int, name: str) -> int:
    """How many readings of a stream the service knows, once it answers."""
    for _ in range(200):
        known = await _get(port, f"/v1/streams/{name}")
        if "readings" in known:
            return int(known["readings"])
        if known.get("status") == 404:
            return 0
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{name}: {known}")


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from tests.support.samples import make_artefact

    rng = np.random.default_rng(options.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        artefact, library = make_artefact(Path(scratch) / "tiny"), compile_note(Path(scratch))
        for durability in FSYNC:
            for end in ("kill -9", "power cut"):
                losses = [
                    asyncio.run(
                        trial(artefact, durability, library if end == "power cut" else None, rng.uniform(1.0, 3.0), n)
                    )
                    for n in range(options.times)
                ]
                wrong += [text for loss in losses for text in loss.wrong]
                print(
                    f"{durability}, {end}: {len(losses)} times, {sum(loss.answered for loss in losses)} answered, "
                    f"{sum(loss.lost for loss in losses)} lost, window at most "
                    f"{max(loss.window_ms for loss in losses):.0f} ms",
                    flush=True,
                )
    print(f"wrong after sending again: {len(wrong)}", *wrong[:20], sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
