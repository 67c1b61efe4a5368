"""Remembered: the records that this process saved last, so that few readings at a time need not be loaded first.

What is remembered is a guess. It is compared with what Redis holds in the script that saves, byte by byte, and whatever
another process, a roll-back or a hand has changed since is loaded and scored again; see `Held` in store.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final

FEW: Final = 32
"""Streams in a batch. More are loaded: Redis compares and saves them for less in one transaction (7 against 14 µs)."""


class Remembered:
    """The records of the streams that were saved last, within a bound on their bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._records: OrderedDict[str, bytes] = OrderedDict()

    def of(self, streams: Sequence[str]) -> list[bytes] | None:
        """The records of a few streams; None if there are more, or one of them is not remembered."""
        if len(streams) > FEW:
            return None
        found = [record for stream in streams if (record := self._records.get(stream))]
        return found if len(found) == len(streams) else None

    def note(self, streams: Sequence[str], records: Sequence[bytes], saved: Sequence[bool]) -> None:
        """These records were saved, or not: those of a few streams are remembered, others forgotten."""
        if len(streams) > FEW:
            self.forget(streams)
            return
        for stream, record, ok in zip(streams, records, saved, strict=True):
            self.forget((stream,))
            if ok:
                self._records[stream] = record
                self._bytes += len(record)
        while self._bytes > self._most:
            self._bytes -= len(self._records.popitem(last=False)[1])

    def forget(self, streams: Iterable[str]) -> None:
        """They may have changed."""
        for stream in streams if self._records else ():
            self._bytes -= len(self._records.pop(stream, b""))
