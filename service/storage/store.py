"""StateStore over Redis: load, compare-and-set, history. Knows bytes and keys, nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError

from gatewatch.service.core import records as state
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.storage.connection import LinkLost, raise_first
from gatewatch.service.storage.database import Database, again_if_lost, text
from gatewatch.service.storage.record_cache import Remembered
from gatewatch.service.storage.resp import PARTS
from gatewatch.service.storage.unit_of_work import Held

REMEMBERED_BYTES = 64 * 2**20

KEPT_CLAIMS: Final = 64
"""Services whose number is kept, of those before; older ones take the next number when they start anew."""

_TAKE_OVER: Final = b"""
local key, of = KEYS[1], 'of:' .. ARGV[1] .. ':' .. ARGV[2]
local number, mine = tonumber(redis.call('HGET', key, 'number') or '0'), redis.call('HGET', key, of)
if not mine then
  if redis.call('HGET', key, 'model') ~= ARGV[2] then
    number = number + 1
    redis.call('HSET', key, 'number', number, 'model', ARGV[2], 'service', ARGV[1])
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      if fields[i]:sub(1, 3) == 'of:' and tonumber(fields[i + 1]) <= number - tonumber(ARGV[3]) then
        redis.call('HDEL', key, fields[i])
      end
    end
  end
  mine = number
  redis.call('HSET', key, of, mine)
end
return {tonumber(mine), number, redis.call('HGET', key, 'model')}"""

_LOOK: Final = b"""
local number = tonumber(redis.call('HGET', KEYS[1], 'number') or '0')
if number < tonumber(ARGV[1]) then
  number = tonumber(ARGV[1])
  redis.call('HSET', KEYS[1], 'number', number, 'model', ARGV[2], 'service', ARGV[3])
end
return {number, redis.call('HGET', KEYS[1], 'model') or '', redis.call('HGET', KEYS[1], 'service') or ''}"""

UNTOLD: Final = 10_000
"""Alerts that may wait to be told; of more, the oldest are dropped."""

_CLAIM: Final = b"""
local taken = {}
for at = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if score and tonumber(score) == tonumber(ARGV[at + 1]) then
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[at])
    taken[#taken + 1] = ARGV[at]
  end
end
return taken"""


class StateStore(Database):
    """The states of one tenant's streams in Redis."""

    def __init__(self, url: str, tenant: str, timeout_ms: int, remembered_bytes: int = REMEMBERED_BYTES) -> None:
        """Raises ValueError when `url` is not a Redis URL; connects with the first command."""
        super().__init__(url, tenant, timeout_ms)
        self.tenant = tenant
        self._epoch: bytes | None = None
        self.remembered = Remembered(remembered_bytes)

    def seeds(self, streams: Sequence[StreamKey]) -> list[int]:
        """Where the checksums of the streams' records start."""
        return [self.commands.of(stream).seed for stream in streams]

    def key(self, stream: StreamKey, what: str) -> str:
        """`gatewatch:{base64url(tenant).base64url(stream)}:what`: unambiguous, one cluster slot for a stream."""
        return self.commands.key(stream, what)

    async def load(self, streams: Sequence[StreamKey]) -> list[bytes | None]:
        """The streams' records as bytes, None for a stream without one. One round trip."""
        async with self.within(f"load {len(streams)} states"):
            records: list[bytes | None] = await self.ask_one(
                b"MGET", *(self.commands.of(stream).record for stream in streams)
            )
            return records

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The streams' history rings as bytes, empty for a stream without one. One round trip."""
        return await self._load_values([self.commands.of(stream).history for stream in streams], "histories")

    async def history_numbers(
        self, streams: Sequence[StreamKey], places: Sequence[tuple[int, int]]
    ) -> list[int | None]:
        """The number that stands at a place of each stream's history, None where nothing does. One round trip."""
        commands = [
            [b"GETRANGE", self.commands.of(stream).history, b"%d" % first, b"%d" % last]
            for stream, (first, last) in zip(streams, places, strict=True)
        ]
        async with self.within(f"look at {len(streams)} histories"):
            found = await self.ask(*commands)
        return [int.from_bytes(n, "little") if isinstance(n, bytes) and len(n) == 8 else None for n in found]

    async def load_old_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The histories that versions before record format 4 kept, empty where there is none. One round trip."""
        return await self._load_values([self.key(stream, "history").encode() for stream in streams], "histories")

    async def drop_old_histories(self, streams: Sequence[StreamKey]) -> None:
        """Forget the histories of versions before record format 4."""
        async with self.within(f"drop {len(streams)} old histories"):
            await self.ask_one(b"DEL", *(self.key(stream, "history").encode() for stream in streams))

    async def load_settings(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """What was saved as the streams' settings, empty for a stream without any. One round trip."""
        return await self._load_values([self.key(stream, "settings").encode() for stream in streams], "settings")

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        """The two earlier records of streams with a reorder window, empty where there is none. One round trip."""
        keys = [key for stream in streams for key in self.commands.earlier_keys(stream)]
        loaded = await self._load_values(keys, "earlier records")
        return [loaded[at : at + 2] for at in range(0, len(loaded), 2)]

    async def _load_values(self, keys: Sequence[bytes], what: str) -> list[bytes]:
        async with self.within(f"load {len(keys)} {what}"):
            return [value or b"" for value in await self.ask_one(b"MGET", *keys)]

    async def save_settings(self, stream: StreamKey, settings: bytes) -> None:
        """Keep a stream's settings, for the day its record is lost."""
        async with self.within("save settings"):
            await self.ask_one(b"SET", self.key(stream, "settings").encode(), settings)

    async def quarantine(self, stream: StreamKey, record: bytes) -> None:
        """Keep a copy of a record that cannot be read, for a look later; the last one of a stream stays."""
        async with self.within("quarantine a record"):
            await self.ask_one(b"SET", self.key(stream, "quarantine").encode(), record)

    async def delete(self, stream: StreamKey) -> bool:
        """Forget a stream; says whether there was anything of it."""
        self.remembered.forget((stream,))
        self.listed.forget(stream)
        name, known = stream.name.encode(), False
        transaction = (
            [b"UNWATCH"],  # of what a batch watched on this connection and did not save
            [b"MULTI"],
            [b"DEL", *(self.key(stream, what).encode() for what in PARTS)],
            [b"ZREM", self.commands.open_key.encode(), name],
            [b"ZREM", self.commands.streams_key.encode(), name],
            [b"EXEC"],
        )
        async with self.within("delete a stream"):
            try:
                answers = await self.ask(*transaction, twice=False)
            except LinkLost:  # it may be gone already, and then it was there
                answers, known = await self.ask(*transaction, twice=False), True
            raise_first(answers)
            raise_first(answers[-1])
            return known or bool(answers[-1][0])

    @contextlib.asynccontextmanager
    async def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AsyncIterator[Held]:
        """Load the records of streams, each named once, and hold them until they are saved.

        With `cached`, records that this process saved last are not waited for; see Held.
        """
        known = self.remembered.of(streams) if cached else None
        try:
            async with self.link() as link:
                held = Held(self, link, self.remembered, streams, known)
                await held.load()
                yield held
        except BaseException:
            self.remembered.forget(streams)
            raise

    async def count_streams(self) -> int:
        """How many streams there are."""
        async with self.within("count streams"):
            return int(await self.ask_one(b"ZCARD", self.commands.streams_key.encode()))

    async def list_streams(self, after: str, most: int) -> list[str]:
        """Up to `most` names in alphabetical order, those that come behind `after`."""
        begin = f"({after}".encode() if after else b"-"
        async with self.within("list streams"):
            found = await self.ask_one(
                b"ZRANGEBYLEX", self.commands.streams_key.encode(), begin, b"+", b"LIMIT", b"0", b"%d" % most
            )
            return [name.decode() for name in found]

    async def count_open(self, within_s: float) -> int:
        """How many streams have an open anomaly and sent a reading within the last `within_s` seconds."""
        since = b"%.3f" % (time.time() - within_s)
        async with self.within("count open anomalies"):
            return int(await self.ask_one(b"ZCOUNT", self.commands.open_key.encode(), since, b"+inf"))

    async def untold(self) -> list[tuple[bytes, float]]:
        """Alerts that were saved and not yet taken off as told, oldest first, and the time that stands beside each."""
        key = self.commands.alerts_key.encode()
        async with self.within("read alerts"):
            newest = await self.ask(
                [b"ZREMRANGEBYRANK", key, b"0", b"%d" % (-UNTOLD - 1)], [b"ZRANGE", key, b"0", b"99", b"WITHSCORES"]
            )
            raise_first(newest)
            return [(alert, float(at)) for alert, at in _pairs(newest[-1])]

    async def claim(self, alerts: Sequence[tuple[bytes, float]]) -> list[bytes]:
        """Those of some alerts that nobody else took over meanwhile; the caller tells them. They have a new time."""
        arguments = [part for alert, at in alerts for part in (alert, b"%.3f" % at)]
        async with self.within("take over alerts"):
            taken: list[bytes] = await self.ask_one(
                b"EVAL", _CLAIM, b"1", self.commands.alerts_key.encode(), b"%.3f" % time.time(), *arguments
            )
            return taken

    async def told(self, alerts: Sequence[bytes]) -> None:
        """Take alerts off: they were told."""
        async with self.within("take off alerts"):
            await self.ask_one(b"ZREM", self.commands.alerts_key.encode(), *alerts)

    async def try_reading(self) -> bool:
        """Do what a reading does, with a key of nobody's: load, commit, compare and set, and count the streams.

        Returns:
            Whether the sets of the tenant are its own; if not, readings are taken all the same.

        Raises:
            StoreUnavailable: a reading sent now would get the same.
        """
        async with self.within("try what a reading needs"):
            answers, sets = await again_if_lost(self._try_reading)
            if isinstance(answers[-1], NoScriptError):
                await self.load_script()
                answers, sets = await again_if_lost(self._try_reading)
            raise_first(answers)
            raise_first([answer for answer in sets if "WRONGTYPE" not in str(answer)])
            return not any(isinstance(answer, Exception) for answer in sets)

    async def _try_reading(self) -> tuple[list[Any], list[Any]]:
        commands, name, record = (
            self.commands,
            StreamKey(self.tenant, ""),
            bytes(state.FENCE.stop),
        )  # no stream has this name
        writes = Writes(round(time.time(), 3), [name], [b""], [record], [(0, 0, b"\0")])
        async with self.link() as link:  # and, like a reading of a new stream, another one meanwhile
            await link.open()
            keys = (commands.streams_key, commands.open_key, commands.alerts_key)
            sets = await self.ask(*([b"ZCARD", key.encode()] for key in keys))
            if not self.save_sha:
                await self.load_script()
            loading, load = commands.watch([name])
            committing, commit = commands.transaction(writes)
            comparing, compare = commands.comparison(self.save_sha, writes, [record[state.FENCE]])
            link.send(loading + committing + comparing)
            return await link.answers(load + commit + compare), sets

    async def check(self, strict: bool) -> list[str]:
        """Ask Redis whether it keeps states: it never evicts ours and, if `strict`, syncs its append-only file.

        Returns:
            What may be wrong, or cannot be seen because Redis does not say.

        Raises:
            StoreUnavailable: says what Redis answered and what to change.
        """
        strictly = [[b"INFO", b"persistence"], [b"CONFIG", b"GET", b"appendfsync"]] if strict else []
        try:
            async with self.within("check Redis"):
                memory, *rest = await self.ask([b"INFO", b"memory"], *strictly)
        except StoreUnavailable as error:  # which takes readings all the same
            memory, *rest = [error.__cause__ or error] * (1 + len(strictly))
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

    async def claim_takeover(self, service: str, model: str) -> tuple[int, int, str]:
        """The number of a service with a model, the highest number, and its model; see streams/takeover.py."""
        key, kept = self.commands.takeover_key.encode(), b"%d" % KEPT_CLAIMS
        async with self.within("claim the streams"):
            number, highest, holder = await self.ask_one(
                b"EVAL", _TAKE_OVER, b"1", key, service.encode(), model.encode(), kept
            )
        return int(number), int(highest), text(holder)

    async def takeover(self, service: str, number: int, model: str) -> tuple[int, str, str]:
        """The highest number, its model, and who took it; at least this one: Redis may have forgotten it."""
        key = self.commands.takeover_key.encode()
        async with self.within("look for a takeover"):
            highest, holder, taker = await self.ask_one(
                b"EVAL", _LOOK, b"1", key, b"%d" % number, model.encode(), service.encode()
            )
        return int(highest), text(holder), text(taker)

    async def lost_everything(self) -> bool:
        """Whether Redis has forgotten all streams since the last time: emptied, or another server.

        Told by a random word that is written when there is none, and must stay.
        """
        key = self.commands.epoch_key.encode()
        async with self.within("check for lost states"):
            answers = await self.ask([b"SET", key, os.urandom(8).hex().encode(), b"NX"], [b"GET", key])
            raise_first(answers)
        before, self._epoch = self._epoch, answers[-1]
        return before not in (None, self._epoch)


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


def _pairs(found: Sequence[Any]) -> Iterable[tuple[bytes, Any]]:
    """Members and scores: one list in protocol 2, pairs in protocol 3."""
    if found and isinstance(found[0], (list, tuple)):
        return [(member, score) for member, score in found]
    return zip(found[::2], found[1::2], strict=True)
