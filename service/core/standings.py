"""Standings: how all streams of a tenant stand, the highest score first.

Redis keeps no order of scores: that would be a write more with each reading. Whoever asks for one has the beginnings
of all records read, part by part beside the batches. What was found serves all who ask within a second, or within
RESTS times as long as it took: 100,000 streams take half a second of one core, 10 streams nothing to speak of.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import STATUSES
from gatewatch.service.clock import Clock
from gatewatch.service.core import records
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import InvalidRequest

Order = Literal["score", "status"]

FRESH_MS: Final = 1000
RESTS: Final = 20
MOST: Final = 500_000
"""Streams that are put in order, some 100 bytes each; of more, the list by name goes on as it is."""

CHUNK: Final = 1000
LOOKED_AT: Final = 100_000
"""Streams looked at for one page of a search; `next` goes on from there."""

SLICE: Final = 100
"""Names that are held against a search before others have their turn."""

_RANKS: Final = np.array([*map(("anomalous", "warming_up", "normal").index, STATUSES), 3], np.uint8)
"""Of a status, and of none, when streams are ordered by it."""


class Heads(Protocol):
    """What is asked of a store."""

    async def count_streams(self, tenant: str) -> int:
        """How many streams a tenant has."""

    async def list_streams(self, tenant: str, after: str, most: int) -> list[str]:
        """Up to `most` names behind `after`, in alphabetical order."""

    async def record_heads(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The stream part of each record, as it lies there."""


@dataclass(frozen=True)
class Search:
    """Which streams are looked for.

    Attributes:
        status: of the last reading; None for any.
        fits: asked of one name after the other; None where all do.
        looked_at: streams at most, for one page.
    """

    status: str | None = None
    fits: Callable[[str], bool] | None = None
    looked_at: int = LOOKED_AT

    @property
    def wanted(self) -> int | None:
        """The status, as an index into STATUSES."""
        return None if self.status is None else STATUSES.index(self.status)


class Page(NamedTuple):
    """Names in their order; what to go on behind, None at the end; and when they stood so, in Unix ms, None for now."""

    names: list[str]
    next: str | None
    at_ms: int | None = None


async def statuses(store: Heads, streams: Sequence[StreamKey]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(N,) status of each stream's last reading, an index into STATUSES, or their number where none is known; and its
    score, -1 where none is known."""
    size = records.STREAM_PART.itemsize
    heads = await store.record_heads(streams)
    begin = records.MAGIC + records.FORMAT.to_bytes(2, "little")
    known = np.array([len(head) == size and head.startswith(begin) for head in heads], bool)
    whole = b"".join(head if is_known else bytes(size) for head, is_known in zip(heads, known, strict=True))
    parts: Any = np.frombuffer(whole, records.STREAM_PART)
    status = parts["status"] & records.STATUS_BITS
    known &= (parts["readings"] > 0) & (status < len(STATUSES))
    score = np.where(known & np.isfinite(parts["score"]), parts["score"], np.float32(-1))
    return np.where(known, status, len(STATUSES)).astype(np.uint8), score


@dataclass(frozen=True)
class _Table:
    """What was found of one tenant.

    Attributes:
        at_ms, until_ms: when it was begun, and up to when it serves.
        names: (N,) in alphabetical order.
        status, score: (N,) see `statuses`.
        orders: (N,) places in `names`, by what they are ordered by; each made when it is first asked for.
    """

    at_ms: int
    until_ms: int
    names: list[str]
    status: NDArray[np.uint8]
    score: NDArray[np.float32]
    orders: dict[Order, list[int]] = field(default_factory=dict)

    def ordered(self, by: Order) -> list[int]:
        if by not in self.orders:
            ranks = _RANKS[self.status] if by == "status" else np.zeros(len(self.names), np.uint8)
            self.orders[by] = np.lexsort((-self.score, ranks)).tolist()  # stable: the alphabet decides the rest
        return self.orders[by]

    def place(self, by: Order, name: str) -> tuple[int, float, str] | None:
        """The key of a stream; None where it is not there."""
        at = bisect.bisect_left(self.names, name)
        return self.key(by, at) if self.names[at : at + 1] == [name] else None

    def key(self, by: Order, at: int) -> tuple[int, float, str]:
        """By which the streams stand in order."""
        rank = int(_RANKS[self.status[at]]) if by == "status" else 0
        return rank, -float(self.score[at]), self.names[at]


class Standings:
    """The tables of the tenants that were last asked for."""

    def __init__(self, store: Heads, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._tables: dict[str, _Table] = {}
        self._reading = WeakValueDictionary[str, asyncio.Lock]()  # of a tenant: others do not wait for its streams

    async def by_name(self, tenant: str, search: Search, after: str, most: int) -> Page:
        """Up to `most` names in alphabetical order, as they stand now; fewer where enough were looked at.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        narrow, looked_at = search.fits is not None or search.wanted is not None, 0
        chosen: list[str] = []
        while looked_at < search.looked_at:
            chunk = CHUNK if narrow else most - len(chosen)
            names = await self._store.list_streams(tenant, after, chunk + 1)
            more, names = len(names) > chunk, names[:chunk]
            chosen += await self._fitting(tenant, names, search)
            if len(chosen) > most or (len(chosen) == most and more):
                return Page(chosen[:most], chosen[most - 1])
            if not more:
                return Page(chosen, None)
            looked_at, after = looked_at + len(names), names[-1]
        return Page(chosen, after)

    async def _fitting(self, tenant: str, names: list[str], search: Search) -> list[str]:
        fitting = names
        if search.fits is not None:
            fitting = []
            for begin in range(0, len(names), SLICE):
                fitting += filter(search.fits, names[begin : begin + SLICE])
                await asyncio.sleep(0)
        if search.wanted is None or not fitting:
            return fitting
        found, _ = await statuses(self._store, [StreamKey(tenant, name) for name in fitting])
        return [name for name, status in zip(fitting, found.tolist(), strict=True) if status == search.wanted]

    async def ordered(self, tenant: str, by: Order, search: Search, after: str, most: int) -> Page:
        """The same by score or status, as they stood some seconds ago.

        Args:
            after: `next` of the page before, or a stream's name; nothing stands behind one that is not there.

        Raises:
            InvalidRequest: the tenant has more than MOST streams.
            StoreUnavailable: Redis does not answer.
        """
        table = await self._table(tenant)
        order = await asyncio.to_thread(table.ordered, by)
        begin = 0
        if after:
            behind = _cursor(after) or table.place(by, after)
            if behind is None:
                return Page([], None, table.at_ms)
            begin = bisect.bisect_right(order, behind, key=lambda at: table.key(by, at))
        chosen: list[str] = []
        last = begin
        for last in range(begin, min(len(order), begin + search.looked_at)):
            name, status = table.names[order[last]], table.status[order[last]]
            if search.wanted in (None, status) and (search.fits is None or search.fits(name)):
                chosen.append(name)
                if len(chosen) == most:
                    break
            if last % SLICE == 0:
                await asyncio.sleep(0)
        more = last + 1 < len(order)
        return Page(chosen, _written(table.key(by, order[last])) if more else None, table.at_ms)

    async def _table(self, tenant: str) -> _Table:
        if (found := self._fresh(tenant)) is not None:
            return found
        async with self._reading.setdefault(tenant, asyncio.Lock()):
            found = self._fresh(tenant)
            if found is None:
                found = await self._read(tenant)
                self._tables = {other: one for other, one in self._tables.items() if other != tenant}
                while sum(len(one.names) for one in self._tables.values()) > MOST - len(found.names):
                    self._tables.pop(next(iter(self._tables)))  # the oldest
                self._tables[tenant] = found
            return found

    def _fresh(self, tenant: str) -> _Table | None:
        """What was found a moment ago."""
        found = self._tables.get(tenant)
        return found if found is not None and found.at_ms <= self._clock.unix_ms() < found.until_ms else None

    async def _read(self, tenant: str) -> _Table:
        count = await self._store.count_streams(tenant)
        if count > MOST:
            raise InvalidRequest(f"{count:,} streams; at most {MOST:,} are put in order: ask for them by name")
        at_ms, names, after = self._clock.unix_ms(), list[str](), ""
        status, score = [np.zeros(0, np.uint8)], [np.zeros(0, np.float32)]
        while page := await self._store.list_streams(tenant, after, CHUNK):
            found = await statuses(self._store, [StreamKey(tenant, name) for name in page])
            names += page
            status.append(found[0])
            score.append(found[1])
            after = page[-1]
        now_ms = self._clock.unix_ms()
        until_ms = now_ms + max(FRESH_MS, RESTS * (now_ms - at_ms))
        return _Table(at_ms, until_ms, names, np.concatenate(status), np.concatenate(score))


def _written(key: tuple[int, float, str]) -> str:
    rank, score, name = key
    return f"{rank}:{score!r}:{name}"


def _cursor(after: str) -> tuple[int, float, str] | None:
    """The key that was `_written`; None of anything else. No stream has a colon in its name."""
    rank, _, rest = after.partition(":")
    score, parted, name = rest.partition(":")
    try:
        return (int(rank), float(score), name) if parted else None
    except ValueError:
        return None
