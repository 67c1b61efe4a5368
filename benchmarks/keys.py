"""What keys cost: two services, one that asks for a key and one that is open, under the same load in turn.

    python -m benchmarks.keys [--rounds 8] [--seconds 4]

First what the look at a request costs alone, in this process: the least of many turns, which others disturb little.
Then each pair of loads gives a ratio, asked for a key over open, of readings a second and of the service's CPU time a
reading. Which of the two comes first alternates. On a machine that others use, many short rounds and the cheapest tenth
of each service's loads say more than the mean. 2 x 64 LSTM, 8 channels, one Redis, streams of each load's own.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0, help="a load's length")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
        with Redis.from_url(private.url) as client:
            redis_pid = int(client.info("server")["process_id"])
        common = {
            **PATIENT,
            "GATEWATCH_REDIS_URL": private.url,
            "GATEWATCH_MODEL": str(artefact(Path(scratch) / "artefact")),
        }
        key = access.add_to_file(Path(scratch) / "keys.json", "default", "ingest")
        print("a look at a request, µs:", asyncio.run(looks(private.url, Path(scratch) / "keys.json", key)), flush=True)
        asking = common | {"GATEWATCH_OPEN": "never", "GATEWATCH_KEYS_FILE": str(Path(scratch) / "keys.json")}
        with server(SERVE, common) as (open_port, open_pid), server(SERVE, asking) as (port, pid):
            ways = {False: (open_port, open_pid, None), True: (port, pid, key)}
            for turn in range(-1, options.rounds):  # the first warms up
                for name, size, connections, a_second in LOADS:
                    found = {}
                    for asked in (turn % 2 == 0, turn % 2 == 1):
                        to, of, shown = ways[asked]
                        rounds = max(20, int(a_second * options.seconds / connections))
                        seed = 1000 * (turn + 2) + 10 * connections + asked
                        sent = bodies(connections, rounds, size, seed)
                        load = drive(to, (of, redis_pid), "/v1/readings", sent, size, options.seconds, shown)
                        if set(load.statuses) != {"200"}:
                            raise RuntimeError(f"not all were scored: {load.statuses}")
                        found[asked] = load
                    if turn >= 0:
                        what = f"{name}, {connections} connections"
                        rates.setdefault(what, []).append(found[True].rate / found[False].rate)
                        costs.setdefault(what, []).append((found[False].cpu_us(0), found[True].cpu_us(0)))
    table = Table(title=f"{options.rounds} rounds in turn; with keys over without")
    for column in (
        "load", "open, µs", "keys, µs", "cheapest tenths", "their ratio", "CPU ratio", "25 to 75 %", "rate ratio",
        "25 to 75 %",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "load" else "right")
    for what in rates:
        cpu = np.array(costs[what])
        least = np.quantile(cpu, 0.1, axis=0)
        row = [f"{cpu[:, 0].mean():.1f}", f"{cpu[:, 1].mean():.1f}", f"{least[0]:.1f}, {least[1]:.1f}"]
        row.append(f"{least[1] / least[0]:.3f}")
        for ratios in (cpu[:, 1] / cpu[:, 0], np.array(rates[what])):
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            row += [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
        table.add_row(what, *row)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
