"""FirstLook: holds a record against its stream's history when this process meets it for the first time.

A record that somebody restored from an older copy is sound by itself, but its history has readings it has not seen.
From then on the compare-and-set tells this process of every change, so one look is enough; a record that is not what
this process left is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.service.core.layout import Layout
from gatewatch.service.core.records import Records
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey

PLACES: Final = 2**24
"""Streams are told apart by so many bits of their seed; of two that share them, one may go without a look."""


class FirstLook:
    """The streams that this process has looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = np.zeros(PLACES, bool)

    async def stale(
        self,
        stepper: Stepper,
        sound: Sequence[int],
        streams: Sequence[StreamKey],
        seeds: Sequence[int],
        layouts: Sequence[Layout],
        records: Records,
    ) -> list[int]:
        """Which rows of the sound records have a history with readings that they have not seen.

        One round trip, or none.
        """
        places = _places(seeds)
        new = ~self._seen[places] & (records["readings"] > 0)
        rows = [row for row in sound if new[row]] if new.any() else []
        if not rows:
            return []
        counts = records["readings"][rows].tolist()
        newest = await self._store.history_numbers(
            [streams[row] for row in rows],
            [stepper.number_at(layouts[row], count) for row, count in zip(rows, counts, strict=True)],
        )
        self._seen[places[rows]] = True
        return [row for row, count, n in zip(rows, counts, newest, strict=True) if n is not None and n >= count]

    def forget(self, seeds: Sequence[int]) -> None:
        """Somebody else wrote these streams."""
        self._seen[_places(seeds)] = False


def _places(seeds: Sequence[int]) -> NDArray[np.int64]:
    return np.array(seeds, np.int64) % PLACES
