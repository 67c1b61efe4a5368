"""CPU time of a reading of a stream that is in an incident, by what its policy asks.

    python -m benchmarks.incidents [--streams 2000] [--rounds 12] [--only plain,hold]

In process, without HTTP: batches of 400 readings of the shipped demo model, 72 % of them anomalous, over a Redis of its
own, whose CPU time stands beside. Each stream sends every 0.18 s by the clock that incidents are written by, once a
second. `floor` makes nothing of incidents. To compare versions, have each run from its own folder in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import re
import tempfile
import time
from pathlib import Path

import structlog
from redis import Redis

from gatewatch.models.artefact.files import load_artefact, model_folder
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.build import Core, build_core
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.readings import Part
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.incident import decode
from gatewatch.service.incidents.rules import ChannelGate, Rules, Span
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.registry import Registry
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.fleets import Asked
from tests.support.scorer import model_of, read

BATCH, CALM, EVERY_S = 400, 40, 0.18
POLICIES = {
    "floor": None,
    "plain": None,
    "hold": Rules(hold=True),
    "merge": Rules(merge=Span(30, None)),
    "minimum": Rules(minimum=Span(2, None)),
    "gate": Rules(gates=(ChannelGate(re.compile("pressure"), absolute=0.01),)),
}


class _Clock:
    """Stands until it is moved, but for the time of the day."""

    s = 0.0

    def unix_ms(self) -> int:
        return round(time.time() * 1000)

    def monotonic(self) -> float:
        return self.s


def body(model: ServedModel, tenant: str, streams: range, at: int, strange: bool, draw: random.Random) -> list[Part]:
    """A reading of each of these streams."""
    sent = []
    for stream in streams:
        off = 20.0 * (strange and draw.random() < 0.72)
        values = {
            "pressure": 4 + off + draw.random(),
            "flow": 120 + draw.random(),
            "vibration": 1.9 + draw.random() / 10,
        }
        values |= {"temperature": 40 + draw.random(), "current": 35 + draw.random()}
        sent.append({"stream": f"s{stream}", "timestamp": 1_700_000_000 + 60 * at, "values": values})
    return read(model, tenant, *sent)


async def measure(url: str, policy: str, streams: int, rounds: int) -> dict[str, object]:
    """µs of CPU a reading of service and Redis, while all streams are in an incident."""
    clock, metrics, asked, tenant = _Clock(), Metrics(), Asked(), f"t-{policy}-{time.time_ns()}"
    rules = POLICIES[policy]
    asked.ruled = {} if rules is None else {f"s{at}": rules for at in range(streams)}
    model = model_of(TrainedDetector(load_artefact(model_folder("demo"))), most=10**9, future_ms=10**9)
    store = store_of(url, tenant, 20_000)
    groups = Groups(GroupStore(store, 10**9), asked, None, 60_000)
    core: Core = build_core(
        Registry(model), store, metrics, ContentionBackoff(random.Random(0)), Takeover(store, model.name, metrics),
        clock, asked, save_attempts=20, most_streams=10**7, groups=groups,
        incident_write_s=1.0,
    )  # fmt: skip
    draw, at = random.Random(1), 0

    def bodies(count: int, strange: bool) -> list[list[Part]]:
        nonlocal at
        at += count
        parts = [range(start, min(start + BATCH, streams)) for start in range(0, streams, BATCH)]
        return [body(model, tenant, part, n, strange, draw) for n in range(at - count, at) for part in parts]

    async def score(some: list[list[Part]]) -> None:
        for parts in some:
            clock.s += EVERY_S * BATCH / streams
            await core.scorer.score_batch(parts)

    await score(bodies(CALM, strange=False))
    await score(bodies(3, strange=True))
    clock.s += 1.0
    await score(bodies(1, strange=True))
    if policy == "floor":

        async def nothing(*_: object) -> list[object]:
            return []

        core.scorer._incidents.writes = nothing  # type: ignore[method-assign, assignment]
    measured = bodies(rounds, strange=True)
    with Redis.from_url(url) as redis:

        def of_redis() -> float:
            found = redis.info("cpu")
            return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])

        before, own = of_redis(), time.process_time()
        await score(measured)
        took, theirs = time.process_time() - own, of_redis() - before
    kept = await store.latest_incidents([StreamKey(tenant, f"s{one}") for one in range(streams)])
    await core.books.settle()
    await store.close()
    found = {"service_us": took, "redis_us": theirs}
    return {
        "policy": policy,
        "open": sum(one is not None and one.is_open for one in map(decode, kept)) / streams,
        **{name: round(seconds / rounds / streams * 1e6, 1) for name, seconds in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default=",".join(POLICIES), help="policies, by name")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory() as folder, start_private_redis(Path(folder)) as private:
        for policy in given.only.split(","):
            print(json.dumps(asyncio.run(measure(private.url, policy, given.streams, given.rounds))), flush=True)


if __name__ == "__main__":
    main()
