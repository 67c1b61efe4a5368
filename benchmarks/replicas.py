"""Replicas of the service behind HAProxy: what a reading costs, and what a rolling restart costs senders.

    python -m benchmarks.replicas [--replicas 1,2,4] [--seconds 20] [--restarts 20]

Eight connections a replica send 50 readings a request, each of 100 streams. HAProxy gives each request to the replica
that has the fewest, so that the streams of a connection meet all replicas; first on one Redis, then on a Cluster of
three masters. Where all of it shares two cores, readings a second say little; CPU a reading says whether replicas cost
each other anything. A batch is repeated for streams that another process has written since it last did; that is the
share of loads that no batch began with.

Then two replicas are restarted one after the other, as a roll-out does, while senders send one reading after the other
and never again. HAProxy asks `/readyz`, which says 503 while a replica drains.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import artefact, bodies, drive
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.redis_servers import redis_cluster
from tests.support.replicas import Replica
from tests.support.whole_path import free_port

CONNECTIONS, BULK, STREAMS = 8, 50, 100
DRAIN_S = 5
START_S = 180.0

CONFIGURATION = """\
global
  maxconn 2000
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option redispatch
  retries 3
frontend in
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance leastconn
  option httpchk GET /readyz
  timeout check 5s
  default-server check inter 1s fall 3 rise 1
"""


@contextmanager
def haproxy(folder: Path, ports: list[int]) -> Iterator[tuple[int, int]]:
    """HAProxy before some replicas; its port and pid."""
    port = free_port()
    servers = [f"  server replica{at} 127.0.0.1:{own}\n" for at, own in enumerate(ports)]
    (folder / "haproxy.cfg").write_text(CONFIGURATION.format(port=port) + "".join(servers))
    process = subprocess.Popen(["haproxy", "-db", "-f", folder / "haproxy.cfg"], stderr=subprocess.DEVNULL)
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


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
        "GATEWATCH_MODEL": str(model), "GATEWATCH_REDIS_URL": url, "GATEWATCH_LOG_LEVEL": "error",
        "GATEWATCH_DRAIN_S": str(DRAIN_S), "GATEWATCH_STORE_TIMEOUT_MS": "5000", "GATEWATCH_WAITING_MS": "60000",
    }  # fmt: skip
    started = [Replica(settings) for _ in range(count)]
    try:
        for replica in started:
            await_ready(replica.port)
        yield started
    finally:
        for replica in started:
            replica.end()


def await_ready(port: int) -> None:
    """Wait until whatever answers at a port is ready. Raises RuntimeError after START_S."""
    for _ in range(int(10 * START_S)):
        try:
            if get(port, "/readyz")[0] == 200:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"nothing is ready at {port}")


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def loads_and_batches(ports: list[int]) -> tuple[float, float]:
    """How often replicas loaded records, and how many batches they scored."""
    texts = [get(port, "/metrics")[1] for port in ports]
    return tuple(  # type: ignore[return-value]
        sum(float(text.partition(f"\n{name} ")[2].partition("\n")[0]) for text in texts)
        for name in ('gatewatch_stage_seconds_count{stage="load"}', "gatewatch_batch_readings_count")
    )


def scale(table: Table, scratch: Path, counts: list[int], seconds: float) -> None:
    """A row for each kind of Redis and number of replicas."""
    model = artefact(scratch / "artefact")
    for kind, count in itertools.product(("one Redis", "cluster"), counts):
        with ExitStack() as stack:
            url, redis_pids = stack.enter_context(store(kind, scratch / f"{kind}-{count}"))
            running = stack.enter_context(replicas(count, url, model))
            port, pid = stack.enter_context(haproxy(scratch, [replica.port for replica in running]))
            await_ready(port)
            sent = bodies(count * CONNECTIONS, int(40 * seconds), BULK, 1, streams=STREAMS)
            pids = [*(replica.pid for replica in running), *redis_pids, pid]
            load = drive(port, pids, "/v1/readings", sent, BULK, seconds)
            of = [sum(load.cpu_us(at) for at in range(first, last)) for first, last in (
                (0, count), (count, count + len(redis_pids)), (len(pids) - 1, len(pids)),
            )]  # fmt: skip
            row = [f"{load.rate:,.0f}", *(f"{cpu:.1f}" for cpu in of), f"{sum(of):.1f}"]
            loads, batches = loads_and_batches([replica.port for replica in running])
            table.add_row(kind, str(count), *row, f"{loads / batches - 1:.0%}", str(dict(load.statuses)))


def roll(scratch: Path, restarts: int) -> str:
    """Restart two replicas in turn under load; what became of it."""
    statuses, sent, stopping = Counter[str](), Counter[str](), threading.Event()

    def send(number: int) -> None:
        stream, connection = f"roll-{number}", HTTPConnection("127.0.0.1", port, timeout=30)
        for seq in itertools.count():
            if stopping.is_set():
                return
            body = {"stream": stream, "seq": seq, "timestamp": 1_700_000_000 + seq, "values": {"c0": seq % 7}}
            try:
                connection.request("POST", "/v1/readings", json.dumps(body), {"content-type": "application/json"})
                reply = connection.getresponse()
                reply.read()
                statuses[str(reply.status)] += 1
                sent[stream] += reply.status == 200
            except (OSError, HTTPException) as error:
                statuses[type(error).__name__] += 1
                connection.close()
            time.sleep(0.01)

    with ExitStack() as stack:
        url, _ = stack.enter_context(store("one Redis", scratch / "roll"))
        running = stack.enter_context(replicas(2, url, artefact(scratch / "rolled")))
        port, _ = stack.enter_context(haproxy(scratch, [replica.port for replica in running]))
        await_ready(port)
        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        for replica in itertools.islice(itertools.cycle(running), restarts):
            replica.end()
            replica.start()
            await_ready(replica.port)
            time.sleep(2)  # until HAProxy has seen it
        took_s = time.monotonic() - began
        stopping.set()
        for thread in threads:
            thread.join()
        known = {stream: json.loads(get(port, f"/v1/streams/{stream}")[1])["readings"] for stream in sent}
    lost = sum(max(0, sent[stream] - known[stream]) for stream in sent)
    return (
        f"{restarts} restarts in {took_s:.0f} s: {sum(sent.values()):,} readings acknowledged, {lost} lost, "
        f"answers {dict(statuses)}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", default="1,2,4")
    parser.add_argument("--seconds", type=float, default=20.0, help="a load's length")
    parser.add_argument("--restarts", type=int, default=20, help="0 for none")
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
                "answers",
            ):
                table.add_column(column, justify="left" if column in ("store", "answers") else "right")
            scale(table, Path(scratch), [int(count) for count in options.replicas.split(",")], options.seconds)
            console.print(table)
        if options.restarts:
            console.print(roll(Path(scratch), options.restarts))


if __name__ == "__main__":
    main()
