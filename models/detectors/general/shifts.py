"""What lasts: a level that left its home, and a channel that has become livelier or quieter than it was.

Each channel for itself, learned on the stream. With the value x, the one before x', and the n-th reading's gain
a = 1/min(n, 1000):

    level     l += 2 clip(x - l, ±100v)/41        home    h += a clip(l - h, ±6v)
                                                  drift   v += a (min(|l - h|, 3v) - v)
    activity  α += 2(min(|x - x'|, 8 max(α, m)) - α)/41
                                                  usual   m += a (min(|x - x'|, 8m) - m)
                                                  unrest  b += a (min(|ln α/m|, 3b) - b)

A level is strange by |l - h|/v, an activity by |ln α/m|/b: by how far such means usually stray, so that a random walk
or a stream that switches between levels is used to it. For the first 20 readings the center, spread and step of
models.detectors.general.features stand for them, from which a wild value is taken out. The clips bound what a reading
teaches afterwards (contract 12): home moves by 0.6 % of the usual straying, and what is usual grows by 0.2 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.features import RESOLUTION, SPREAD_FLOOR, TINY
from gatewatch.models.detectors.operands import ARRAYS, Functions
from gatewatch.models.record_fields import load, store

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

GAIN = 2 / 41
"""An exponential mean over 40 readings."""

HOME_READINGS = 1000.0
LEVEL_CLIP, HOME_CLIP, SCALE_CLIP, CHANGE_CLIP = 100.0, 6.0, 3.0, 8.0

SETTLING, SETTLING_LIVELY = 20, 40
"""Readings of a channel after which its level and its activity are judged."""

FIRST_DRIFT, FIRST_UNREST = 0.25, 0.5
"""What stands for v and b at first: a share of the spread, and a factor of 1.6 in the changes."""

FARTHEST_LEVEL, FARTHEST_LIVELY = 30.0, 10.0
"""Most that is made of either: a channel that never moved before would else be strange for thousands of readings."""

QUIETEST, LEAST_UNREST = 0.05, 0.05
"""Least activity, of the usual one, and least of b."""


def lasting_fields(channels: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 24 bytes a channel."""
    return [(name, "<f4", (channels,)) for name in ("level", "home", "drift", "activity", "usual", "unrest")]


def strayed(
    x: Float64Array, change: Float64Array, observed: NDArray[np.bool_], states: Records
) -> tuple[Float64Array, Float64Array]:
    """(B, C) each: how strange every channel's level and activity are, 1 being usual; then takes the reading in.

    Args:
        x: (B, C) physical units, from each channel's origin; the last value where missing.
        change: (B, C) how far that is from the last value.
        observed: (B, C) whether it is there.
        states: (B,) records with `lasting_fields` and those of models.detectors.general.features, before
        `features.observe`.
    """
    count = states["count"]
    fields = load(states, "level", 6)
    young = count < SETTLING
    if np.count_nonzero(young):
        center, step, drift = states["center"], states["step"], FIRST_DRIFT * states["spread"]
        firsts: list[Any] = [center, center, drift, step, step, FIRST_UNREST]
        for field, first in zip(fields, firsts, strict=True):
            np.copyto(field, first, where=young)
    *after, far, lively = shifts_after(ARRAYS, fields, x, change, *shift_gains(states, observed))
    store(states, "level", np.array(after))
    far *= observed & (count >= SETTLING)
    lively *= observed & (count >= SETTLING_LIVELY)
    return np.minimum(far, FARTHEST_LEVEL), np.minimum(lively, FARTHEST_LIVELY)


def shift_gains(states: Records, observed: NDArray[np.bool_]) -> tuple[Float64Array, Float64Array, Float64Array]:
    """(B, C) each: the gains of quick means and of slow ones, 0 where nothing is observed, and the least straying."""
    gain: Float64Array = observed / np.minimum(np.maximum(states["count"], SETTLING), HOME_READINGS)
    floor = SPREAD_FLOOR * states["reach"].astype(np.float64) + RESOLUTION * np.abs(states["origin"]) + TINY
    return np.multiply(GAIN, observed), gain, floor


def shifts_after(of: Functions, kept: Any, x: Any, change: Any, quick: Any, gain: Any, floor: Any) -> tuple[Any, ...]:
    """The fields of channels after a reading, and how strange their levels and activities are; arrays (..., C), or
    numbers.

    Args:
        quick, gain: of the quick means and of the slow ones, 0 where nothing is observed.
        floor: the least straying.
    """
    level, home, drift, activity, usual, unrest = kept
    smaller, larger = of.smaller, of.larger
    strays = larger(drift, floor)
    wide = LEVEL_CLIP * strays
    level = level + quick * smaller(larger(x - level, -wide), wide)
    away = level - home
    far = abs(away)
    wide = HOME_CLIP * strays
    home = home + gain * smaller(larger(away, -wide), wide)
    drift = drift + gain * (smaller(far, SCALE_CLIP * strays) - drift)

    scale = larger(usual, floor)
    activity = activity + quick * (smaller(change, CHANGE_CLIP * larger(scale, activity)) - activity)
    ratio = abs(of.log(larger(activity, QUIETEST * scale) / scale))
    usually = larger(unrest, LEAST_UNREST)
    usual = usual + gain * (smaller(change, CHANGE_CLIP * scale) - usual)
    unrest = unrest + gain * (smaller(ratio, SCALE_CLIP * usually) - unrest)
    return level, home, drift, activity, usual, unrest, far / strays, ratio / usually
