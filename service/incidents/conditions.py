"""Conditions: streams of little use, and why: silent, noisy, stuck, constant, or with a channel that stays away.

Nothing follows from a condition: it is a list for people, who may mute, repair or delete. It is made of what Redis
keeps whenever somebody asks, page by page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from gatewatch.service.aside import aside
from gatewatch.service.clock import Clock
from gatewatch.service.core import history
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import layout_of, of_ring
from gatewatch.service.core.outcomes import format_time
from gatewatch.service.core.readings import Policies
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import decode, number_and_stream
from gatewatch.service.storage.silence_store import SilenceStore
from gatewatch.service.storage.store import StateStore

Condition = Literal["silent", "noisy", "stuck", "constant", "absent"]

LEAST_READINGS: Final = 32
"""That a value has stood still for, or been missing, or of which all are the same."""

NOISY: Final = 10
"""Incidents in a week with which nobody heeds a stream any more: ten times what the general model may raise."""

WEEK_MS: Final = 7 * 86_400_000
MOST_INCIDENTS: Final = 10_000
"""That are counted; of more, the latest."""

SCANNED: Final = 1000
CHUNK: Final = 50
"""Streams looked at for a page, and at a time: 1.6 MB of histories of 8 channels, which take 31 ms, aside."""


class Found(NamedTuple):
    """A condition of a stream.

    Attributes:
        channel: that has it; None of the stream as a whole.
        since_ms: from when on; of one that was so in all that is kept, the first reading there.
        reason: in words.
    """

    condition: Condition
    channel: str | None
    since_ms: int
    reason: str


def of_history(kept: Entries, channels: Sequence[str]) -> Iterator[Found]:
    """What the kept readings of a stream show, channel by channel.

    Args:
        kept: (N,) the readings, oldest first.
        channels: (C,) that the columns belong to.
    """
    times = kept["timestamp_ms"].tolist()
    for channel, values in zip(channels, kept["values"].T, strict=True):
        there = np.flatnonzero(np.isfinite(values))
        missing = len(values) - 1 - (int(there[-1]) if len(there) else -1)
        if missing >= LEAST_READINGS:
            since_ms = times[len(times) - missing]
            yield Found("absent", channel, since_ms, f"{channel} is missing in the last {missing} readings")
            continue
        moves = np.flatnonzero(np.diff(values[there]))
        still = len(there) - (int(moves[-1]) + 1 if len(moves) else 0)
        if still < LEAST_READINGS:
            continue
        since_ms, value = times[there[len(there) - still]], f"{float(values[there[-1]]):g}"
        if len(moves):
            yield Found("stuck", channel, since_ms, f"{channel} moved, and has been {value} for {still} readings")
        else:
            yield Found("constant", channel, since_ms, f"{channel} was {value} in all {still} readings that are kept")


class Conditions:
    """Lists the streams of a tenant that have a condition."""

    def __init__(self, store: StateStore, silences: SilenceStore, policies: Policies, clock: Clock) -> None:
        self._store = store
        self._silences = silences
        self._policies = policies
        self._clock = clock

    async def page(
        self, tenant: str, condition: Condition | None, match: str, after: str, most: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """About `most` conditions, by the names of streams, and behind which name to go on; None at the end.

        Those of one stream stand on one page. After SCANNED streams the page ends, full or not.

        Args:
            condition: None for any.
            match: a pattern of names; "" for any.
        """
        silent = await self._silent(tenant) if condition in (None, "silent") else {}
        noisy = await self._noisy(tenant) if condition in (None, "noisy") else {}
        found: list[dict[str, Any]] = []
        for _ in range(SCANNED // CHUNK):
            names = await self._store.list_streams(tenant, after, CHUNK + 1)
            more, names = len(names) > CHUNK, names[:CHUNK]
            streams = [StreamKey(tenant, name) for name in names if not match or fnmatchcase(name, match)]
            rings = await self._rings(streams, condition)
            await self._policies.know(streams)
            shown = await aside(self._in_histories, streams, rings)
            for stream, in_history in zip(streams, shown, strict=True):
                of_stream = [*silent.get(stream.name, ()), *noisy.get(stream.name, ()), *in_history]
                found += [
                    {
                        "stream": stream.name,
                        "condition": one.condition,
                        "channel": one.channel,
                        "since": format_time(one.since_ms),
                        "reason": one.reason,
                        "muted": self._policies.is_muted(stream),
                    }
                    for one in of_stream
                    if condition in (None, one.condition)
                ]
                after = stream.name
                if len(found) >= most:
                    return found, after
            after = names[-1] if names else after
            if not more:
                return found, None
        return found, after

    async def _rings(self, streams: Sequence[StreamKey], condition: Condition | None) -> list[bytes]:
        if not streams or condition in ("silent", "noisy"):
            return [b""] * len(streams)
        return await self._store.load_histories(streams)

    def _in_histories(self, streams: Sequence[StreamKey], rings: Sequence[bytes]) -> list[list[Found]]:
        return [list(self._in_history(stream, ring)) for stream, ring in zip(streams, rings, strict=True)]

    def _in_history(self, stream: StreamKey, ring: bytes) -> Iterator[Found]:
        channels = of_ring(ring)
        if channels is not None:
            (seed,) = self._store.seeds([stream])
            yield from of_history(history.unpack_entries(ring, layout_of(channels, channels), seed), channels)

    async def _silent(self, tenant: str) -> dict[str, list[Found]]:
        ids = await self._silences.open_ids(tenant, MOST_INCIDENTS)
        known = [(StreamKey(tenant, one[1]), one[0]) for id_ in ids if (one := number_and_stream(id_.decode()))]
        found: dict[str, list[Found]] = {}
        for kept in await self._store.incidents_of(known) if known else []:
            silence = decode(kept)
            if silence is not None and silence.is_open:
                reason = f"nothing has come since {format_time(silence.last_ms)}"
                found[silence.stream] = [Found("silent", None, silence.onset_ms, reason)]
        return found

    async def _noisy(self, tenant: str) -> dict[str, list[Found]]:
        now_ms = self._clock.unix_ms()
        listed = await self._store.incidents.listed(tenant, now_ms, now_ms - WEEK_MS, MOST_INCIDENTS)
        counts, first_ms = Counter[str](), dict[str, int]()
        for at_ms, id_ in listed:  # the latest first
            parsed = number_and_stream(id_.decode())
            if parsed is not None and parsed[0] >= 0:
                counts[parsed[1]] += 1
                first_ms[parsed[1]] = at_ms
        return {
            stream: [Found("noisy", None, first_ms[stream], f"{count} incidents have begun within a week")]
            for stream, count in counts.items()
            if count >= NOISY
        }
