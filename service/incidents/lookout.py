"""Lookout: looks at the streams that are due, opens an incident for each that has fallen silent, and ends missed ones.

All processes do it, and each takes other streams. What a stream's silence causes is saved in one step that compares all
of its record: it is found once, and not where a reading came meanwhile. The reading with which a stream comes back ends
its silence, see recorder.py; here those are ended that no reading could, as when a record was lost.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.core import records as state
from gatewatch.service.core.bookkeeping import Bookkeeping, silence_alert
from gatewatch.service.core.history import times_in
from gatewatch.service.core.layout import layout_of, of_ring
from gatewatch.service.core.readings import Policies
from gatewatch.service.core.store import IncidentWrite, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import ServiceError
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.incident import Incident, decode, encode, id_of
from gatewatch.service.incidents.silence import (
    LEAST_MS,
    Head,
    Look,
    Watch,
    found_silent,
    head_of,
    look,
    more_patient,
    over,
    patience,
    patience_of,
)
from gatewatch.service.incidents.silence import decode as watch_of
from gatewatch.service.storage.silence_store import SilenceStore, Taken
from gatewatch.service.storage.store import StateStore

_drawn = random.Random()  # noqa: S311 - it spreads work
log = structlog.get_logger(__name__)

EVERY_S: Final = 5.0
"""Between two rounds through all buckets."""

BUCKETS: Final = 8
EACH: Final = 64
"""Buckets looked at together, and most streams of each: some 500 streams, which take some milliseconds."""

REST: Final = 4.0
"""So many times the CPU time that went by is waited before the next ones: a fifth of a process at most. By the clock,
others' work on a crowded machine would count too, and looks would fall behind just there."""

LEAST_REST_S: Final = 0.01
"""Between two steps at least, so that a process with little else to do leaves Redis to others."""

JUDGED: Final = 64
"""Streams whose kept readings are asked together: 2 MB of histories of 8 channels."""

LISTED: Final = 250
"""Streams of a list that are looked through in a step, when a process begins: those that nobody watches yet."""


class _Quiet(NamedTuple):
    """A stream that has been silent beyond its patience, as far as a look could tell."""

    stream: StreamKey
    head: Head
    watch: Watch
    next_ms: int


class _Judged(NamedTuple):
    """A stream that is silent by its kept readings too."""

    quiet: _Quiet
    packed: bytes
    incident: Incident


class Lookout:
    """Looks for streams that have fallen silent, until it is cancelled.

    Attributes:
        behind_s: how long a stream had been due at most when it was looked at, in the last round.
    """

    def __init__(
        self,
        store: StateStore,
        silences: SilenceStore,
        groups: Groups,
        policies: Policies,
        books: Bookkeeping,
        clock: Clock,
        k: float,
        most_open: int,
    ) -> None:
        """Look through a store.

        Args:
            k: cadences that a stream may be silent for.
            most_open: silences of a tenant that may be open; more streams have to wait.
        """
        self._store = store
        self._silences = silences
        self._groups = groups
        self._policies = policies
        self._books = books
        self._clock = clock
        self._k = k
        self._most_open = most_open
        self.behind_s = 0.0
        self._behind_ms = 0  # in the round that goes on
        self._listed: dict[tuple[str, int], bytes | None] = {}  # how far the lists were looked through; None at the end

    async def run(self) -> None:
        """Look, round after round. Ends when cancelled."""
        await asyncio.sleep(_drawn.random())
        while True:
            began = self._clock.monotonic()
            if not await self.round():
                await asyncio.sleep(max(0.0, EVERY_S - (self._clock.monotonic() - began)))

    async def round(self) -> bool:
        """Look at what is due in all buckets; whether there is more."""
        more, self._behind_ms = False, 0
        for start in range(0, self._silences.buckets, BUCKETS):
            spent = time.thread_time()
            try:
                more |= await self.step(range(start, min(start + BUCKETS, self._silences.buckets)))
            except ServiceError as error:
                log.debug("silent streams not looked for", error=str(error))
            except Exception as error:  # nobody else would go on looking
                log.error("silent streams not looked for", exc_info=error)
            await asyncio.sleep(max(LEAST_REST_S, REST * (time.thread_time() - spent)))
        self.behind_s = self._behind_ms / 1000
        return more

    async def step(self, buckets: Sequence[int]) -> bool:
        """Look at what is due in some buckets; whether there is more. Raises StoreUnavailable."""
        taken = await self._silences.take(buckets, EACH)
        for some in taken:
            self._behind_ms = max(self._behind_ms, some.behind_ms)
            await self._look_at(some)
        unlisted = [await self._watch_listed(bucket, some.now_ms) for bucket, some in zip(buckets, taken, strict=True)]
        return any(unlisted) or any(len(some.streams) == EACH for some in taken)

    async def _look_at(self, taken: Taken) -> None:
        """Look at the streams that were taken of a bucket."""
        looks: list[tuple[StreamKey, Watch, int]] = []
        quiet: list[_Quiet] = []
        gone: list[StreamKey] = []
        back: list[tuple[StreamKey, int]] = []
        for stream, kept, begin in zip(taken.streams, taken.watches, taken.heads, strict=True):
            head, before = head_of(begin), watch_of(kept)
            if head is None:
                found = None
                gone.append(stream)
            else:
                found = look(before, head, taken.now_ms, taken.since_ms, self._k)
            if before is not None and before.silent and (found is None or found.back):
                back.append((stream, -before.readings))
            if head is not None and found is not None:
                self._sort(stream, head, found, looks, quiet)
        if quiet:
            looks += await self._judge(quiet, taken.now_ms)
        if back:
            await self._end(back, taken.now_ms)
        if gone:
            await self._silences.forget(gone)
        if looks:
            await self._silences.note([(stream, watch.encode(), next_ms) for stream, watch, next_ms in looks])

    def _sort(
        self,
        stream: StreamKey,
        head: Head,
        found: Look,
        looks: list[tuple[StreamKey, Watch, int]],
        quiet: list[_Quiet],
    ) -> None:
        if found.quiet:
            quiet.append(_Quiet(stream, head, found.watch, found.next_ms))
        else:
            looks.append((stream, found.watch, found.next_ms))

    async def _judge(self, quiet: Sequence[_Quiet], now_ms: int) -> list[tuple[StreamKey, Watch, int]]:
        """Ask the kept readings of streams, and open the incidents of those that are silent.

        Returns:
            What is known of each, and when to look again; without those that sent meanwhile, or that others write.
        """
        await self._policies.know([one.stream for one in quiet])
        rules = self._policies.rules([one.stream for one in quiet])
        resting = {at for at, own in rules.items() if own.window_at(now_ms) is not None}
        looks = [(quiet[at].stream, quiet[at].watch, now_ms + LEAST_MS) for at in sorted(resting)]
        quiet = [one for at, one in enumerate(quiet) if at not in resting]
        for start in range(0, len(quiet), JUDGED):
            some = quiet[start : start + JUDGED]
            streams = [one.stream for one in some]
            rings, records = await self._store.load_histories(streams), await self._store.load(streams)
            silent: list[_Judged] = []
            for one, seed, ring, packed in zip(some, self._store.seeds(streams), rings, records, strict=True):
                part = state.stream_part(packed or b"", seed)
                if packed is None or part is None or part[0]["readings"][0] != one.head.readings:
                    continue  # it sent something, or its record is no more: the next look tells
                channels = of_ring(ring)
                asked_ms = patience_of(times_in(ring, layout_of(channels, channels)), self._k) if channels else 0.0
                allowed_ms = max(asked_ms, patience(one.watch, self._k))
                if now_ms - one.watch.heard_ms < allowed_ms:
                    looks.append((one.stream, *more_patient(one.watch, allowed_ms)))
                    continue
                model = part[2][: state.MODEL_BYTES].hex()
                incident = found_silent(one.stream.name, model, one.watch, one.head, now_ms, allowed_ms)
                silent.append(_Judged(one, packed, incident))
            looks += await self._open(silent, now_ms)
        return looks

    async def _open(self, found: list[_Judged], now_ms: int) -> list[tuple[StreamKey, Watch, int]]:
        """Open the incidents of streams that are silent, as far as there is room for them."""
        looks: list[tuple[StreamKey, Watch, int]] = []
        room: dict[str, int] = {}
        for tenant in {one.quiet.stream.tenant for one in found}:
            room[tenant] = self._most_open - await self._silences.count_open(tenant)
        fitting = []
        for one in found:
            tenant = one.quiet.stream.tenant
            room[tenant] -= 1
            if room[tenant] >= 0:
                fitting.append(one)
            else:
                looks.append((one.quiet.stream, one.quiet.watch, now_ms + 10 * LEAST_MS))
        if len(fitting) < len(found):
            log.warning("more streams are silent than incidents are kept", streams=len(found) - len(fitting))
        if not fitting:
            return looks
        incidents = await self._groups.joined([(one.quiet.stream, one.incident) for one in fitting])
        seeds = self._store.seeds([one.quiet.stream for one in fitting])
        writes = Writes(self._clock.unix_ms() / 1000)
        for row, (one, incident, seed) in enumerate(zip(fitting, incidents, seeds, strict=True)):
            writes.streams.append(one.quiet.stream)
            writes.fences.append(state.fence_of(one.packed))
            writes.records.append(state.marked_silent(one.packed, seed))
            told = not self._policies.is_muted(one.quiet.stream)
            if told:
                writes.alerts.append((row, silence_alert(incident)))
            content = encode(incident)
            writes.incidents.append(
                IncidentWrite(row, incident.n, incident.start_ms, content, None, began=True, ended=False, told=told)
            )
        saved = await self._store.save(writes, [one.packed for one in fitting])
        for row, alert in writes.alerts:
            if saved[row]:
                self._books.tell(alert)
        for one, ok in zip(fitting, saved, strict=True):
            if ok:
                looks.append((one.quiet.stream, one.quiet.watch._replace(silent=True), now_ms + LEAST_MS))
        return looks

    async def _end(self, back: Sequence[tuple[StreamKey, int]], now_ms: int) -> None:
        """End silences that are over, where no reading has: of lost records, and of streams that were deleted."""
        for (stream, n), kept in zip(back, await self._store.incidents_of(back), strict=True):
            silence = decode(kept)
            if silence is None:
                await self._silences.drop_open([(stream, id_of(n, stream.name).encode())])
            elif silence.is_open:
                ended = over(silence, now_ms)
                now = self._clock.unix_ms()
                await self._silences.end(stream, n, encode(ended), ended.id.encode(), now)

    async def _watch_listed(self, bucket: int, now_ms: int) -> bool:
        """Have streams watched that a version before has listed, or that are listed again; whether there are more."""
        more = False
        for tenant in self._store.incidents.tenants:
            after = self._listed.get((tenant, bucket), b"")
            if after is not None:
                spread_ms = _drawn.randrange(LEAST_MS)
                last = await self._silences.watch_listed(tenant, bucket, after, LISTED, now_ms + spread_ms)
                self._listed[tenant, bucket] = last or None
                more |= bool(last)
        return more
