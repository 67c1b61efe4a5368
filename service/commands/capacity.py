"""gatewatch capacity: what a number of streams needs of Redis and of the service, from what was measured."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from gatewatch.models.errors import GatewatchError
from gatewatch.service.settings import Settings

COEFFICIENTS: Final = Path(__file__).with_name("capacity.json")
"""Written by `python -m benchmarks.capacity`."""

BUSY: Final = 0.65
"""Share of a core that a process of service or Redis is planned to use; the rest is for bursts and failovers."""

FULL: Final = 0.8
"""Share of `maxmemory` that data is planned to use; the alert GatewatchStoreNearlyFull comes at 0.85."""

REWRITE: Final = 1.5
"""Memory of a machine for each byte of `maxmemory`: while Redis rewrites its file, it copies the pages that change."""

CACHES: Final = 2 * int(Settings.model_fields["record_cache_bytes"].default)
"""Bytes that a process comes to hold with many streams: records, and their keys and names (134 MiB, measured)."""

REPLICAS_MIN: Final = 2

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


class Line(msgspec.Struct, frozen=True):
    """A cost that grows with the channels: `fixed`, and `channel` for each of them."""

    fixed: float
    channel: float

    def of(self, channels: int) -> float:
        """The cost with so many channels."""
        return self.fixed + self.channel * channels


class Coefficients(msgspec.Struct, frozen=True):
    """What was measured of one kind of model.

    Attributes:
        stream_bytes: of a stream in Redis, but for its history.
        kept_bytes: of a reading in a stream's history.
        service_us, redis_us: CPU time of a reading, in requests of many.
        service_request_us, redis_request_us: CPU time of a request, beside its readings, where each is alone.
        sent_bytes: body of a reading, from its sender.
        to_redis_bytes, from_redis_bytes: of a reading, on the network.
        file_bytes: of a reading, in the append-only file.
        process_bytes: resident memory of a process with few streams.
    """

    stream_bytes: Line
    kept_bytes: Line
    service_us: Line
    redis_us: Line
    service_request_us: Line
    redis_request_us: Line
    sent_bytes: Line
    to_redis_bytes: Line
    from_redis_bytes: Line
    file_bytes: Line
    process_bytes: Line


class Need(msgspec.Struct, frozen=True):
    """What is needed. Bytes, bytes a second, cores.

    Attributes:
        data_bytes: in all of Redis; memory_bytes: `maxmemory` of all shards together.
    """

    readings_per_s: float
    data_bytes: float
    memory_bytes: float
    shards: int
    redis_cores: float
    service_cores: float
    replicas: int
    process_bytes: float
    sent_bytes_per_s: float
    to_redis_bytes_per_s: float
    from_redis_bytes_per_s: float
    file_bytes_per_s: float


def load(path: Path = COEFFICIENTS) -> dict[str, Coefficients]:
    """The coefficients of each kind of model, `general` and `trained`."""
    return msgspec.convert(json.loads(path.read_text())["models"], dict[str, Coefficients])


def plan(
    one: Coefficients, streams: int, interval_s: float, channels: int, kept: int, per_request: int, shard_bytes: float
) -> Need:
    """What so many streams need.

    Args:
        kept: readings in each stream's history.
        per_request: readings in a request.
        shard_bytes: `maxmemory` of one Redis.
    """
    rate = streams / interval_s
    data = streams * (one.stream_bytes.of(channels) + kept * one.kept_bytes.of(channels))
    alone = 1 / per_request
    service = rate * 1e-6 * (one.service_us.of(channels) + alone * one.service_request_us.of(channels))
    redis = rate * 1e-6 * (one.redis_us.of(channels) + alone * one.redis_request_us.of(channels))
    return Need(
        readings_per_s=rate,
        data_bytes=data,
        memory_bytes=data / FULL,
        shards=max(math.ceil(data / FULL / shard_bytes), math.ceil(redis / BUSY), 1),
        redis_cores=redis,
        service_cores=service,
        replicas=max(REPLICAS_MIN, math.ceil(service / BUSY)),
        process_bytes=one.process_bytes.of(channels) + CACHES,
        sent_bytes_per_s=rate * one.sent_bytes.of(channels),
        to_redis_bytes_per_s=rate * one.to_redis_bytes.of(channels),
        from_redis_bytes_per_s=rate * one.from_redis_bytes.of(channels),
        file_bytes_per_s=rate * one.file_bytes.of(channels),
    )


def capacity(
    streams: Annotated[int, typer.Option(min=1, help="streams")],
    interval: Annotated[str, typer.Option(help="time between readings of a stream: 500ms, 10s, 1m, 1h")] = "10s",
    channels: Annotated[int, typer.Option(min=1, max=4096, help="channels of a stream")] = 8,
    model: Annotated[str, typer.Option(help="general, or trained (2 layers of 64 units)")] = "general",
    history: Annotated[
        int, typer.Option(min=1, max=65_536, help="readings kept of a stream [GATEWATCH_HISTORY_READINGS]")
    ] = Settings.model_fields["history_readings"].default,
    per_request: Annotated[int, typer.Option(min=1, help="readings in a request")] = 1000,
    shard_gib: Annotated[float, typer.Option(min=0.1, help="maxmemory of one Redis, GiB")] = 24.0,
    as_json: Annotated[bool, typer.Option("--json", help="print numbers, in bytes and seconds")] = False,
) -> None:
    """Say what a number of streams needs: Redis, replicas, network. From coefficients that a benchmark measured."""
    known = load()
    if model not in known:
        raise GatewatchError(f"--model is {model}; expected {' or '.join(known)}")
    need = plan(known[model], streams, seconds(interval), channels, history, per_request, shard_gib * 2**30)
    if as_json:
        print(json.dumps(msgspec.to_builtins(need), indent=1))
        return
    table = Table(show_header=False, title=f"{streams:,} streams, {channels} channels, every {interval}, {model} model")
    for what, value, why in rows(need, shard_gib):
        table.add_row(what, value, why)
    console = Console()
    console.print(table)
    console.print(json.loads(COEFFICIENTS.read_text())["measured"])


def rows(need: Need, shard_gib: float) -> list[tuple[str, str, str]]:
    """What is needed, in words: what, how much, why."""
    each = need.memory_bytes / need.shards
    return [
        ("readings a second", f"{need.readings_per_s:,.0f}", ""),
        ("Redis, data", f"{need.data_bytes / 2**30:,.1f} GiB", "with full histories"),
        ("Redis, shards", f"{need.shards}", f"of at most {shard_gib:g} GiB and {BUSY:.0%} of a core each"),
        (
            "Redis, maxmemory of each",
            f"{each / 2**30:,.1f} GiB",
            f"data is {FULL:.0%} of it; a machine of {REWRITE * each / 2**30:,.1f} GiB, for rewrites of the file",
        ),
        ("Redis, cores", f"{need.redis_cores:,.1f}", "of all shards; replicas of Redis need the same again"),
        ("Redis, file", f"{need.file_bytes_per_s / 1e6:,.1f} MB/s", "written to disk by all shards"),
        ("service, replicas", f"{need.replicas}", f"of one process, at {BUSY:.0%} of a core; one more to lose one"),
        ("service, cores", f"{need.service_cores:,.1f}", "of all replicas"),
        ("service, memory of each", f"{need.process_bytes / 2**20:,.0f} MiB", "resident, caches full"),
        ("network, senders", f"{need.sent_bytes_per_s / 1e6:,.1f} MB/s", "bodies of JSON, not compressed"),
        ("network, to Redis", f"{need.to_redis_bytes_per_s / 1e6:,.1f} MB/s", ""),
        ("network, from Redis", f"{need.from_redis_bytes_per_s / 1e6:,.1f} MB/s", ""),
    ]


def seconds(interval: str) -> float:
    """`500ms`, `10s`, `1m`, `1h`, or a number of seconds. Raises GatewatchError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", interval.strip().lower())
    unit = _UNITS.get(found[2] or "s") if found else None
    if found is None or unit is None or not float(found[1]):
        raise GatewatchError(f"--interval is {interval}; expected a time as 500ms, 10s, 1m or 1h")
    return float(found[1]) * unit
