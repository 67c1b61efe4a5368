"""Speed of the general model by number of channel lists among the streams, in turn with another version.

    python -m benchmarks.channel_lists [--seconds 4] [--turns 2] [--before FOLDER]

Readings a second and CPU time a reading of the service, in bulk: 4 connections, 1,000 readings of as many streams in a
request, 4 channels a reading. Load generator, service and Redis share the machine's cores. `--before` names a checkout
that is measured beside this one with GATEWATCH_CHANNELS, as it needs them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from redis import Redis

from benchmarks.load import PATIENT, START, Load, drive, resident_mib, server
from gatewatch.service.storage.private_redis import start_private_redis

BULK, CONNECTIONS, ROUNDS = 1000, 4, 30
WIDTHS = range(1, 9)


def bodies(lists: int, mixed: bool) -> list[list[bytes]]:
    """For each connection requests of readings whose streams have so many lists of channels among them.

    Args:
        mixed: the lists have 1 to 8 channels instead of 4.
    """
    draw = np.random.default_rng(0)
    widths = [WIDTHS[at % len(WIDTHS)] if mixed else 4 for at in range(lists)]
    names = [[f"c{n}" if lists == 1 else f"c{at}.{n}" for n in range(width)] for at, width in enumerate(widths)]
    made = []
    for connection in range(CONNECTIONS):
        mine = []
        for turn in range(ROUNDS):
            table = draw.normal(size=(BULK, max(widths))).round(3).tolist()
            readings = [
                {
                    "stream": f"s{connection}-{at}",
                    "seq": turn,
                    "timestamp": START + 60 * turn,
                    "values": dict(zip(names[at % lists], row, strict=False)),
                }
                for at, row in enumerate(table)
            ]
            mine.append(json.dumps(readings).encode())
        made.append(mine)
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="a load's length")
    parser.add_argument("--turns", type=int, default=2, help="measurements of each")
    parser.add_argument("--before", type=Path, help="a checkout of another version")
    options = parser.parse_args()
    named = {"GATEWATCH_CHANNELS": "c0,c1,c2,c3"}
    here = [sys.executable, "-m", "gatewatch", "serve"]
    cases: dict[str, tuple[list[str], dict[str, str], int, bool]] = {}
    if options.before:
        cases["the version before, one list, named"] = (["env", "-C", str(options.before), *here], named, 1, False)
    cases["one list, named"] = here, named, 1, False
    for lists in (1, 10, 100, 1000):
        cases[f"{lists:,} list{'s' * (lists > 1)}"] = here, {}, lists, False
    cases["1,000 lists of 1 to 8 channels"] = here, {}, 1000, True
    found: dict[str, list[tuple[Load, float]]] = {what: [] for what in cases}
    with tempfile.TemporaryDirectory() as scratch:
        for turn, (what, (command, environment, lists, mixed)) in product(range(options.turns), cases.items()):
            folder = Path(scratch) / f"{turn}-{list(cases).index(what)}"
            with start_private_redis(folder, "everysec") as private:
                with Redis.from_url(private.url) as client:
                    redis_pid = int(client.info("server")["process_id"])
                known = {
                    **PATIENT,
                    "GATEWATCH_REDIS_URL": private.url,
                    **environment,
                }
                with server(command, known) as (port, pid):
                    load = drive(port, (pid, redis_pid), "/v1/readings", bodies(lists, mixed), BULK, options.seconds)
                    found[what].append((load, resident_mib(pid)))
    print("| what | readings/s | service µs | Redis µs | p99 ms | MiB |\n|---|---|---|---|---|---|")
    for what, loads in found.items():
        rates = [load.rate for load, _ in loads]
        service, redis = (statistics.median(load.cpu_us(of) for load, _ in loads) for of in (0, 1))
        p99, mib = max(load.percentile(0.99) for load, _ in loads), max(mib for _, mib in loads)
        print(f"| {what} | {statistics.median(rates):,.0f} | {service:.1f} | {redis:.1f} | {p99:.0f} | {mib:.0f} |")


if __name__ == "__main__":
    main()
