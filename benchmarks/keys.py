"""What keys cost: services that are open, and one that asks for a key, under the same load in turn.

    python -m benchmarks.keys [--rounds 8] [--seconds 4]
    python -m benchmarks.keys --calls 3000

First what the look at a request costs alone, in this process: the least of many turns, which others disturb little.
Then each round of loads gives ratios, asked for a key over open, of readings a second and of the service's CPU time a
reading; and the same of a second open service over the first: what two services of one kind differ by says what the
ratios are worth. Who comes first changes. On a machine that others use, many short rounds and the cheapest tenth of
each service's loads say more than the mean. 2 x 64 LSTM, 8 channels, one Redis, streams of each load's own.

With `--calls`, both services are profiled under so many requests of one reading over one connection, and what one of
them called more often than the other is printed. That does not depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import pstats
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import PATIENT, artefact, bodies, drive, server
from benchmarks.speed import BULK, SERVE
from gatewatch.service.access.access import Access
from gatewatch.service.access.key_ring import KeyRing
from gatewatch.service.access.key_store import FileKeys, RedisKeys
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support import access

LEAST_CALLS = 0.5
"""Calls a request; fewer are what replies and background work happen to divide into."""

LOADS = (("bulk", BULK, 4, 80), ("single", 1, 1, 2_000), ("single", 1, 32, 12_000))
"""What it is called, readings a request, connections, and requests a second that are made for all of them."""


async def looks(url: str, file: Path, key: str) -> dict[str, float]:
    """CPU time in µs of a look at a request's headers, by a service that is open and by one that asks for keys."""
    database = store_of(url, "any", 20_000)
    plain = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"120")]
    gates = {
        "open": (Access(KeyRing(RedisKeys(database), None), None, "loopback", "127.0.0.1", "default"), plain),
        "keys": (
            Access(KeyRing(RedisKeys(database), FileKeys(file)), None, "never", "127.0.0.1", "default"),
            [*plain, (b"authorization", b"Bearer " + key.encode())],
        ),
    }
    least = dict.fromkeys(gates, np.inf)
    for gate, headers in gates.values():
        await gate.keys.refresh()
        if gate.at_once(headers, "ingest") is None:
            raise RuntimeError("the request is not let in at once")
    for _ in range(50):
        for name, (gate, headers) in gates.items():
            began = time.process_time()
            for _ in range(5000):
                gate.at_once(headers, "ingest")
            least[name] = min(least[name], (time.process_time() - began) / 5000 * 1e6)
    await database.close()
    return least


def calls(services: dict[str, tuple[dict[str, str], str | None]], folder: Path, requests: int) -> None:
    """Print which functions a service called in other numbers for a request than the first one.

    Args:
        services: by name, the environment of each and the key that it is shown.
    """
    counts: dict[str, Counter[str]] = {}
    for at, (name, (environment, shown)) in enumerate(services.items()):
        profile = folder / f"{at}.profile"
        command = [sys.executable, "-m", "cProfile", "-o", str(profile), *SERVE[1:]]
        with server(command, environment) as (port, pid):
            drive(port, (pid,), "/v1/readings", bodies(1, requests + 1, 1, at), 1, 3600, shown)
        found: Any = pstats.Stats(str(profile))
        counts[name] = Counter()
        for (file, _, function), (_, count, *_) in found.stats.items():
            counts[name][f"{Path(file).name} {function.partition(' object at ')[0]}"] += count
    first, *others = counts.values()
    for other in others:
        more = {what: (other[what] - first[what]) / requests for what in first | other}
        for what in sorted(more, key=lambda what: more[what]):
            if abs(more[what]) >= LEAST_CALLS:
                print(f"{more[what]:+7.2f} calls a request of {what}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="a load's length")
    parser.add_argument("--calls", type=int, metavar="REQUESTS", help="count calls instead")
    options = parser.parse_args()
    rates: dict[tuple[str, str], list[float]] = {}
    costs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
        with Redis.from_url(private.url) as client:
            redis_pid = int(client.info("server")["process_id"])
        common = {
            **PATIENT,
            "GATEWATCH_REDIS_URL": private.url,
            "GATEWATCH_MODEL": str(artefact(Path(scratch) / "artefact")),
        }
        key = access.add_to_file(Path(scratch) / "keys.json", "default", "ingest")
        asking = common | {"GATEWATCH_OPEN": "never", "GATEWATCH_KEYS_FILE": str(Path(scratch) / "keys.json")}
        if options.calls:
            calls({"open": (common, None), "keys": (asking, key)}, Path(scratch), options.calls)
            return
        print("a look at a request, µs:", asyncio.run(looks(private.url, Path(scratch) / "keys.json", key)), flush=True)
        with server(SERVE, common) as first, server(SERVE, asking) as second, server(SERVE, common) as third:
            ways = {"open": (*first, None), "keys": (*second, key), "open too": (*third, None)}
            for turn in range(-1, options.rounds):  # the first warms up
                for name, size, connections, a_second in LOADS:
                    found = {}
                    for at in range(len(ways)):
                        way = list(ways)[(at + turn) % len(ways)]
                        to, of, shown = ways[way]
                        rounds = max(20, int(a_second * options.seconds / connections))
                        seed = 1000 * (turn + 2) + 10 * connections + list(ways).index(way)
                        sent = bodies(connections, rounds, size, seed)
                        load = drive(to, (of, redis_pid), "/v1/readings", sent, size, options.seconds, shown)
                        if set(load.statuses) != {"200"}:
                            raise RuntimeError(f"not all were scored: {load.statuses}")
                        found[way] = load
                    for way in ("keys", "open too") if turn >= 0 else ():
                        what = f"{name}, {connections} connections", way
                        rates.setdefault(what, []).append(found[way].rate / found["open"].rate)
                        costs.setdefault(what, []).append((found["open"].cpu_us(0), found[way].cpu_us(0)))
    table = Table(title=f"{options.rounds} rounds in turn; over the first open service")
    for column in (
        "load", "what", "open, µs", "this, µs", "cheapest tenths", "their ratio", "CPU ratio", "25 to 75 %",
        "rate ratio", "25 to 75 %",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column in ("load", "what") else "right")
    for what in rates:
        cpu = np.array(costs[what])
        least = np.quantile(cpu, 0.1, axis=0)
        row = [f"{cpu[:, 0].mean():.1f}", f"{cpu[:, 1].mean():.1f}", f"{least[0]:.1f}, {least[1]:.1f}"]
        row.append(f"{least[1] / least[0]:.3f}")
        for ratios in (cpu[:, 1] / cpu[:, 0], np.array(rates[what])):
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            row += [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
        table.add_row(*what, *row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
