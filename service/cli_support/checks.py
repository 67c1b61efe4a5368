"""What `gatewatch doctor` looks at, one check each: settings, model, Redis, durability, clock, service, Prometheus."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.errors import GatewatchError
from gatewatch.models.findings import lasted
from gatewatch.service.client.remote import ask, connected
from gatewatch.service.settings import Settings, redact, strays
from gatewatch.service.storage.private_redis import PrivateRedisError, server_binary

Verdict = Literal["ok", "note", "wrong"]

ANSWER_S = 2.0
"""Longest wait for Redis or another server."""

SLOW_MS, APART_S = 5.0, 1.0
"""An answer of Redis that takes longer, and clocks further apart, are worth a word."""

LEAST_FREE = 2**30
"""Bytes free for an append-only file, which is rewritten beside itself."""

OLDEST_REDIS = (7, 0)
EVICTING = "noeviction"


@dataclass(frozen=True)
class Check:
    """What one look came to: in plain words, with what to do where something is to be done."""

    about: str
    verdict: Verdict
    words: str


Checks = Iterator[Check]


def all_checks(settings: Settings, environment: Mapping[str, str], url: str, prometheus: str | None) -> Checks:
    """Every check, one after the other; each says its own trouble."""
    yield from _settings(settings, environment)
    yield from _model(settings)
    yield from _redis(settings)
    yield from _service(url)
    yield from _prometheus(prometheus)


def _settings(settings: Settings, environment: Mapping[str, str]) -> Checks:
    lines = strays(environment)
    for line in lines:
        yield Check("settings", "wrong" if "is not a setting" in line else "note", line)
    given = sorted(name for name in settings.redacted() if name in environment)
    if not lines:
        yield Check("settings", "ok", f"valid; set: {', '.join(given) if given else 'none, all have their defaults'}")
    limit = _open_files()
    if limit is not None and limit < settings.connections + 64:
        yield Check(
            "settings", "note",
            f"at most {limit} open files, but GATEWATCH_CONNECTIONS is {settings.connections}: raise `ulimit -n`, or "
            "lower it",
        )  # fmt: skip


def _open_files() -> int | None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None


def _model(settings: Settings) -> Checks:
    try:
        detector = load_detector(
            model_folder(settings.model), settings.channels, settings.alerts_per_week, unnamed=True
        )
        detector.require_live()
    except GatewatchError as error:
        yield Check("model", "wrong", f"GATEWATCH_MODEL={settings.model}: {error}")
        return
    shown = ", ".join(detector.channels[:8]) + (", ..." if len(detector.channels) > 8 else "")
    channels = f"{len(detector.channels)} channels: {shown}" if shown else "any channels"
    yield Check(
        "model",
        "ok",
        f"{settings.model}, version {detector.digest.hex()[:16]}, {channels}",
    )


def _redis(settings: Settings) -> Checks:
    if settings.redis_url is None:
        yield from _private_redis(settings)
        return
    shown = redact(settings.redis_url)
    try:
        with Redis.from_url(
            settings.redis_url, protocol=2, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0), decode_responses=True,
        ) as client:  # fmt: skip
            began = time.monotonic()
            client.ping()
            took_ms = 1000 * (time.monotonic() - began)
            yield from _answering(client, shown, took_ms)
            yield from _durability(client, settings)
            yield from _clock(client)
    except (RedisError, OSError, ValueError) as error:
        yield Check(
            "Redis", "wrong", f"{shown} does not answer: {error}; is it running, and may this machine reach it?"
        )


def _answering(client: Redis, shown: str, took_ms: float) -> Checks:
    info = _told(lambda: client.info("server"))
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


def _service(url: str) -> Checks:
    try:
        with connected(url) as client:
            client.timeout = ANSWER_S
            status, found = ask(client, "GET", "/readyz")
    except (GatewatchError, httpx2.HTTPError) as error:
        yield Check("service", "note", f"{error}; is `gatewatch serve` running there? --url names another place")
        return
    if status != 200:
        yield Check("service", "wrong", f"{url} is not ready ({status}): {str(found)[:200]}")
        return
    warnings = found.get("warnings", []) if isinstance(found, dict) else []
    for warning in warnings:
        yield Check("service", "note", f"{url} scores readings, but {warning}")
    if not warnings:
        yield Check("service", "ok", f"{url} is ready: a reading sent now is scored")


def _prometheus(url: str | None) -> Checks:
    if url is None:
        yield Check("Prometheus", "note", "not looked at: name it with --prometheus URL")
        return
    try:
        with connected(url) as client:
            client.timeout = ANSWER_S
            _, targets = ask(client, "GET", "/api/v1/targets")
            _, rules = ask(client, "GET", "/api/v1/rules")
            _, series = ask(
                client, "GET", "/api/v1/query", {"query": "count by (job, instance) (gatewatch_readings_total)"}
            )
        active = targets["data"]["activeTargets"]
        jobs = {one["metric"].get("instance") for one in series["data"]["result"]}
        named = [rule["name"] for group in rules["data"]["groups"] for rule in group["rules"]]
    except (GatewatchError, httpx2.HTTPError, KeyError, TypeError, AttributeError) as error:
        yield Check("Prometheus", "wrong", f"{url} does not answer as Prometheus does: {str(error)[:200]}")
        return
    ours = [one for one in active if "gatewatch" in str(one.get("labels", {}).get("job", "")).lower()]
    down = [one for one in ours if one.get("health") == "down"]
    for one in down:
        yield Check("Prometheus", "wrong", f"cannot scrape {one.get('scrapeUrl')}: {one.get('lastError')}")
    if not ours and not jobs:
        yield Check("Prometheus", "wrong", f"{url} scrapes no Gatewatch: add its /metrics, see docker/prometheus.yml")
    elif not down:
        yield Check("Prometheus", "ok", f"{url} scrapes {len(jobs) or len(ours)} instance(s)")
    if not any(name.startswith("Gatewatch") for name in named):
        yield Check("Prometheus", "note", "none of the alert rules Gatewatch... is loaded: see docs/operations.md")
