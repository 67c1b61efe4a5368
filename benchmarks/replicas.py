"""Replicas of the service behind HAProxy: what a reading costs.

    python -m benchmarks.replicas [--replicas 1,2,4] [--seconds 20] [--stores "one Redis"] [--sticky]
    python -m benchmarks.replicas --in-turn 100 [--replicas 1,2,4]

Eight connections a replica send 50 readings a request, each of 100 streams. HAProxy gives each request to the replica
that has the fewest, so that the streams of a connection meet all replicas; first on one Redis, then on a Cluster of
three masters. Where all of it shares two cores, readings a second say little; CPU a reading says whether replicas cost
each other anything. A batch is repeated for streams that another process has written since it last did; that is the
share of loads that no batch began with. With `--sticky` a connection stays with one replica, and so do its streams.

With `--in-turn` so many rounds of batches are scored in one process by as many cores as there are replicas, one batch
after the other, each by a core drawn by lot: what it costs a core that others have written since, and nothing else. On
a machine that others use, that is what can be compared.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop
from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import PATIENT, artefact, bodies, drive
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.balanced import await_ready, get, haproxy
from tests.support.redis_servers import redis_cluster
from tests.support.replicas import Replica
from tests.support.scorer import JSON, core_of, decode, model_of, parts_of

CONNECTIONS, BULK, STREAMS = 8, 50, 100
SENDERS, REQUESTS, WARM_UP = 16, 4, 4
"""With `--in-turn`: connections in all, requests a batch, and rounds that are not counted."""

DRAIN_S = 5


@contextmanager
def store(kind: str, folder: Path) -> Iterator[tuple[str, list[int]]]:
    """One Redis, or a Cluster of three masters; its URL and pids."""
    folder.mkdir()
    if kind == "cluster":
        with redis_cluster(folder) as servers:
            nodes = ",".join(f"127.0.0.1:{port}" for port in servers.running)
            yield f"redis+cluster://{nodes}", [process.pid for process in servers.running.values()]
        return
    with start_private_redis(folder) as private:
        with Redis.from_url(private.url) as client:
            pid = int(client.info("server")["process_id"])
        yield private.url, [pid]


@contextmanager
def replicas(count: int, url: str, model: Path) -> Iterator[list[Replica]]:
    """So many replicas, ready."""
    settings = {
        **PATIENT,
        "GATEWATCH_MODEL": str(model),
        "GATEWATCH_REDIS_URL": url,
        "GATEWATCH_DRAIN_S": str(DRAIN_S),
    }
    started = [Replica(settings) for _ in range(count)]
    try:
        for replica in started:
            await_ready(replica.port)
        yield started
    finally:
        for replica in started:
            replica.end()


def counted(texts: list[str]) -> tuple[float, float, float]:
    """By their metrics: how often replicas loaded records, how many batches they scored, and of how many readings."""
    names = (
        'gatewatch_stage_seconds_count{stage="load"}',
        "gatewatch_batch_readings_count",
        "gatewatch_batch_readings_sum",
    )
    loads, batches, readings = (
        sum(float(text.partition(f"\n{name} ")[2].partition("\n")[0]) for text in texts) for name in names
    )
    return loads, batches, readings


def scale(table: Table, scratch: Path, stores: list[str], counts: list[int], seconds: float, sticky: bool) -> None:
    """A row for each kind of Redis and number of replicas."""
    model = artefact(scratch / "artefact")
    for kind, count in itertools.product(stores, counts):
        with ExitStack() as stack:
            url, redis_pids = stack.enter_context(store(kind, scratch / f"{kind}-{count}"))
            running = stack.enter_context(replicas(count, url, model))
            port, pid = stack.enter_context(haproxy(scratch, [replica.port for replica in running], sticky))
            await_ready(port)
            sent = bodies(count * CONNECTIONS, int(40 * seconds), BULK, 1, streams=STREAMS)
            pids = [*(replica.pid for replica in running), *redis_pids, pid]
            load = drive(port, pids, "/v1/readings", sent, BULK, seconds)
            of = [sum(load.cpu_us(at) for at in range(first, last)) for first, last in (
                (0, count), (count, count + len(redis_pids)), (len(pids) - 1, len(pids)),
            )]  # fmt: skip
            row = [f"{load.rate:,.0f}", *(f"{cpu:.1f}" for cpu in of), f"{sum(of):.1f}"]
            loads, batches, readings = counted([get(replica.port, "/metrics")[1] for replica in running])
            row += [f"{loads / batches - 1:.0%}", f"{readings / batches:.0f}"]
            table.add_row(kind, str(count), *row, str(dict(load.statuses)))


async def in_turn(detector: TrainedDetector, url: str, count: int, rounds: int) -> tuple[float, float]:
    """Score batches by so many cores in turn; CPU time of this process in µs a reading, and loads a batch."""
    model, metrics, draw = model_of(detector), [Metrics() for _ in range(count)], random.Random(1)
    stores = [store_of(url, f"of-{count}", 20_000) for _ in range(count)]
    cores = [
        core_of(model, store, 20, metrics=of, most_streams=SENDERS * STREAMS)
        for store, of in zip(stores, metrics, strict=True)
    ]
    sent = [map(bytes, own) for own in bodies(SENDERS, rounds + WARM_UP, BULK, count, streams=STREAMS)]
    began, before, batches = 0.0, 0.0, 0
    for turn in range(rounds + WARM_UP):
        requests = [decode(model, next(sent[at]), tenant=f"of-{count}")[0].readings for at in range(SENDERS)]
        if turn == WARM_UP:
            began, before = time.process_time(), _loads(metrics)
        draw.shuffle(requests)
        for first in range(0, SENDERS, REQUESTS):
            parts = [part for one in requests[first : first + REQUESTS] for part in parts_of(one, JSON.encoder)]
            answers = await draw.choice(cores).scorer.score_batch(parts)
            if not all(isinstance(answer, str) for answer in answers):
                raise RuntimeError(f"not all were scored: {answers}")
            batches += turn >= WARM_UP
    cpu_s, loads = time.process_time() - began, _loads(metrics) - before
    for store in stores:
        await store.close()
    return cpu_s / (batches * REQUESTS * BULK) * 1e6, loads / batches


def _loads(metrics: list[Metrics]) -> float:
    return counted([of.exposition().decode() for of in metrics])[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,2,4")
    parser.add_argument("--stores", default="one Redis,cluster")
    parser.add_argument("--seconds", type=float, default=20.0, help="a load's length")
    parser.add_argument("--sticky", action="store_true", help="a connection stays with one replica")
    parser.add_argument("--in-turn", type=int, metavar="ROUNDS", help="in one process, by several cores")
    options = parser.parse_args()
    if options.in_turn:
        with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
            detector = TrainedDetector.load(artefact(Path(scratch) / "artefact"))
            for count in map(int, options.replicas.split(",")):
                cpu_us, loads = uvloop.run(in_turn(detector, private.url, count, options.in_turn))
                print(f"{count} cores: {cpu_us:.1f} µs of CPU a reading, {loads:.2f} loads a batch", flush=True)
        return
    if shutil.which("haproxy") is None:
        parser.error("needs haproxy")
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as scratch:
        if options.replicas:
            table = Table(title="CPU in µs a reading")
            for column in (
                "store",
                "replicas",
                "readings/s",
                "service",
                "Redis",
                "HAProxy",
                "all",
                "repeated",
                "a batch",
                "answers",
            ):
                table.add_column(column, justify="left" if column in ("store", "answers") else "right")
            counts = [int(count) for count in options.replicas.split(",")]
            scale(table, Path(scratch), options.stores.split(","), counts, options.seconds, options.sticky)
            console.print(table)


if __name__ == "__main__":
    main()
