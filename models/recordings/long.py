"""A long table, a value a row, to recordings: names that share their times are channels, others are streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import RecordingError

SHARED = 0.75
"""Names of which at least so large a share is there at each time are channels of one stream."""

MOST_ROWS = 2**25
"""Of a long table, which is held until its end: half a gigabyte while it is read, and three times that at its end."""

Wide = tuple[str, tuple[str, ...], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]
"""A stream, its channels, (N,) microseconds, (N, C) values, (N,) places among the readings of all streams."""


class Gathered:
    """The rows of a long table, as far as they were read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._times: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.float64]] = []
        self._codes: list[NDArray[np.int32]] = []
        self._known: dict[tuple[str, str], int] = {}
        self._rows = 0

    def take(
        self,
        times_us: NDArray[np.int64],
        values: NDArray[np.float64],
        tags: Sequence[str],
        streams: Sequence[str] | None,
    ) -> None:
        """Take in some rows. Raises RecordingError where they become too many to hold."""
        keys = zip([self._name] * len(tags) if streams is None else streams, map(str.strip, tags), strict=True)
        codes = [self._known.setdefault(key, len(self._known)) for key in keys]
        self._times.append(times_us)
        self._values.append(values.copy())
        self._codes.append(np.array(codes, np.int32))
        self._rows += len(codes)
        if self._rows > MOST_ROWS:
            raise RecordingError(
                f"{self._name}: a long table of more than {MOST_ROWS} rows; split it, or export it wide"
            )

    def streams(self) -> Iterator[Wide]:
        """The streams: those named, or else the file's; one for each name where names do not share their times."""
        if not self._rows:
            return
        times, values, codes = np.concatenate(self._times), np.concatenate(self._values), np.concatenate(self._codes)
        names = list(self._known)
        counts = np.bincount(codes, minlength=len(names))
        owners = np.array([list(dict.fromkeys(stream for stream, _ in names)).index(stream) for stream, _ in names])
        found: list[tuple[str, tuple[str, ...], NDArray[np.int64], NDArray[np.float64]]] = []
        for owner, stream in enumerate(dict.fromkeys(stream for stream, _ in names)):
            own = np.flatnonzero(owners == owner)
            rows = np.flatnonzero(np.isin(codes, own))
            shared = len(rows) >= SHARED * len(own) * len(np.unique(times[rows]))
            for group in [own] if shared else [own[at : at + 1] for at in range(len(own))]:
                some = rows if shared else np.flatnonzero(codes == group[0])
                if counts[group].sum():
                    channels = tuple(names[code][1] for code in group)
                    by_stream = stream if shared else channels[0] if stream == self._name else f"{stream}/{channels[0]}"
                    found.append(
                        (by_stream, channels, *_wide(times[some], values[some], codes[some] - group[0], group))
                    )
        order = np.argsort(np.concatenate([one[2] for one in found]), kind="stable")
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(len(order))
        start = 0
        for stream, channels, micros, wide in found:
            yield stream, channels, micros, wide, places[start : start + len(micros)]
            start += len(micros)


def _wide(
    times: NDArray[np.int64], values: NDArray[np.float64], codes: NDArray[np.int32], group: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A row for each time, in order of time; a name that comes again at the same time makes a further row."""
    column = np.searchsorted(group - group[0], codes)
    order = np.lexsort((column, times))
    same = np.concatenate([[False], (np.diff(times[order]) == 0) & (np.diff(column[order]) == 0)])
    begin = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    again = np.empty(len(order), np.int64)
    again[order] = np.arange(len(order)) - begin
    keys = np.stack([times, again], axis=1)
    rows, inverse = np.unique(keys, axis=0, return_inverse=True)
    wide = np.full((len(rows), len(group)), np.nan)
    wide[inverse.ravel(), column] = values
    return rows[:, 0], wide
