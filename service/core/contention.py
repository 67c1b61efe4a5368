"""ContentionBackoff: lets processes that write the same stream do so in turn, instead of racing for it.

Only the compare-and-set at the save keeps a stream right, and of two processes that race, one wins. The loser has then
worked in vain, and where the other has the shorter batches it loses every time. So a process that sees another one
write a stream lets it rest after each batch of its own, a little longer than the batch took: the other's readings get
their turn, and those that arrive here meanwhile are one batch. Nothing but waiting follows from what is noted here.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gatewatch.service.core.records import FENCE
from gatewatch.service.core.stream_key import StreamKey

SHARED_S = 1.0
"""A stream rests after every batch until no other process has written it for so long."""

LONGEST_REST_S = 0.05
MOST_STREAMS = 10_000
"""Noted at once; more are forgotten, and noted again at their next conflict."""


@dataclass
class _Shared:
    """A stream that others write as well: until when it counts as such, what was saved here last, when it rests."""

    until: float
    fence: bytes = b""
    rests_until: float = 0.0


class ContentionBackoff:
    """What one process knows of the streams that others write as well. Times are the event loop's, in seconds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._shared: dict[StreamKey, _Shared] = {}

    def shares(self, streams: Sequence[StreamKey]) -> bool:
        """Whether others write one of these as well: what this process remembers of it is mostly out of date."""
        return bool(self._shared) and not self._shared.keys().isdisjoint(streams)

    def loaded(self, streams: Sequence[StreamKey], fences: Sequence[bytes], now: float) -> None:
        """Notice who wrote streams last, by the fences of their records."""
        for stream, fence in zip(streams, fences, strict=True) if self._shared else ():
            shared = self._shared.get(stream)
            if shared is not None and shared.fence != fence:
                shared.until = now + SHARED_S

    def saved(
        self,
        streams: Sequence[StreamKey],
        records: Sequence[bytes],
        lost: Collection[StreamKey],
        took_s: float,
        now: float,
    ) -> None:
        """A batch that took so long was saved, but for the streams that another process wrote meanwhile.

        Those that others write rest from now on.
        """
        if lost and len(self._shared) + len(lost) > MOST_STREAMS:
            self._shared.clear()
        for stream in lost:
            self._shared[stream] = _Shared(now + SHARED_S)
        for stream, record in zip(streams, records, strict=True) if self._shared else ():
            shared = self._shared.get(stream)
            if shared is None or stream in lost:
                continue
            if shared.until < now:
                del self._shared[stream]
                continue
            shared.fence = record[FENCE]
            shared.rests_until = now + min(took_s * (1 + self._rng.random()), LONGEST_REST_S)

    def resting(self, now: float) -> dict[StreamKey, float]:
        """The streams that rest, and until when."""
        return {stream: shared.rests_until for stream, shared in self._shared.items() if shared.rests_until > now}
