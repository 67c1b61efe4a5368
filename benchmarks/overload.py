"""Ten times more than the service can carry: what still gets through, how fast, and what memory it takes.

    python -m benchmarks.overload [--seconds 300] [--times 10]

First what the service carries, from 4 connections that wait for their answers; then requests at a fixed pace, ten
times as many, from 800 connections that do not care. Load generator, service and Redis share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import uvloop
from redis import Redis
from rich.console import Console

from benchmarks.load import QUIET, artefact, bodies, cpu_s, drive, request, resident_mib, server
from gatewatch.service.storage.private_redis import start_private_redis

SIZE = 100
CONNECTIONS = 800


async def offer(port: int, pid: int, a_second: float, seconds: float, console: Console) -> None:
    """Requests at a fixed pace for some time; every half minute, and at the end, what came of them."""
    loop = asyncio.get_running_loop()
    sent = [request("/v1/readings", own[0]) for own in bodies(CONNECTIONS, 1, SIZE, seed=7)]
    template = [body.replace(b'"seq": 0', b'"seq": %010d') for body in sent]  # readings go on, request by request
    statuses: Counter[str] = Counter()
    accepted: list[float] = []
    refused: list[float] = []
    began = loop.time()

    async def keep_sending(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        pace = CONNECTIONS / a_second
        due, seq = began + pace * number / CONNECTIONS, 1_000_000_000
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += pace
            seq += 1
            at = time.perf_counter()
            body = template[number].partition(b"\r\n\r\n")[2] % ((seq,) * SIZE)
            writer.write(request("/v1/readings", body))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            status = head[9:12].decode()
            statuses[status] += 1
            (accepted if status == "200" else refused).append(time.perf_counter() - at)
        writer.close()

    jobs = [asyncio.create_task(keep_sending(number)) for number in range(CONNECTIONS)]
    cpu_before, memory = cpu_s(pid), []
    while not all(job.done() for job in jobs):
        await asyncio.wait(jobs, timeout=min(30.0, seconds / 4))
        passed = loop.time() - began
        memory.append(resident_mib(pid))
        quantiles = [f"{1000 * np.quantile(times, 0.99):.0f}" if times else "-" for times in (accepted, refused)]
        console.print(
            f"{passed:5.0f} s: {statuses.total() / passed:,.0f} requests a second offered, "
            f"{statuses['200'] * SIZE / passed:,.0f} readings a second carried; p99 accepted / refused "
            f"{' / '.join(quantiles)} ms; {memory[-1]:.0f} MiB; {dict(statuses)}"
        )
    cpu = 100 * (cpu_s(pid) - cpu_before) / seconds
    console.print(f"memory {min(memory):.0f} to {max(memory):.0f} MiB, service {cpu:.0f} % CPU")
    for job in jobs:
        job.result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--times", type=float, default=10.0, help="how many times what it carries")
    options = parser.parse_args()
    console = Console(width=180)
    with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
        with Redis.from_url(private.url) as client:
            redis_pid = int(client.info("server")["process_id"])
        environment = {
            **QUIET,
            "GATEWATCH_REDIS_URL": private.url,
            "GATEWATCH_MODEL": str(artefact(Path(scratch) / "artefact")),
        }
        with server([sys.executable, "-m", "gatewatch", "serve"], environment) as (port, pid):
            load = drive(port, (pid, redis_pid), "/v1/readings", bodies(4, 3000, SIZE, seed=1), SIZE, 10.0)
            console.print(
                f"carried: {load.rate:,.0f} readings a second in requests of {SIZE}, "
                f"p99 {load.percentile(0.99):.0f} ms, {resident_mib(pid):.0f} MiB"
            )
            a_second = max(1.0, math.ceil(load.rate / SIZE * options.times))
            uvloop.run(offer(port, pid, a_second, options.seconds, console))


if __name__ == "__main__":
    main()
