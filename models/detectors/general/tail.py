"""How rare a size is, by what the stream itself has shown: counters in place of a threshold learned beforehand.

Sizes are positive, 1 being usual. 48 counters at equal ratios say how many readings so far were of which size, and

    r = -ln[ (w₀ p + readings as large) / (w₀ + readings) ],   p = P(Gamma(3) > 3 size)^(n/(n + young))

in nats: w₀ = PRIOR_READINGS of a gamma law stand in where nothing was counted yet, the less the younger the stream.
A reading fades from the counters after COUNTED_READINGS.

What is judged anomalous teaches no more than stated (contract 12): the first reading of an incident counts as any
other, so that the counters hold how often there are incidents; what follows within it counts so little that after
ACCEPTED_READINGS of a kind it is no longer rare. An anomaly that recurs is thus found again and again, each time at a
size at most a sixth above that of the time before, and one that lasts is taken for normal in the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

COUNTERS = 48
LEAST, MOST = 0.05, 60.0
"""Bounds of the sizes that are counted."""

COUNTED_READINGS = 20_000.0
PRIOR_READINGS = 5.0

ACCEPTED_READINGS = 300.0
"""1,000 hold lasting faults longer (SKAB F1 0.63 for 0.61) and three times as many normal rows of SMAP/MSL."""

LEAST_JUMP = 0.3
"""Nats of the lowest counter of jumps; the highest is at 360."""

TAIL_READINGS, PRIOR_EXCESS = 8.0, 10.0

RATIO = np.log(MOST / LEAST) / (COUNTERS - 1)
_JUMP_EDGES = LEAST_JUMP * np.exp(RATIO * np.arange(COUNTERS))
_JUMP_MIDDLES = LEAST_JUMP * np.exp(RATIO * (np.arange(COUNTERS) + 0.5))


def rarity(
    size: Float64Array, counted: NDArray[np.float32], readings: NDArray[np.integer[Any]], young: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Nats of sizes of K kinds, and the places among the counters that they belong to.

    Args:
        size: (B, K), 1 is usual.
        counted: (B, K, COUNTERS) readings by size.
        readings: (B,) how many each stream has seen.
        young: (K,) readings after which half of the law's tail is trusted.
    """
    place = place_of(size, LEAST)
    at = _counters(place)
    total = np.add.reduce(counted, 2, np.float64)
    below = np.add.accumulate(counted, 2, np.float64)[at]
    larger = np.maximum(total - below + (1 - place % 1) * counted[at], 0.0)
    z = 3 * size
    known = readings[:, None] / (readings[:, None] + young)
    tail = np.exp(np.maximum((np.log1p(z + z * z / 2) - z) * known, -60.0))  # Gamma(3): mean 1
    return -np.log((PRIOR_READINGS * tail + larger) / (PRIOR_READINGS + total)), place


def jump_rarity(nats: Float64Array, counted: NDArray[np.float32]) -> tuple[Float64Array, Float64Array]:
    """Nats of (B,) jumps, by what (B, COUNTERS) were counted, and their places among the counters.

    None of a stream that has had fewer than TAIL_READINGS jumps.
    """
    rows = np.arange(len(nats))
    place = place_of(nats, LEAST_JUMP)
    reached = np.add.accumulate(counted[:, ::-1], 1, np.float64)[:, ::-1]  # readings at each counter and above
    beyond = np.add.accumulate(counted[:, ::-1] * _JUMP_MIDDLES[::-1], 1, np.float64)[:, ::-1]
    at = np.add.reduce(reached[:, 1:] >= TAIL_READINGS, 1)  # the highest counter that so many have reached, or 0
    tail, level, total = reached[rows, at], _JUMP_EDGES[at], PRIOR_READINGS + reached[:, 0]
    excess = np.maximum(nats - level, 0.0) / (beyond[rows, at] - level * tail + PRIOR_EXCESS)
    r = np.log(total / np.maximum(tail, 1.0)) + (tail + PRIOR_EXCESS) * np.log1p(excess)
    whole = place.astype(np.intp)
    larger = reached[rows, whole] - place % 1 * counted[rows, whole]
    within = np.log((total + 1) / (np.maximum(larger, 0.0) + 1))
    return np.where(at > 0, np.where(nats > level, r, within), 0.0), place


def count(
    place: Float64Array,
    counted: NDArray[np.float32],
    seen: NDArray[np.bool_],
    held: NDArray[np.bool_],
    limit: Float64Array,
) -> None:
    """Count a reading of each stream in; `counted` is changed in place.

    Args:
        place: (B, K) from `rarity`.
        counted: (B, K, COUNTERS).
        seen: (B, K) whether there was anything to judge.
        held: (B, K) whether its kind was judged anomalous within an open incident.
        limit: (B, K) nats from which on a kind is anomalous.
    """
    weight = np.ones(place.shape)
    if np.count_nonzero(held):
        total = PRIOR_READINGS + np.add.reduce(counted, 2, np.float64)
        weight = np.where(held, np.minimum(total * np.exp(-limit) / ACCEPTED_READINGS, 1.0), 1.0)
    weight *= seen
    counted *= np.where(seen, 1 - 1 / COUNTED_READINGS, 1.0).astype(np.float32)[..., None]
    counted[_counters(place)] += weight.astype(np.float32)


def place_of(size: Float64Array, least: float) -> Float64Array:
    """Where sizes stand among counters whose lowest is at `least`; what is no number, as from a state that is damaged,
    stands at the lowest."""
    place = np.log(np.maximum(size, 1e-9) / least) / RATIO
    return np.asarray(np.minimum(np.fmax(place, 0.0), COUNTERS - 1.001))


def _counters(place: Float64Array) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Where (B, K) places stand among the (B, K, COUNTERS)."""
    streams, kinds = place.shape
    return np.arange(streams)[:, None], np.arange(kinds), place.astype(np.intp)
