"""RecordCache: the records that this process saved last, so that nobody need wait for them to be loaded.

What is cached is a guess. It is compared with what Redis holds, byte by byte, before anything is saved or answered that
follows from it, and whatever another process, a roll-back or a hand has changed since is loaded and scored again; see
UnitOfWork. Behind a load balancer that gives a stream's readings to any replica most guesses are wrong, and each costs
more than a load that is waited for: so guesses are only made as long as they are mostly right.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from operator import ne
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MOST_WRONG: Final = 1 / 8
"""Share of guesses that may be wrong. To wait for a load costs a tenth of a batch's CPU time, a wrong guess most of a
second batch (`python -m benchmarks.replicas`)."""

GAIN: Final = 1 / 8
"""How much the last guess counts in that share."""


class RecordCache(Generic[K]):
    """The records of the streams that were saved last, within a bound on their bytes.

    What stands for a stream is the caller's choice; the store takes the key of its record.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._records: dict[K, bytes] = {}
        self._wrong = 0.0

    def of(self, streams: Sequence[K]) -> list[bytes] | None:
        """The records of streams; None if one of them is not cached, or too many were wrong of late."""
        return self._cached(streams) if self._wrong < MOST_WRONG else None

    def _cached(self, streams: Sequence[K]) -> list[bytes] | None:
        try:
            return [self._records[stream] for stream in streams]
        except KeyError:
            return None

    def learn(self, wrong: float) -> None:
        """So large a part of what follows from a guess had to be, or would have had to be, done again."""
        self._wrong += (wrong - self._wrong) * GAIN

    def compare(self, streams: Sequence[K], records: Sequence[bytes | None], together: bool) -> None:
        """Learn from records that were loaded, without a guess, what one would have been worth.

        Args:
            together: one that is wrong has all of them done again.
        """
        cached = self._cached(streams)
        if cached:
            wrong = sum(map(ne, cached, records))
            self.learn(float(wrong > 0) if together else wrong / len(cached))

    def note(self, streams: Sequence[K], records: Sequence[bytes], saved: Sequence[bool]) -> None:
        """These records, of one length, were saved and are cached; or were not, and are forgotten.

        When there is no room for more, all others are forgotten: to know which were used last costs more than to load
        them once.
        """
        self._records.update(zip(streams, records, strict=True))
        if not all(saved):
            self.forget(stream for stream, ok in zip(streams, saved, strict=True) if not ok)
        if len(self._records) * len(records[0]) > self._most:
            room = self._most // len(records[0])
            self._records = {stream: self._records[stream] for stream in streams[:room] if stream in self._records}

    def forget(self, streams: Iterable[K]) -> None:
        """They may have changed."""
        for stream in streams:
            self._records.pop(stream, None)
