"""Listed: which streams this process knows to be in the list of all streams, so that it need not list them again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gatewatch.service.core.stream_key import StreamKey

KNOWN: Final = 65_536
"""Streams; of more, all are forgotten and listed once again."""


class Listed:
    """What was listed, until Redis counts fewer streams than before: then the list was deleted, or a part of it."""

    def __init__(self) -> None:
        self._streams: set[StreamKey] = set()
        self._count = 0

    def missing(self, streams: Sequence[StreamKey], fences: Sequence[bytes]) -> list[int]:
        """Rows of the streams that are to be listed with what is saved of them: new ones, and those not known."""
        known = self._streams
        return [row for row, stream in enumerate(streams) if stream not in known or not fences[row]]

    def note(self, streams: Iterable[StreamKey], count: int | None) -> bool:
        """These are listed, and Redis counts so many in all; None where it cannot count. Says whether some are gone."""
        if count is None or count < self._count:
            self._streams.clear()
            self._count = count or 0
            return True
        self._count = count
        if len(self._streams) > KNOWN:
            self._streams.clear()
        self._streams.update(streams)
        return False

    def forget(self, stream: StreamKey) -> None:
        """It was taken out of the list."""
        self._streams.discard(stream)
        self._count = max(0, self._count - 1)
