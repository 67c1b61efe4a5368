"""Promotions and rollbacks under load: nothing fails, nothing goes unscored, nothing goes back.

    python -m tests.faults.swaps --swaps 200 --processes 4

Several services share one Redis and one repository. Senders post readings of all streams to all of them, while versions
are promoted and rolled back, by HTTP and in the repository. In the end each stream's state must be that of a replay of
its history by the last version.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.private_redis import start_private_redis
from tests.faults.load import ANSWERED, services
from tests.support.samples import make_artefact

HISTORY = 4096
"""Readings: all of a run, so that a replay of the history is one from the start."""

TOGETHER = 4
"""Readings of each stream in a request."""


@dataclass
class Load:
    """What the senders saw.

    Attributes:
        models: stream to the model of each of its answers, in order.
        seconds: of each request.
        before: how many of them began before the first swap.
        wrong: what must not be.
    """

    models: dict[str, list[str]]
    seconds: list[float] = field(default_factory=list)
    before: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def send(
    streams: Sequence[str], ports: Sequence[int], seed: int, load: Load, done: threading.Event, every_s: float
) -> None:
    """Post readings of some streams every so often, to one service after the other, until done."""
    rng, seq = np.random.default_rng(seed), 0
    with httpx2.Client(timeout=60) as client:
        while not done.is_set():
            time.sleep(every_s)
            values = rng.normal(3, 1, (len(streams), TOGETHER, 2)).tolist()
            sent = [
                {
                    "stream": stream,
                    "seq": seq + at,
                    "timestamp": 1_700_000_000 + 60 * (seq + at),
                    "values": dict(zip(("pressure", "flow"), values[row][at], strict=True)),
                }
                for at in range(TOGETHER)
                for row, stream in enumerate(streams)
            ]
            began = time.monotonic()
            reply = client.post(f"http://127.0.0.1:{ports[seq // TOGETHER % len(ports)]}/v1/readings", json=sent)
            load.seconds.append(time.monotonic() - began)
            if reply.status_code != 200:
                load.wrong.append(f"HTTP {reply.status_code}: {reply.text[:200]}")
                return
            for result in reply.json():
                load.statuses[result["status"]] += 1
                if result["status"] not in ANSWERED:
                    load.wrong.append(f"{result['stream']} {result['seq']}: {result['status']}: {result['error']}")
                load.models[result["stream"]].append(result["model"])
            seq += TOGETHER


def swap(repository: Repository, ports: Sequence[int], swaps: int, pause_s: float) -> list[str]:
    """Promote and roll back, half of it past the services; the digests of the champions, in order."""
    digests = [repository.log.model("pumps").named("champion").digest]
    with httpx2.Client(timeout=60) as client:
        for at in range(swaps):
            url = f"http://127.0.0.1:{ports[at % len(ports)]}/v1/models/pumps"
            number = repository.log.model("pumps").named("champion").version % 3 + 1
            if at % 4 == 0:
                client.post(f"{url}/promote", json={"version": number}).raise_for_status()
            elif at % 4 == 1:
                repository.rollback("pumps", "test")
            elif at % 4 == 2:
                repository.promote("pumps", str(number), "test")
            else:
                client.post(f"{url}/rollback", json={}).raise_for_status()
            digests.append(repository.log.model("pumps").named("champion").digest)
            time.sleep(pause_s)
    return digests


def follows(models: Sequence[str], champions: Sequence[str]) -> bool:
    """Whether a stream went from one champion to the next, perhaps past some, and never back."""
    left = iter(champions)
    return all(any(model == champion for champion in left) for model, _ in groupby(models))


async def replayed_alike(url: str, streams: Sequence[str], detectors: dict[str, TrainedDetector]) -> dict[str, float]:
    """Of each stream, how far its state is from that of a replay of its history by its model; 0: to the bit."""
    store = store_of(url, "default", 10_000)
    apart = {}
    try:
        for stream in streams:
            key = StreamKey("default", stream)
            (packed,), (ring,), (seed,) = await store.load([key]), await store.load_histories([key]), store.seeds([key])
            part = state.stream_part(packed or b"", seed)
            assert part is not None, stream
            stepper = Stepper(detectors[part[2][:8].hex()], HISTORY)
            kept = history.gathered(stepper.read_history(ring, part[1], seed), part[1])
            record, rebuilt = state.sound([packed or b""], stepper.record), stepper.rebuild([kept])
            assert len(kept) == int(record["readings"][0]), stream
            apart[stream] = _apart(record["detector"], rebuilt["detector"])
    finally:
        await store.close()
    return apart


def _apart(one: Any, other: Any) -> float:
    if one.tobytes() == other.tobytes():
        return 0.0
    fields = [np.abs(one[name].astype(float) - other[name].astype(float)).max() for name in one.dtype.names]
    return float(np.nanmax(fields))


@dataclass
class Run:
    """What a run came to; see `run`."""

    load: Load
    champions: list[str]
    apart: dict[str, float]
    moves: int


def run(
    folder: Path,
    swaps: int,
    processes: int,
    streams: int,
    senders: int,
    pause_s: float,
    before_s: float = 0.0,
    kept: int = HISTORY,
) -> Run:
    """Swap under load, and check; what is wrong is in the load.

    Args:
        before_s: of load before the first swap.
        kept: readings of history; with fewer than HISTORY states are not compared.
    """
    artefacts = [make_artefact(folder / str(seed), seed=seed) for seed in range(3)]
    repository = Repository(str(folder / "models"), verify)
    for artefact in artefacts:
        repository.add("pumps", artefact, "test")
    repository.promote("pumps", "1", "test")
    names = [f"pump-{at}" for at in range(streams)]
    load, done = Load({name: [] for name in names}), threading.Event()
    with start_private_redis(folder / "redis") as private:
        settings = {"GATEWATCH_MODELS": repository.url, "GATEWATCH_HISTORY_READINGS": str(kept)}
        settings |= {"GATEWATCH_STORE_TIMEOUT_MS": "10000", "GATEWATCH_WAITING_MS": "60000"}
        with services(folder / "2", private.url, processes, **settings) as ports:
            rules = {"rules": [{"pattern": "pump-*", "model": "pumps"}]}
            httpx2.put(f"http://127.0.0.1:{ports[0]}/v1/rules", json=rules, timeout=60).raise_for_status()
            time.sleep(2)
            every_s = (
                1.2 * TOGETHER * (before_s + swaps * (pause_s + 0.5) + 10) / HISTORY
            )  # all of it fits into the history
            shares = [names[at::senders] for at in range(senders)]
            threads = [
                threading.Thread(target=send, args=(share, ports[at:] + ports[:at], at, load, done, every_s))
                for at, share in enumerate(shares)
            ]
            for thread in threads:
                thread.start()
            time.sleep(before_s)
            load.before = len(load.seconds)
            champions = swap(repository, ports, swaps, pause_s)
            time.sleep(4)  # until all have noticed the last one
            done.set()
            for thread in threads:
                thread.join()
        detectors = {d.name: d for d in map(TrainedDetector.load, artefacts)}
        apart = asyncio.run(replayed_alike(private.url, names, detectors)) if kept == HISTORY else {}
    for name in names:
        if not follows(load.models[name], champions):
            load.wrong.append(f"{name} went back: {[model[:4] for model, _ in groupby(load.models[name])]}")
        if load.models[name][-1] != champions[-1]:
            load.wrong.append(f"{name} ended with {load.models[name][-1]}, not {champions[-1]}")
        if name in apart and not apart[name] <= 1e-5:
            load.wrong.append(f"{name}: its state is {apart[name]} from its replay")
    return Run(load, champions, apart, sum(len(list(groupby(models))) - 1 for models in load.models.values()))


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=30)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--pause-s", type=float, default=1.0, help="between two swaps")
    parser.add_argument("--before-s", type=float, default=30.0, help="of load before the first swap")
    parser.add_argument("--kept", type=int, default=HISTORY, help="readings of history; states are compared with all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        asked = options.swaps, options.processes, options.streams, options.senders, options.pause_s, options.before_s
        done = run(Path(scratch), *asked, options.kept)
    print(f"{len(done.champions) - 1} swaps, {done.moves} moves of {options.streams} streams")
    seconds, before = np.array(done.load.seconds) * 1e3, done.load.before
    for when, part in (("before the swaps", seconds[:before]), ("while swapping", seconds[before:])):
        if len(part):
            median, p99 = np.quantile(part, [0.5, 0.99])
            print(f"{len(part)} requests {when}, median {median:.0f} ms, p99 {p99:.0f} ms, longest {part.max():.0f} ms")
    print(f"answers {dict(done.load.statuses)}")
    if done.apart:
        same = sum(far == 0 for far in done.apart.values())
        print(f"states equal to their replay: {same} to the bit of {len(done.apart)}")
    print(f"wrong: {len(done.load.wrong)}", *done.load.wrong[:20], sep="\n")
    sys.exit(bool(done.load.wrong))


if __name__ == "__main__":
    main()
