"""Health: whether Redis does what a reading needs, and whether it keeps what it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError

from gatewatch.service.core.records import FENCE
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage import encoder
from gatewatch.service.storage.connection import raise_first
from gatewatch.service.storage.database import Database, again_if_lost, text


async def try_reading(database: Database, now: float) -> bool:
    """Do what a reading does, with a key of nobody's: load, commit, compare and set, and count the streams.

    Returns:
        Whether the sets of the tenant are its own; if not, readings are taken all the same.

    Raises:
        StoreUnavailable: a reading sent now would get the same.
    """

    async def attempt() -> tuple[list[Any], list[Any]]:
        nobody, record = StreamKey(database.tenant, ""), bytes(FENCE.stop)  # no stream has this name
        keys = database.keys
        of = keys.of([nobody])
        writes = Writes(now, [nobody], [b""], [record], [(0, 0, b"\0")])
        async with database.node.connection() as connection:  # and, like a reading of a new stream, another meanwhile
            await connection.open()
            sets = await database.ask(*([b"ZCARD", key] for sets in keys.sets for key in sets))
            loading, load = encoder.watch_and_load(of)
            committing, commit = encoder.transaction(keys, writes, of)
            comparing, compare = encoder.comparison(keys, writes, of, [record[FENCE]])
            connection.send(loading + committing + comparing)
            return await connection.replies(load + commit + compare), sets

    async with database.within("try what a reading needs"):
        replies, sets = await again_if_lost(attempt)
        if isinstance(replies[-1], NoScriptError):
            await database.node.load_script()
            replies, sets = await again_if_lost(attempt)
        raise_first(replies)
        raise_first([reply for reply in sets if "WRONGTYPE" not in str(reply)])
        return not any(isinstance(reply, Exception) for reply in sets)


def commands(strict: bool) -> list[list[bytes]]:
    """What a server is asked whose replies `judge` takes."""
    strictly = [[b"INFO", b"persistence"], [b"CONFIG", b"GET", b"appendfsync"]] if strict else []
    return [[b"INFO", b"memory"], *strictly]


async def check(database: Database, strict: bool) -> list[str]:
    """Ask Redis whether it keeps states; see `judge`."""
    asked = commands(strict)
    try:
        async with database.within("check Redis"):
            replies = await database.ask(*asked)
    except StoreUnavailable as error:  # which takes readings all the same
        replies = [error.__cause__ or error] * len(asked)
    return judge(replies, strict) + ([database.other_buckets()] if database.other_buckets() else [])


def judge(replies: Sequence[Any], strict: bool) -> list[str]:
    """Whether a server keeps states: it never evicts ours and, if `strict`, syncs its append-only file.

    Returns:
        What may be wrong, or cannot be seen because Redis does not say.

    Raises:
        StoreUnavailable: says what Redis answered and what to change.
    """
    memory, *rest = replies
    warnings: list[str] = []
    if isinstance(memory, Exception):
        warnings.append(f"whether Redis may evict stream states cannot be seen: it refuses INFO ({memory})")
    else:
        lines = _lines(memory)
        policy = lines.get("maxmemory_policy", "noeviction")
        advice = "expected noeviction (redis-cli CONFIG SET maxmemory-policy noeviction)"
        if int(lines.get("maxmemory", 0)) and policy.startswith("allkeys"):
            raise StoreUnavailable(f"Redis may evict stream states: maxmemory-policy is {policy}; {advice}")
        if int(lines.get("maxmemory", 0)) and policy != "noeviction":
            warnings.append(
                f"maxmemory-policy is {policy}, which evicts none of this service's keys, as none has a time to "
                f"live, and leaves Redis full where others' have none either; {advice}"
            )
    if strict:
        warnings += _check_strict(*rest)
    return warnings


def _check_strict(persistence: Any, config: Any) -> list[str]:
    """What cannot be seen of how Redis keeps its file. Raises StoreUnavailable where it may lose what it answered."""
    if isinstance(persistence, Exception) or isinstance(config, Exception) or not config:
        return [
            "durability is strict, and whether Redis has appendonly yes and appendfsync always cannot be seen: it "
            "refuses INFO or CONFIG GET"
        ]
    fsync = text(config[b"appendfsync"] if isinstance(config, dict) else config[1])
    written = _lines(persistence).get("aof_enabled") == "1"
    if not written or fsync != "always":
        raise StoreUnavailable(
            f"durability is strict, but Redis has appendonly {'yes' if written else 'no'} and "
            f"appendfsync {fsync}; expected yes and always"
        )
    return []


def _lines(info: bytes | str) -> dict[str, str]:
    """What INFO says, name to value."""
    return dict(line.split(":", 1) for line in text(info).splitlines() if ":" in line)
