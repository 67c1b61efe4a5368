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

Floats = NDArray[np.float64]

COUNTERS = 48
LEAST, MOST = 0.05, 60.0
"""Bounds of the sizes that are counted."""

COUNTED_READINGS = 20_000.0
PRIOR_READINGS = 5.0

ACCEPTED_READINGS = 300.0
"""1,000 hold lasting faults longer (SKAB F1 0.63 for 0.61) and three times as many normal rows of SMAP/MSL."""

_RATIO = np.log(MOST / LEAST) / (COUNTERS - 1)


def rarity(
    size: Floats, counted: NDArray[np.float32], readings: NDArray[np.integer[Any]], young: Floats
) -> tuple[Floats, Floats]:
    """Nats of sizes of K kinds, and the places among the counters that they belong to.

    Args:
        size: (B, K), 1 is usual.
        counted: (B, K, COUNTERS) readings by size.
        readings: (B,) how many each stream has seen.
        young: (K,) readings after which half of the law's tail is trusted.
    """
    place = np.minimum(np.maximum(np.log(np.maximum(size, 1e-9) / LEAST) / _RATIO, 0.0), COUNTERS - 1.001)
    at = _counters(place)
    total = np.add.reduce(counted, 2, np.float64)
    below = np.add.accumulate(counted, 2, np.float64)[at]
    larger = np.maximum(total - below + (1 - place % 1) * counted[at], 0.0)
    z = 3 * size
    known = readings[:, None] / (readings[:, None] + young)
    tail = np.exp(np.maximum((np.log1p(z + z * z / 2) - z) * known, -60.0))  # Gamma(3): mean 1
    return -np.log((PRIOR_READINGS * tail + larger) / (PRIOR_READINGS + total)), place


def count(
    place: Floats, counted: NDArray[np.float32], seen: NDArray[np.bool_], held: NDArray[np.bool_], limit: Floats
) -> None:
    """Count a reading of each stream in; `counted` is changed in place.

    Args:
        place: (B, K) from `rarity`.
        counted: (B, K, COUNTERS).
        seen: (B,) whether there was anything to judge.
        held: (B, K) whether its kind was judged anomalous within an open incident.
        limit: (B, K) nats from which on a kind is anomalous.
    """
    weight = np.ones(place.shape)
    if np.count_nonzero(held):
        total = PRIOR_READINGS + np.add.reduce(counted, 2, np.float64)
        weight = np.where(held, np.minimum(total * np.exp(-limit) / ACCEPTED_READINGS, 1.0), 1.0)
    weight *= seen[:, None]
    counted *= np.where(seen, 1 - 1 / COUNTED_READINGS, 1.0).astype(np.float32)[:, None, None]
    counted[_counters(place)] += weight.astype(np.float32)


def _counters(place: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Where (B, K) places stand among the (B, K, COUNTERS)."""
    streams, kinds = place.shape
    return np.arange(streams)[:, None], np.arange(kinds), place.astype(np.intp)
