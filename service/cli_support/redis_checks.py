"""What `gatewatch doctor` says of Redis: one server, Sentinels and their master, a Cluster, or our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redis import Redis, RedisError
from redis.asyncio import SSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

from gatewatch.models.findings import lasted
from gatewatch.service.cli_support.check import Check, Checks
from gatewatch.service.settings import Settings, redact
from gatewatch.service.storage.addresses import Address, address_of
from gatewatch.service.storage.private_redis import PrivateRedisError, server_binary

ANSWER_S = 2.0
"""Longest wait for an answer of Redis."""

SLOW_MS, APART_S = 5.0, 1.0
"""An answer of Redis that takes longer, and clocks further apart, are worth a word."""

LEAST_FREE = 2**30
"""Bytes free for an append-only file, which is rewritten beside itself."""

OLDEST_REDIS = (7, 0)
EVICTING = "noeviction"


def redis_checks(settings: Settings) -> Checks:
    """Whether Redis is there, keeps what it took, and has the time of this machine."""
    if settings.redis_url is None:
        yield from _private_redis(settings)
        return
    shown = redact(settings.redis_url)
    try:
        address = address_of(settings.redis_url)
        if address.kind == "sentinel":
            yield from _sentinels(address, settings)
        elif address.kind == "cluster":
            yield from _cluster(address, settings)
        else:
            with Redis.from_url(settings.redis_url, **_asking()) as client:
                yield from _server(client, shown, settings)
    except (RedisError, OSError, ValueError) as error:
        yield _away(shown, error)


def _asking() -> dict[str, Any]:
    return {
        "protocol": 2, "socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S,
        "retry": Retry(NoBackoff(), 0), "decode_responses": True,
    }  # fmt: skip


def _client(host: str, port: int, options: dict[str, Any], tls: bool) -> Redis:
    given = {name: value for name, value in options.items() if name != "connection_class"}
    return Redis(host=host, port=port, **{**_asking(), **given, "ssl": tls})


def _away(shown: str, error: Exception) -> Check:
    return Check("Redis", "wrong", f"{shown} does not answer: {error}; is it running, and may this machine reach it?")


def _server(client: Redis, shown: str, settings: Settings, mode: str = "standalone") -> Checks:
    """A server that takes readings. Raises RedisError where it does not answer."""
    began = time.monotonic()
    client.ping()
    took_ms = 1000 * (time.monotonic() - began)
    info = _told(lambda: client.info("server"))
    found = info.get("redis_mode", mode)
    if found != mode:
        right = {"sentinel": "redis+sentinel://HOST:PORT/NAME", "cluster": "redis+cluster://HOST:PORT"}
        words = right.get(found, "redis://HOST:PORT")
        yield Check("Redis", "wrong", f"{shown} is of mode {found}: name it {words} in GATEWATCH_REDIS_URL")
        return
    yield from _answering(client, shown, took_ms, info)
    yield from _durability(client, settings)
    yield from _replication(client, shown, settings)
    yield from _clock(client)


def _answering(client: Redis, shown: str, took_ms: float, info: dict[str, Any]) -> Checks:
    version = str(info.get("redis_version") or info.get("valkey_version") or "unknown")
    slow = took_ms > SLOW_MS
    words = f"{shown} answers in {took_ms:.1f} ms, version {version}"
    yield Check(
        "Redis", "note" if slow else "ok", words + ("; each batch waits for that: move it nearer" if slow else "")
    )
    parts = version.split(".")
    if all(part.isdigit() for part in parts[:2]) and tuple(map(int, parts[:2])) < OLDEST_REDIS:
        yield Check("Redis", "note", f"version {version} is older than what is tested: Redis 7 or Valkey 8")
    policy = str(_told(lambda: client.config_get("maxmemory-policy")).get("maxmemory-policy", ""))
    if policy and policy != EVICTING:
        yield Check("Redis", "wrong", f"maxmemory-policy is {policy}: states may be evicted; set it to noeviction")


def _replication(client: Redis, shown: str, settings: Settings) -> Checks:
    """Whether it may be written, and has the replicas that are waited for."""
    found = _told(lambda: client.info("replication"))
    if found.get("role") == "slave":
        yield Check(
            "Redis", "wrong",
            f"{shown} is a replica and takes no readings: name its master {found.get('master_host')}:"
            f"{found.get('master_port')}, or the Sentinels, in GATEWATCH_REDIS_URL",
        )  # fmt: skip
    replicas = found.get("connected_slaves")
    if replicas is not None and int(replicas) < settings.store_replicas:
        yield Check(
            "durability", "wrong",
            f"{shown} has {replicas} replicas, but GATEWATCH_STORE_REPLICAS is {settings.store_replicas}: no reading "
            "is acknowledged",
        )  # fmt: skip


def _sentinels(address: Address, settings: Settings) -> Checks:
    """The Sentinels, which of them answer and agree; then the master that they name."""
    tls = address.options.get("connection_class") is SSLConnection
    masters: dict[str, tuple[str, int]] = {}
    quorum = ""
    for host, port in address.hosts:
        name = f"{host}:{port}"
        try:
            with _client(host, port, address.sentinel_options, tls) as client:
                found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)
                if not found:
                    yield Check("Redis", "wrong", f"the Sentinel {name} knows no master called {address.master}")
                    continue
                masters[name] = str(found[0]), int(found[1])
                with contextlib.suppress(ResponseError):
                    client.execute_command("SENTINEL", "CKQUORUM", address.master)
                    quorum = "; enough of them are there for a failover"
        except (RedisError, OSError) as error:
            yield Check("Redis", "note", f"the Sentinel {name} does not answer: {error}")
    if not masters:
        yield Check("Redis", "wrong", f"no Sentinel names a master called {address.master}")
        return
    named = {f"{host}:{port}" for host, port in masters.values()}
    share = f"{len(masters)} of {len(address.hosts)}"
    words = f"{share} Sentinels say that {address.master} is {' or '.join(sorted(named))}"
    if len(named) > 1:
        yield Check("Redis", "wrong", f"{words}: look at their logs, and at the clock and network between them")
    elif quorum:
        yield Check("Redis", "ok", words + quorum)
    else:
        yield Check("Redis", "wrong", f"{words}; too few of them are there for a failover (SENTINEL CKQUORUM)")
    host, port = next(iter(masters.values()))
    try:
        with _client(host, port, address.options, tls) as client:
            yield from _server(client, f"the master {host}:{port}", settings)
    except (RedisError, OSError) as error:
        yield _away(f"the master {host}:{port}", error)


def _cluster(address: Address, settings: Settings) -> Checks:
    """Whether all slots are served, then each master; what is well with all of them in one line."""
    tls = address.options.get("connection_class") is SSLConnection
    masters: list[tuple[str, int]] = []
    for host, port in address.hosts:
        try:
            with _client(host, port, address.options, tls) as client:
                state = client.execute_command("CLUSTER", "INFO")
                masters = _masters(client.execute_command("CLUSTER", "SLOTS"), host)
        except ResponseError as error:
            yield Check(
                "Redis", "wrong", f"{host}:{port} is no node of a Cluster: {error}; name it redis://{host}:{port}"
            )
            return
        except (RedisError, OSError) as error:
            yield Check("Redis", "note", f"the node {host}:{port} does not answer: {error}")
            continue
        state = state if isinstance(state, dict) else dict(line.split(":", 1) for line in state.split() if ":" in line)
        if state.get("cluster_state") != "ok":
            yield Check(
                "Redis", "wrong",
                f"the Cluster is in state {state.get('cluster_state')}, {state.get('cluster_slots_ok')} of 16384 slots "
                "are served: streams of the others get 503",
            )  # fmt: skip
        break
    else:
        yield Check("Redis", "wrong", f"none of the {len(address.hosts)} nodes named answers")
        return
    well: list[str] = []
    for host, port in masters:
        name = f"the master {host}:{port}"
        try:
            with _client(host, port, address.options, tls) as client:
                found = list(_server(client, name, settings, "cluster"))
        except (RedisError, OSError) as error:
            found = [_away(name, error)]
        for check in found:
            if check.verdict != "ok":
                words = check.words if name in check.words else f"{name}: {check.words}"
                yield Check(check.about, check.verdict, words)
        if all(check.verdict != "wrong" for check in found):
            well.append(f"{host}:{port}")
    if well:
        yield Check(
            "Redis", "ok",
            f"{len(well)} of {len(masters)} masters of the Cluster answer and keep what they took",
        )  # fmt: skip


def _masters(slots: Any, asked: str) -> list[tuple[str, int]]:
    """Who has slots, of the answer to CLUSTER SLOTS; a node that does not know its address has the one asked."""
    if isinstance(slots, dict):  # as redis-py reads it
        places: Sequence[Any] = [of["primary"] for of in slots.values()]
    else:
        places = [row[2] for row in slots]
    return sorted({(str(place[0] or asked), int(place[1])) for place in places})


def _durability(client: Redis, settings: Settings) -> Checks:
    found = _told(lambda: client.config_get("append*"))
    if not found:
        yield Check(
            "durability", "note", "Redis does not tell its settings to this user; see docs/operations.md for CONFIG GET"
        )
        return
    kept, sync = found.get("appendonly") == "yes", found.get("appendfsync")
    if not kept:
        yield Check("durability", "wrong", "appendonly is no: a restart of Redis forgets readings; set appendonly yes")
    elif settings.durability == "strict" and sync != "always":
        yield Check(
            "durability", "wrong", f"GATEWATCH_DURABILITY is strict, but appendfsync is {sync}; set it to always"
        )
    else:
        lost = "nothing is lost to a power cut" if sync == "always" else "a power cut may cost the last two seconds"
        yield Check("durability", "ok", f"appendonly yes, appendfsync {sync}: {lost}")


def _clock(client: Redis) -> Checks:
    seconds, micros = _told(lambda: client.time(), (0, 0))
    if not seconds:
        return
    apart = abs(time.time() - (int(seconds) + int(micros) / 1e6))
    if apart > APART_S:
        yield Check(
            "clock", "note",
            f"this machine and Redis are {lasted(apart)} apart: readings ahead of this clock are rejected "
            "(GATEWATCH_FUTURE_S); set both by NTP",
        )  # fmt: skip
    else:
        yield Check("clock", "ok", f"within {max(apart, 0.001):.3f} s of that of Redis")


def _told(asked: Callable[[], Any], nothing: Any = None) -> Any:
    """An answer of Redis, or nothing where the user may not ask."""
    try:
        return asked()
    except RedisError:
        return {} if nothing is None else nothing


def _private_redis(settings: Settings) -> Checks:
    try:
        yield Check("Redis", "ok", f"GATEWATCH_REDIS_URL is not set: serve starts {server_binary()} of its own")
    except PrivateRedisError as error:
        yield Check("Redis", "wrong", str(error))
    folder = settings.data_dir.resolve()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(there, os.W_OK):
        yield Check("durability", "wrong", f"{folder} cannot be written: set GATEWATCH_DATA_DIR to a folder that can")
        return
    free = shutil.disk_usage(there).free
    words = f"data goes to {folder}, {free / 2**30:.0f} GiB are free there"
    if _forgotten(there):
        yield Check(
            "durability",
            "wrong",
            f"{folder} lies in memory (tmpfs) and is gone after a restart: set GATEWATCH_DATA_DIR",
        )
    elif free < LEAST_FREE:
        yield Check("durability", "note", f"{words}; the append-only file is rewritten beside itself and may need more")
    else:
        sync = (
            "nothing is lost to a power cut" if settings.durability == "strict" else "a power cut may cost two seconds"
        )
        yield Check("durability", "ok", f"{words}; GATEWATCH_DURABILITY is {settings.durability}: {sync}")


def _forgotten(folder: Path) -> bool:
    """Whether a folder lies on a file system in memory."""
    with contextlib.suppress(OSError):
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
        inside = [(point, kind) for point, kind in mounts if folder.is_relative_to(point.replace("\\040", " "))]
        return bool(inside) and max(inside, key=lambda mount: len(mount[0]))[1] in ("tmpfs", "ramfs")
    return False
