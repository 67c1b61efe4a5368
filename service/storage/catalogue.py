"""Listed: which streams this process knows to be in the lists of all streams, so that it need not list them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from gatewatch.service.storage.keys import StreamKeys

KNOWN: Final = 65_536
"""Streams; of more, all are forgotten and listed once again."""


class Listed:
    """What was listed, until Redis counts fewer streams in a bucket than before: then that list, or a part, is gone."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()  # the keys of their records
        self._counts: dict[bytes, int] = {}

    def missing(self, keys: Sequence[StreamKeys], fences: Sequence[bytes]) -> list[int]:
        """Rows of the streams that are to be listed with what is saved of them: new ones, and those not known."""
        known = self._known
        return [row for row, key in enumerate(keys) if key.record not in known or not fences[row]]

    def note(self, keys: Iterable[StreamKeys], counts: Mapping[bytes, int | None]) -> set[bytes]:
        """These are listed, and so many in all in each list; None where that cannot be counted.

        Returns:
            The lists of which some are gone.
        """
        gone = {name for name, count in counts.items() if count is None or count < self._counts.get(name, 0)}
        self._counts |= {name: count or 0 for name, count in counts.items()}
        if gone or len(self._known) > KNOWN:
            self._known.clear()
        self._known.update([key.record for key in keys if key.sets.streams not in gone])
        return gone

    def forget(self, key: StreamKeys) -> None:
        """It was taken out of its list."""
        self._known.discard(key.record)
        if key.sets.streams in self._counts:
            self._counts[key.sets.streams] -= 1
