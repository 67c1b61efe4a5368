"""Remembered: the records that this process saved last, so that nobody need wait for them to be loaded.

What is remembered is a guess. It is compared with what Redis holds, byte by byte, before anything is saved or answered
that follows from it, and whatever another process, a roll-back or a hand has changed since is loaded and scored again;
see Held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import compress


class Remembered:
    """The records of the streams that were saved last, within a bound on their bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._records: OrderedDict[str, bytes] = OrderedDict()

    def of(self, streams: Sequence[str]) -> list[bytes] | None:
        """The records of streams; None if one of them is not remembered."""
        records = self._records
        if not streams or streams[0] not in records or streams[-1] not in records:
            return None
        found = [record for stream in streams if (record := records.get(stream))]
        return found if len(found) == len(streams) else None

    def note(self, streams: Sequence[str], records: Sequence[bytes], saved: Sequence[bool]) -> None:
        """These records were saved and are remembered; or were not, and are forgotten."""
        self.forget(streams)
        kept = dict(compress(zip(streams, records, strict=True), saved))
        self._records.update(kept)
        self._bytes += sum(map(len, kept.values()))
        while self._bytes > self._most:
            self._bytes -= len(self._records.popitem(last=False)[1])

    def forget(self, streams: Iterable[str]) -> None:
        """They may have changed."""
        if self._records:
            self._bytes -= sum([len(self._records.pop(stream, b"")) for stream in streams])
