"""Memory and speed of one process by number of trained models that it serves, in turn with one model.

    python -m benchmarks.many_models [--models 1,10,100,1000] [--seconds 4] [--turns 2]

Each model is an LSTM of 2 x 32 for five channels, with a rule for its streams. Readings a second and CPU time a reading
of the service: in bulk, 4 connections with requests of 1,000 readings of as many streams, spread over all models; and
single readings on 32 connections, so of at most 32 models. Memory is that of the process once each model has scored a
reading, before the loads. Load generator, service and Redis share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from itertools import product
from pathlib import Path

import httpx2
import numpy as np
from redis import Redis

from benchmarks.load import PATIENT, START, Load, artefact, drive, resident_mib, server
from gatewatch.models.artefact.files import MANIFEST, manifest_hash
from gatewatch.models.artefact.repository import Repository
from gatewatch.service.storage.private_redis import start_private_redis

JSON = {"content-type": "application/json"}
CHANNELS, HIDDEN = 5, 32
BULK, CONNECTIONS, ROUNDS = 1000, 4, 30
ALONE, SINGLE_ROUNDS = 32, 2000


def repository_of(models: int, folder: Path) -> Repository:
    """One network under so many manifests, which makes as many models: a session each."""
    first = artefact(folder / "artefact", HIDDEN, CHANNELS)
    manifest = json.loads((first / MANIFEST).read_text())
    repository = Repository(str(folder / "models"), lambda _: None)
    for number in range(models):
        manifest["training"] = {**manifest["training"], "number": number}
        manifest["manifest_sha256"] = manifest_hash(manifest)
        (first / MANIFEST).write_text(json.dumps(manifest))
        repository.add(f"m{number}", first, "bench")
        repository.promote(f"m{number}", "1", "bench")
    return repository


def bodies(models: int, connections: int, rounds: int, bulk: int, prefix: str) -> list[list[bytes]]:
    """For each connection requests of readings of as many streams, spread over so many models; 0: the default one."""
    draw, made = np.random.default_rng(0), []
    names = [f"c{n}" for n in range(CHANNELS)]
    for connection in range(connections):
        mine = []
        for turn in range(rounds):
            readings = [
                {
                    "stream": f"m{(connection + at) % models if models else 'x'}-{prefix}{connection}-{at}",
                    "seq": turn,
                    "timestamp": START + 60 * turn,
                    "values": dict(zip(names, row, strict=True)),
                }
                for at, row in enumerate(draw.normal(size=(bulk, CHANNELS)).round(3).tolist())
            ]
            mine.append(json.dumps(readings if bulk > 1 else readings[0]).encode())
        made.append(mine)
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="1,10,100,1000", help="how many, by comma")
    parser.add_argument("--seconds", type=float, default=4.0, help="a load's length")
    parser.add_argument("--turns", type=int, default=2, help="measurements of each")
    options = parser.parse_args()
    counts = [0, *map(int, options.models.split(","))]
    found: dict[int, list[tuple[Load, Load, float]]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as scratch:
        repository = repository_of(max(counts), Path(scratch))
        for turn, count in product(range(options.turns), counts):
            with start_private_redis(Path(scratch) / f"{turn}-{count}", "everysec") as private:
                with Redis.from_url(private.url) as client:
                    redis_pid = int(client.info("server")["process_id"])
                known = {
                    **PATIENT,
                    "GATEWATCH_REDIS_URL": private.url,
                    "GATEWATCH_MODEL": str(Path(scratch) / "artefact"),
                    "GATEWATCH_MODELS": repository.url,
                }
                with server([sys.executable, "-m", "gatewatch", "serve"], known) as (port, pid):
                    rules = {"rules": [{"pattern": f"m{at}-*", "model": f"m{at}"} for at in range(count)]}
                    reply = httpx2.put(f"http://127.0.0.1:{port}/v1/rules", json=rules, timeout=600)
                    reply.raise_for_status()
                    (first,) = bodies(count, 1, 1, max(count, 1), "first")[0]
                    httpx2.post(f"http://127.0.0.1:{port}/v1/readings", content=first, headers=JSON, timeout=600)
                    mib = resident_mib(pid)
                    pids = pid, redis_pid
                    bulk = drive(
                        port,
                        pids,
                        "/v1/readings",
                        bodies(count, CONNECTIONS, ROUNDS, BULK, "bulk"),
                        BULK,
                        options.seconds,
                    )
                    alone = drive(
                        port, pids, "/v1/readings", bodies(count, ALONE, SINGLE_ROUNDS, 1, "one"), 1, options.seconds
                    )
                    found[count].append((bulk, alone, mib))
    print("| models | bulk readings/s | service µs | single readings/s | service µs | p99 ms | MiB | MiB more |")
    print("|---|---|---|---|---|---|---|---|")
    none = max(mib for _, _, mib in found[0])
    for count, loads in found.items():
        kinds = [bulk for bulk, _, _ in loads], [alone for _, alone, _ in loads]
        bulk_rate, alone_rate = (statistics.median(load.rate for load in of) for of in kinds)
        bulk_us, alone_us = (statistics.median(load.cpu_us(0) for load in of) for of in kinds)
        p99, mib = max(load.percentile(0.99) for load in kinds[1]), max(mib for _, _, mib in loads)
        what = f"{count:,}" if count else "none, the default model"
        print(
            f"| {what} | {bulk_rate:,.0f} | {bulk_us:.1f} | {alone_rate:,.0f} | {alone_us:.0f} | {p99:.1f} | {mib:.0f} "
            f"| {mib - none:.0f} |"
        )


if __name__ == "__main__":
    main()
