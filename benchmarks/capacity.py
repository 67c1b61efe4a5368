"""What a reading and a stream cost, for `gatewatch capacity`; and the model against runs of its own.

    python -m benchmarks.capacity                # measures, and writes service/commands/capacity.json
    python -m benchmarks.capacity --check        # 200,000 streams of few readings, 20,000 with a full history
    python -m benchmarks.capacity --check --model trained --few 1000000 --full 200000 --history 16
    python -m benchmarks.capacity --check --few 0 --full 200000 --copied

With `--copied`, only the first 1,000 streams with a full history are sent. Their records and histories are written
under the other names as the service writes them, reading by reading, and each copy then takes a reading that is sent:
no state may have to be rebuilt. CPU time is that of these readings. Redis writes no file while it is filled.

Costs are measured at 1 and 8 channels and taken to be a line between. CPU time is that of the processes, so a machine
that is busy with others changes it little. The checks are with 4 channels, which were not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from redis import Redis
from rich.console import Console
from rich.table import Table

from benchmarks.load import PATIENT, START, artefact, bodies, drive, resident_mib, server
from benchmarks.speed import SERVE
from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.service.commands.capacity import COEFFICIENTS, load, plan
from gatewatch.service.core import records as state
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from gatewatch.service.storage.store import StateStore
from tests.support.balanced import get

BULK, STREAMS, KEPT, FEW = 1000, 1000, 128, 4
CHANNELS = (1, 8)
ALONE, EACH = 32, 60
"""Connections that send readings one by one, and how many each sends."""

CHECKED_CHANNELS = 4

COPIED = 100
"""Streams whose copies are written at once."""


class Running:
    """A service on a Redis of its own."""

    def __init__(self, port: int, pids: tuple[int, int], client: Redis, environment: dict[str, str]) -> None:
        self.port, self.pids, self.client, self.environment = port, pids, client, environment

    def info(self) -> dict[str, float]:
        """Bytes that Redis has in memory, and has got, sent and written since its start; of a file that is off, 0."""
        found: Any = self.client.info("all")
        names = ("used_memory", "total_net_input_bytes", "total_net_output_bytes", "aof_current_size")
        return {name: float(found.get(name, 0)) for name in names}

    def send(self, sent: list[list[bytes]], size: int) -> dict[str, float]:
        """Send all bodies; what a reading cost. The first body of each connection is not counted."""
        before = self.info()
        load = drive(self.port, self.pids, "/v1/readings", sent, size, 3600)
        after = self.info()
        if set(load.statuses) != {"200"}:
            raise RuntimeError(f"not all were scored: {load.statuses}")
        counted = load.readings
        every = sum(len(own) for own in sent) * size
        return {
            "service_us": load.cpu_us(0),
            "redis_us": load.cpu_us(1),
            "readings": float(counted),
            "to_redis": (after["total_net_input_bytes"] - before["total_net_input_bytes"]) / every,
            "from_redis": (after["total_net_output_bytes"] - before["total_net_output_bytes"]) / every,
            "file": (after["aof_current_size"] - before["aof_current_size"]) / every,
        }


@contextmanager
def running(model: str, channels: int, history: int = KEPT) -> Iterator[Running]:
    """A service and its Redis.

    Args:
        model: general or trained.
        history: readings kept of a stream.
    """
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **PATIENT,
            "GATEWATCH_STREAMS": "10000000",
            "GATEWATCH_HISTORY_READINGS": str(history),
        }
        if model == "general":
            names = ",".join(f"c{number}" for number in range(channels))
            environment |= {"GATEWATCH_MODEL": "general", "GATEWATCH_CHANNELS": names}
        else:
            environment["GATEWATCH_MODEL"] = str(artefact(Path(scratch) / "artefact", 64, channels))
        with start_private_redis(Path(scratch) / "redis") as private, Redis.from_url(private.url) as client:
            client.config_set("auto-aof-rewrite-percentage", 0)
            redis_pid = int(client.info("server")["process_id"])
            environment["GATEWATCH_REDIS_URL"] = private.url
            with server(SERVE, environment) as (port, pid):
                yield Running(port, (pid, redis_pid), client, environment)


def measured(model: str, channels: int) -> dict[str, float]:
    """Of one number of channels: each cost of Coefficients."""
    with running(model, channels) as one:
        empty = one.info()["used_memory"]
        rounds = STREAMS // BULK
        every = bodies(1, KEPT * rounds, BULK, 1, channels, STREAMS)[0]
        one.send([every[: FEW * rounds]], BULK)
        few = (one.info()["used_memory"] - empty) / STREAMS
        cost = one.send([every[FEW * rounds :]], BULK)
        full = (one.info()["used_memory"] - empty) / STREAMS
        resident = resident_mib(one.pids[0]) * 2**20
        alone = one.send(bodies(ALONE, EACH, 1, 2, channels), 1)
    kept = (full - few) / (KEPT - FEW)
    return {
        "stream_bytes": full - KEPT * kept,
        "kept_bytes": kept,
        "service_us": cost["service_us"],
        "redis_us": cost["redis_us"],
        "service_request_us": alone["service_us"] - cost["service_us"],
        "redis_request_us": alone["redis_us"] - cost["redis_us"],
        "sent_bytes": len(every[-1]) / BULK,
        "to_redis_bytes": cost["to_redis"],
        "from_redis_bytes": cost["from_redis"],
        "file_bytes": cost["file"],
        "process_bytes": resident,
    }


def line(few: float, many: float) -> dict[str, float]:
    """Through two points, but for what noise would make less than nothing."""
    slope = max(0.0, (many - few) / (CHANNELS[1] - CHANNELS[0]))
    fixed = few - slope * CHANNELS[0]
    if fixed < 0:
        fixed, slope = 0.0, many / CHANNELS[1]
    return {"fixed": round(fixed, 2), "channel": round(slope, 3)}


def measure(console: Console) -> None:
    """Measure both kinds of model, and write the file."""
    models = {}
    for model in ("general", "trained"):
        few, many = (measured(model, channels) for channels in CHANNELS)
        models[model] = {what: line(few[what], many[what]) for what in few}
        console.print(model, models[model])
    when = datetime.now(UTC).date().isoformat()
    said = f"Measured {when}, version {version('gatewatch')}, {os.cpu_count()} cores, by python -m benchmarks.capacity."
    COEFFICIENTS.write_text(json.dumps({"measured": said, "models": models}, indent=1) + "\n")


def check(console: Console, model: str, streams: int, readings: int, history: int) -> None:
    """Run so many streams, each with so many readings, and print the capacity model against the run.

    Args:
        model: general or trained.
        history: readings kept of a stream, at least those that it sends.
    """
    need = plan(load()[model], streams, 1.0, CHECKED_CHANNELS, readings, BULK, 2**34)
    rounds = streams // BULK
    with running(model, CHECKED_CHANNELS, history) as one:
        empty, cpu, counted, totals = one.info()["used_memory"], [0.0, 0.0], 0.0, [0.0, 0.0, 0.0]
        parts = max(1, streams * readings // 200_000)  # bodies of one part at a time in memory
        for part in range(parts):
            own = streams // parts // BULK * BULK
            sent = bodies(1, readings * own // BULK, BULK, part, CHECKED_CHANNELS, own)
            cost = one.send(sent, BULK)
            counted += cost["readings"]
            for at, what in enumerate(("service_us", "redis_us")):
                cpu[at] += cost[what] * cost["readings"]
            for at, what in enumerate(("to_redis", "from_redis", "file")):
                totals[at] += cost[what] * len(sent[0]) * BULK
        held, every = one.info()["used_memory"] - empty, streams // parts // BULK * BULK * parts
        resident = resident_mib(one.pids[0]) * 2**20
    table = Table(
        title=f"{model}: {every:,} streams ({rounds} x 1,000 asked), {readings} readings each, "
        f"{CHECKED_CHANNELS} channels"
    )
    for column in ("what", "model", "run", "model / run"):
        table.add_column(column, justify="left" if column == "what" else "right")
    number = every * readings
    for what, told, found in (
        ("bytes a stream", need.data_bytes / streams, held / every),
        ("service µs a reading", 1e6 * need.service_cores / need.readings_per_s, cpu[0] / counted),
        ("Redis µs a reading", 1e6 * need.redis_cores / need.readings_per_s, cpu[1] / counted),
        ("bytes to Redis a reading", need.to_redis_bytes_per_s / need.readings_per_s, totals[0] / number),
        ("bytes from Redis a reading", need.from_redis_bytes_per_s / need.readings_per_s, totals[1] / number),
        ("bytes of file a reading", need.file_bytes_per_s / need.readings_per_s, totals[2] / number),
        ("MiB of the process", need.process_bytes / 2**20, resident / 2**20),
    ):
        table.add_row(what, f"{told:,.1f}", f"{found:,.1f}", f"{told / found:.2f}")
    console.print(table)


async def copy(one: Running, copies: int) -> None:
    """Write so many copies of each of the STREAMS streams that were sent, whose names begin with `s0-`."""
    names = one.environment.get("GATEWATCH_CHANNELS", "")
    folder = model_folder(one.environment["GATEWATCH_MODEL"])
    detector = load_detector(folder, tuple(names.split(",")) if names else ())
    stepper = Stepper(detector, int(one.environment["GATEWATCH_HISTORY_READINGS"]))
    store = StateStore(one.environment["GATEWATCH_REDIS_URL"], str(Settings.model_fields["tenant"].default), 600_000)
    store.watches = float(Settings.model_fields["silent_after"].default) > 0
    for first in range(0, STREAMS, COPIED):
        streams = [StreamKey(store.tenant, f"s0-0-{at}") for at in range(first, first + COPIED)]
        packed, rings = await store.load(streams), await store.load_histories(streams)
        layouts, seeds = [stepper.usual] * COPIED, store.seeds(streams)
        records, _, flaws = state.unpack(packed, seeds, stepper.record, layouts, detector.digest, stepper.slots)
        kept = [stepper.read_history(*of) for of in zip(rings, layouts, seeds, strict=True)]
        if flaws or {len(entries) for entries in kept} != {stepper.slots}:
            raise RuntimeError(f"the streams that are copied are not whole: {flaws}")
        for number in range(1, copies + 1):
            others = [StreamKey(store.tenant, f"s{number}-0-{at}") for at in range(first, first + COPIED)]
            seeds = store.seeds(others)
            writes = Writes(START, others, [b""] * COPIED, state.pack(records, layouts, seeds))
            writes.channels = dict.fromkeys(range(COPIED), len(detector.channels))
            for row, (seed, entries) in enumerate(zip(seeds, kept, strict=True)):
                writes.slots += stepper.slots_anew(stepper.usual, seed, row, entries)
            async with store.begin(others) as work:
                await work.send(writes)
                if not all(await work.saved()):
                    raise RuntimeError("a copy was not saved")
    await store.close()


def check_copied(console: Console, model: str, streams: int, history: int) -> None:
    """Hold the model against a run with so many streams of a full history, all but STREAMS of them copied."""
    need = plan(load()[model], streams, 1.0, CHECKED_CHANNELS, history, BULK, 2**34)
    copies = streams // STREAMS - 1
    with running(model, CHECKED_CHANNELS, history) as one:
        empty = one.info()["used_memory"]
        alone = one.send(bodies(1, history * STREAMS // BULK, BULK, 0, CHECKED_CHANNELS, STREAMS), BULK)
        of_alone = one.info()["used_memory"] - empty
        one.client.config_set("appendonly", "no")
        asyncio.run(copy(one, copies))
        held = one.info()["used_memory"] - empty
        one.client.config_set("appendonly", "yes")
        while one.client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(1)
        values = dict.fromkeys([f"c{number}" for number in range(CHECKED_CHANNELS)], 0.5)
        moment = {"seq": history, "timestamp": START + 60 * history, "values": values}
        following = [
            json.dumps([{"stream": f"s{number}-0-{at}", **moment} for at in range(STREAMS)]).encode()
            for number in range(copies + 1)
        ]
        cost = one.send([following], STREAMS)
        resident, metrics = resident_mib(one.pids[0]) * 2**20, get(one.port, "/metrics")[1]
    rebuilt = sum(float(row.split()[1]) for row in metrics.splitlines() if row.startswith("gatewatch_states_rebuilt"))
    console.print(
        f"{held / 2**30:.2f} GiB; the first 1,000 alone: {of_alone / STREAMS:,.0f} bytes each, service "
        f"{alone['service_us']:.1f}, Redis {alone['redis_us']:.1f} µs a reading; states rebuilt: {rebuilt:.0f}"
    )
    table = Table(title=f"{model}: {streams:,} streams of {history} readings, {CHECKED_CHANNELS} channels, most copied")
    for column in ("what", "model", "run", "model / run"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, told, found in (
        ("bytes a stream", need.data_bytes / streams, held / streams),
        ("service µs a reading", 1e6 * need.service_cores / need.readings_per_s, cost["service_us"]),
        ("Redis µs a reading", 1e6 * need.redis_cores / need.readings_per_s, cost["redis_us"]),
        ("MiB of the process", need.process_bytes / 2**20, resident / 2**20),
    ):
        table.add_row(what, f"{told:,.1f}", f"{found:,.1f}", f"{told / found:.2f}")
    console.print(table)


def main() -> None:
    """Measure, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="run streams and compare, instead of measuring")
    parser.add_argument("--model", choices=("general", "trained"), default="general", help="that is checked")
    parser.add_argument("--few", type=int, default=200_000, help="streams of few readings")
    parser.add_argument("--full", type=int, default=20_000, help="streams with a full history")
    parser.add_argument("--history", type=int, default=KEPT, help="readings that a full history has")
    parser.add_argument("--copied", action="store_true", help="send 1,000 streams with a full history, copy the others")
    options = parser.parse_args()
    console = Console(width=120)
    if not options.check:
        measure(console)
        return
    if options.few:
        check(console, options.model, options.few, 2, KEPT)
    if options.full and options.copied:
        check_copied(console, options.model, options.full, options.history)
    elif options.full:
        check(console, options.model, options.full, options.history, options.history)


if __name__ == "__main__":
    main()
