"""A Redis that is busy with others: what senders get meanwhile, and whether each reading counts once.

    python -m benchmarks.busy_redis [--seconds 8] [--only "pauses,a script"] [--connections 32]

Half of the connections send single readings, half of them `BULK` at once, each of its own streams; what is refused is
sent again, as `Retry-After` asks, but sooner. Another one asks `/readyz` and `/livez` all the time. In the end each
stream must have applied what was answered: no reading fewer, and none twice. Load generator, service and Redis share
the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import uvloop
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import QUIET, START, artefact, request, server
from gatewatch.service.storage.private_redis import start_private_redis

BULK: Final = 50
AGAIN_S: Final = 0.1
"""Before what was refused is sent again."""

_SPIN: Final = "local n = 0; while n < tonumber(ARGV[1]) do n = n + 1 end"
_FILL: Final = "for n = 1, 3000 do redis.call('SET', KEYS[1] .. n, string.rep('x', 1000)) end"


@dataclass
class Seen:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)
    waited: list[float] = field(default_factory=list)
    readings: int = 0


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> tuple[str, bytes]:
    """Send a request; the status and body of its answer."""
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
    return head[9:12].decode(), body


def get(path: str) -> bytes:
    """A whole request that asks for something."""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


async def keep_sending(port: int, number: int, until: float, seen: Seen) -> int:
    """Send one reading after the other of each own stream; how many of each were answered with a score."""
    size, rng = BULK if number % 2 else 1, np.random.default_rng(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seq = 0
    while time.monotonic() < until:
        values = dict(zip((f"c{n}" for n in range(8)), rng.normal(size=8).round(3).tolist(), strict=True))
        body = [
            {"stream": f"s{number}-{at}", "seq": seq, "timestamp": START + 60 * seq, "values": values}
            for at in range(size)
        ]
        sent, began = request("/v1/readings", json.dumps(body).encode()), time.monotonic()
        while True:
            status, answer = await exchange(reader, writer, sent)
            seen.statuses[
                status if b"Redis" not in answer[:300] else f"{status} {json.loads(answer)['detail'][:60]}"
            ] += 1
            seen.waited.append(time.monotonic() - began)
            if status == "200":
                break
            await asyncio.sleep(AGAIN_S)
            began = time.monotonic()
        seq += 1
        seen.readings += size
    writer.close()
    return seq


async def keep_probing(port: int, until: float, seen: Seen) -> None:
    """Ask `/readyz` and `/livez` as Kubernetes does, with 2 s to answer, but five times a second."""
    while time.monotonic() < until:
        for path in ("/readyz", "/livez"):
            try:
                async with asyncio.timeout(2.0):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    status, _ = await exchange(
                        reader, writer, f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
                    )
                    writer.close()
            except TimeoutError:
                status = "no answer"
            seen.probes[f"{path} {status}"] += 1
        await asyncio.sleep(0.2)


async def pauses(redis: Redis, length_s: float, every_s: float) -> None:
    """Redis answers nobody for a time, again and again, as behind a slow command of somebody else's."""
    while True:
        await redis.execute_command("CLIENT", "PAUSE", str(round(1000 * length_s)), "ALL")
        await asyncio.sleep(every_s)


async def script(redis: Redis) -> None:
    """A script that takes some 0.4 s, twice a second."""
    began, turns = time.monotonic(), 1_000_000
    await redis.eval(_SPIN, 0, turns)
    turns = round(turns * 0.4 / (time.monotonic() - began))
    while True:
        await redis.eval(_SPIN, 0, turns)
        await asyncio.sleep(0.5)


async def saves(redis: Redis) -> None:
    """300 MB of others' keys, and a snapshot after the other."""
    for number in range(100):
        await redis.eval(_FILL, 1, f"others:{number}:")
    while True:
        with contextlib.suppress(Exception):
            await redis.bgsave()
        await asyncio.sleep(0.3)


async def pipelines(redis: Redis) -> None:
    """Twenty clients that each ask for a list of a thousand 300 times at once, again and again."""
    await redis.rpush("others", *range(1000))

    async def keep_asking() -> None:
        while True:
            pipe = redis.pipeline(transaction=False)
            for _ in range(300):
                pipe.lrange("others", 0, -1)
            await pipe.execute()

    await asyncio.gather(*(keep_asking() for _ in range(20)))


async def hang(redis: Redis) -> None:
    """Redis is stopped for eight seconds, once."""
    pid = int((await redis.info("server"))["process_id"])
    await asyncio.sleep(1.0)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(8.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.Event().wait()


async def nothing(redis: Redis) -> None:
    """Nobody disturbs."""
    await redis.ping()
    await asyncio.Event().wait()


DISTURBED: Final[dict[str, Callable[[Redis], Awaitable[None]]]] = {
    "nothing": nothing,
    "pauses of 0.3 s": lambda redis: pauses(redis, 0.3, 0.6),
    "pauses of 2 s": lambda redis: pauses(redis, 2.0, 4.0),
    "a script": script,
    "snapshots": saves,
    "pipelines": pipelines,
    "hung for 8 s": hang,
}


@contextlib.asynccontextmanager
async def beside(what: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Something that goes on meanwhile."""
    task = asyncio.ensure_future(what())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def measure(url: str, port: int, how: str, seconds: float, connections: int) -> list[str]:
    """One kind of disturbance; a row of the table."""
    seen = Seen()
    async with Redis.from_url(url, socket_timeout=60) as redis, beside(lambda: DISTURBED[how](redis)):
        until = time.monotonic() + seconds
        *answered, _ = await asyncio.gather(
            *(keep_sending(port, number, until, seen) for number in range(connections)),
            keep_probing(port, until, seen),
        )
    wrong = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number, seqs in enumerate(answered):
        for at in range(BULK if number % 2 else 1):
            while True:
                status, answer = await exchange(reader, writer, get(f"/v1/streams/s{number}-{at}"))
                if status == "200":
                    break
                await asyncio.sleep(AGAIN_S)
            wrong += json.loads(answer)["readings"] != seqs
    writer.close()
    waits = [f"{1000 * np.quantile(seen.waited, share):,.0f}" for share in (0.5, 0.99, 1.0)]
    return [
        how, f"{seen.readings / seconds:,.0f}", " / ".join(waits), str(wrong),
        "\n".join(f"{count} of {status}" for status, count in seen.statuses.most_common()),
        "\n".join(f"{count} of {status}" for status, count in sorted(seen.probes.items())),
    ]  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each disturbance")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--only", default=",".join(DISTURBED))
    options = parser.parse_args()
    table = Table(title="Beside a Redis that others keep busy")
    for column in ("disturbed by", "readings/s", "p50 / p99 / longest, ms", "streams wrong", "answers", "probes"):
        table.add_column(column)
    for how in options.only.split(","):
        with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
            model = artefact(Path(scratch) / "artefact")
            environment = {**QUIET, "GATEWATCH_REDIS_URL": private.url, "GATEWATCH_MODEL": str(model)}
            with server([sys.executable, "-m", "gatewatch", "serve"], environment) as (port, _):
                row = uvloop.run(measure(private.url, port, how, options.seconds, options.connections))
                table.add_row(*row)
                print(row, flush=True)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
