"""Forecasting: what a detector expects of a stream's next readings, from its state as it is.

Each forecast is fed back as if it had been the reading, and the next one is made from there. The band around the first
is the detector's own. It tells nothing of the second, whose error has that of the first in it; so the stream's last
readings say how fast errors grow: the state is led through them once more, and from many places on the way the same is
forecast and held against what came. With the mean miss E_h of h readings ahead and the detector's half width b of one,

    half_h = b max(1, E_1', ..., E_h') with E_h' = E_h / max(E_1, b/SHARE)

A horizon that fewer than ORIGINS places could be held against has no band: it is infinite.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.clock import set_back
from gatewatch.models.detectors.detector import Detector, Floats, Records

Times = NDArray[np.int64]

MEASURED: Final = 256
"""Last readings of the stream that are looked at."""

BURN_IN: Final = 32
"""Of these, readings that only lead the network's state from the last one to where the first of them stand."""

ORIGINS: Final = 8
ROWS: Final = 256
"""Channels of all places together: more would cost time, and tell little, as they overlap."""

SHARE: Final = 20.0
"""A mean miss of less than this part of the band is no measure: a channel that stands still has none."""


def forecast(
    detector: Detector, state: Records, times_ms: Times, values: Floats, past_ms: Times, asked: Asked | None = None
) -> tuple[Floats, Floats]:
    """Mid and half width (H, C) of a stream's next H readings, physical units; infinite where no width is known.

    Args:
        state: (1,) the stream's; left as it is.
        times_ms: (H,) of the next readings.
        values: (N, C) the last readings, physical units, NaN where missing.
        past_ms: (N,) their times.
        asked: of the stream's scoring.
    """
    mid, half = _ahead(detector, state, times_ms[:, None], asked)
    growth = _growth(detector, state, values[-MEASURED:], past_ms[-MEASURED:], half[0, 0], len(times_ms), asked)
    return mid[:, 0], half[0, 0] * growth


def cadence_ms(past_ms: Times) -> int | None:
    """The usual time between two readings, the median of those that differ; None where none do."""
    steps = np.diff(past_ms[-MEASURED:])
    steps = steps[steps > 0]
    return int(np.median(steps)) if len(steps) else None


def _ahead(detector: Detector, states: Records, times_ms: Times, asked: Asked | None) -> tuple[Floats, Floats]:
    """Mid and half width (H, B, C) of the next readings of B states of one stream; `times_ms` (H, B)."""
    states, of_each = states.copy(), asked and asked.at([0] * len(states))
    shape = (*times_ms.shape, len(detector.channels))
    mid, half = np.empty(shape), np.empty(shape)
    for at, now_ms in enumerate(times_ms):
        step = detector.advance(np.full(shape[1:], np.nan), now_ms, states.copy(), of_each)
        mid[at], half[at] = step.mid, step.half
        detector.advance(mid[at].copy(), now_ms, states, of_each)
    return mid, half


def _growth(
    detector: Detector,
    state: Records,
    values: Floats,
    past_ms: Times,
    first: Floats,
    horizon: int,
    asked: Asked | None,
) -> Floats:
    """(H, C) how many times as wide as the first band each one is; infinite where that is not known.

    Args:
        first: (C,) half width of the first.
    """
    grown = np.full((horizon, len(first)), np.inf)
    grown[0] = 1.0
    reach = min(horizon, len(values) - BURN_IN - ORIGINS + 1)  # as far ahead there are enough places
    if reach < 2:
        return grown
    most = min(len(values) - reach - BURN_IN + 1, max(ORIGINS, ROWS // len(first)))
    places = BURN_IN + np.linspace(0, len(values) - reach - BURN_IN, most).astype(np.intp)
    at = places + np.arange(reach)[:, None]  # (reach, B)
    mid, _ = _ahead(detector, _states_before(detector, state, values, past_ms, places, asked), past_ms[at], asked)
    missed = np.abs(values[at] - mid)  # (reach, B, C)
    known = np.isfinite(missed)
    count = np.count_nonzero(known, axis=1)
    mean = np.where(known, missed, 0.0).sum(axis=1) / np.maximum(count, 1)
    unit = np.maximum(mean[0], np.where(np.isfinite(first), first, 0.0) / SHARE)
    ratio = np.where(unit > 0, mean / np.where(unit > 0, unit, 1.0), np.where(mean > 0, np.inf, 1.0))
    ratio[count < ORIGINS] = np.inf
    ratio[0] = 1.0
    grown[:reach] = np.maximum.accumulate(np.maximum(ratio, 1.0))
    return grown


def _states_before(
    detector: Detector,
    state: Records,
    values: Floats,
    past_ms: Times,
    places: NDArray[np.intp],
    asked: Asked | None,
) -> Records:
    """(B,) the states before the readings at some places, as the last state comes to them once more."""
    led, wanted = state.copy(), set(places.tolist())
    set_back(led, int(past_ms[0]) - (cadence_ms(past_ms) or 0))
    kept: list[Records] = []
    for at in range(int(places[-1]) + 1):
        if at in wanted:
            kept.append(led.copy())
        detector.advance(values[at : at + 1].copy(), past_ms[at : at + 1], led, asked)
    return np.concatenate(kept)
