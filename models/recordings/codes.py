"""Values that are no measurements: -9999 and its like, far from all others and always exactly the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.recordings.recording import Source, pieces

PLACES, PLACE_ROWS = 8, 512
"""Stretches of a recording, and readings of each, that say where its values usually lie."""

FAR = 10.0
"""From the middle half of the values, and from every other far one, in the span of that half: a code stands alone."""

LEAST_OFTEN, MOST_SHARE = 3, 0.25
LEAST_DIFFERENT = 20
"""Values of a channel that measures; one with fewer has levels, and a far one may be one of them."""

USED_AS_CODES = (-200.0, -999.0, -9999.0, -99999.0, -999.25, 9999.0, 99999.0, 65535.0, 32767.0, -32768.0, 1e20, -1e30)
"""Values that loggers are known to write for none; they may be most of what a channel has."""

OF_CODE, MOST_CODE = 0.25, 0.99
"""Such a value stands outside all others, by so large a part of itself; and so large a share it may be at most."""

MOST_NAMED = 3

MOST_KNOWN = 10_000
"""Far values of a channel that are counted; where there are more, they are no codes."""


@dataclass(frozen=True)
class Code:
    """A value of a channel that may stand for a missing one, and how often it comes."""

    channel: str
    value: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.10g} comes {self.count} times"


def find_codes(recordings: Sequence[Source]) -> list[Code]:
    """What may be codes for a missing value, in recordings with the same channels. 0 is none: much rests there."""
    channels = recordings[0].channels
    counts: list[Counter[float]] = [Counter() for _ in channels]
    reach = np.zeros(len(channels))
    for recording in recordings:
        low, high, far_off = _usual(recording)
        reach = np.maximum(reach, far_off)
        for piece in pieces(recording):
            values = piece.values
            for at in np.flatnonzero(((values < low) | (values > high)).any(axis=0)).tolist():
                column = values[:, at]
                far, often = np.unique(column[(column < low[at]) | (column > high[at])], return_counts=True)
                if len(counts[at]) < MOST_KNOWN:
                    counts[at].update(dict(zip(far[:MOST_KNOWN].tolist(), often[:MOST_KNOWN].tolist(), strict=True)))
    readings = sum(map(len, recordings))
    named = [
        Code(channel, value, count)
        for channel, found, far_off in zip(channels, counts, reach.tolist(), strict=True)
        for value, count in found.most_common(MOST_NAMED)
        if value != 0 and LEAST_OFTEN <= count <= MOST_SHARE * readings and _stands_alone(value, found, far_off)
    ]
    known = {(code.channel, code.value) for code in named}
    return named + [code for code in _used_as_codes(recordings) if (code.channel, code.value) not in known]


def _used_as_codes(recordings: Sequence[Source]) -> list[Code]:
    """Codes known as such, where they stand outside all other values of a channel that measures."""
    channels = recordings[0].channels
    counts = np.zeros((len(USED_AS_CODES), len(channels)), np.int64)
    low, high = np.full(len(channels), np.inf), np.full(len(channels), -np.inf)
    different = [set[float]() for _ in channels]
    for recording in recordings:
        for piece in pieces(recording):
            codes = np.isin(piece.values, USED_AS_CODES)
            counts += [(piece.values == code).sum(axis=0) for code in USED_AS_CODES]
            others = np.where(codes | ~np.isfinite(piece.values), np.nan, piece.values)
            low, high = np.fmin(low, np.fmin.reduce(others)), np.fmax(high, np.fmax.reduce(others))
            for at, seen in enumerate(different):
                if len(seen) <= LEAST_DIFFERENT:
                    seen.update(others[: 10 * PLACE_ROWS, at][np.isfinite(others[: 10 * PLACE_ROWS, at])].tolist())
    most = MOST_CODE * sum(map(len, recordings))
    return [
        Code(channel, code, int(count))
        for at, channel in enumerate(channels)
        for code, count in zip(USED_AS_CODES, counts[:, at], strict=True)
        if LEAST_OFTEN <= count <= most and len(different[at]) > LEAST_DIFFERENT
        and (code < low[at] - OF_CODE * abs(code) or code > high[at] + OF_CODE * abs(code))
    ]  # fmt: skip


def _stands_alone(value: float, known: Collection[float], far_off: float) -> bool:
    return all(other == value or abs(other - value) > far_off for other in known)


def _usual(recording: Source) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(C,) each: beyond the first two a value is far, by the third; none is, of a channel that takes few values."""
    starts = np.unique(np.linspace(0, max(0, len(recording) - PLACE_ROWS), PLACES).astype(int)).tolist()
    seen = np.concatenate([recording.rows(start, start + PLACE_ROWS).values for start in starts])
    low, high, reach = (np.full(seen.shape[1], value) for value in (-np.inf, np.inf, 0.0))
    for at, column in enumerate(seen.T):
        values = column[np.isfinite(column)]
        if len(np.unique(values)) > LEAST_DIFFERENT:
            first, last = np.quantile(values, (0.25, 0.75)).tolist()
            if last > first:  # else it mostly stands, and whatever else it does is far
                reach[at] = FAR * (last - first)
                low[at], high[at] = first - reach[at], last + reach[at]
    return low, high, reach
