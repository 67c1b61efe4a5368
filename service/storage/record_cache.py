"""RecordCache: the records that this process saved last, so that nobody need wait for them to be loaded.

What is cached is a guess. It is compared with what Redis holds, byte by byte, before anything is saved or answered that
follows from it, and whatever another process, a roll-back or a hand has changed since is loaded and scored again; see
UnitOfWork.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class RecordCache(Generic[K]):
    """The records of the streams that were saved last, within a bound on their bytes.

    What stands for a stream is the caller's choice; the store takes the key of its record.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._records: dict[K, bytes] = {}

    def of(self, streams: Sequence[K]) -> list[bytes] | None:
        """The records of streams; None if one of them is not cached."""
        try:
            return [self._records[stream] for stream in streams]
        except KeyError:
            return None

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
