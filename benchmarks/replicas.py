"""Replicas of the service behind HAProxy: what a reading costs.

    python -m benchmarks.replicas [--replicas 1,2,4] [--seconds 20] [--stores "one Redis"] [--sticky]

Eight connections a replica send 50 readings a request, each of 100 streams. HAProxy gives each request to the replica
that has the fewest, so that the streams of a connection meet all replicas; first on one Redis, then on a Cluster of
three masters. Where all of it shares two cores, readings a second say little; CPU a reading says whether replicas cost
each other anything. A batch is repeated for streams that another process has written since it last did; that is the
share of loads that no batch began with. With `--sticky` a connection stays with one replica, and so do its streams.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import PATIENT, artefact, bodies, drive
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.balanced import await_ready, get, haproxy
from tests.support.redis_servers import redis_cluster
from tests.support.replicas import Replica

CONNECTIONS, BULK, STREAMS = 8, 50, 100
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


def counted(ports: list[int]) -> tuple[float, float, float]:
    """How often replicas loaded records, how many batches they scored, and of how many readings these were."""
    texts = [get(port, "/metrics")[1] for port in ports]
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
            loads, batches, readings = counted([replica.port for replica in running])
            row += [f"{loads / batches - 1:.0%}", f"{readings / batches:.0f}"]
            table.add_row(kind, str(count), *row, str(dict(load.statuses)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,2,4")
    parser.add_argument("--stores", default="one Redis,cluster")
    parser.add_argument("--seconds", type=float, default=20.0, help="a load's length")
    parser.add_argument("--sticky", action="store_true", help="a connection stays with one replica")
    options = parser.parse_args()
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
