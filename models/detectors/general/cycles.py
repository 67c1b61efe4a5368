"""What the last RING block means of a channel tell: the period of its cycles, and how unlike all before its newest are.

With D_k the mean of (y_t - y_(t-k))² over the means y and V their variance, the period is the least k that is a local
maximum of r_k = 1 - D_k / 2V with r_k >= ALIKE, by CONTRAST above the least r before it, and NEARLY the largest such.
Pulses at odd times, and channels that rest, are like themselves at any distance, and have none.

Of a window w of the newest WINDOW blocks, less their mean, and those before it:

    d_k = rms of (w_t - w_(t-k)),  d = d_k* the least of them;     e = rms of the NEWEST blocks' differences at k*
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]

RING, WINDOW, NEWEST = 320, 24, 6
PAST = RING - 2 * WINDOW + 1
"""Windows that are held against the newest one: those that share no block with it."""

SHORTEST, LONGEST, PERIODS = 12, 80, 4
"""Blocks of a period, and periods that a ring holds at least."""

ALIKE, CONTRAST, NEARLY = 0.5, 0.3, 0.9


def in_order(ring: NDArray[np.float16], blocks: int) -> Float64Array:
    """(RING,) the means of a ring, oldest first; those that are not there yet stand before them."""
    head = blocks % RING
    y = np.empty(RING)
    y[: RING - head], y[RING - head :] = ring[head:], ring[:head]
    return y


def period_of(y: Float64Array, alike: float = ALIKE, least: int = SHORTEST, most: int = LONGEST) -> int:
    """Blocks of the period of so many means, within bounds; 0 if there is none."""
    least, most, n = max(least, SHORTEST), min(most, LONGEST, len(y) // PERIODS), len(y)
    y = y - np.add.reduce(y) / n
    squares = np.add.accumulate(np.square(y))
    whole = float(squares[-1])
    if most < least or whole <= 0.0:
        return 0
    lags = np.arange(1, most + 2)
    product = np.correlate(np.concatenate([y, np.zeros(most + 1)]), y)[1:]
    apart = (whole - squares[lags - 1] + squares[n - 1 - lags] - 2 * product) / (n - lags)
    r = np.concatenate([[1.0], 1.0 - apart * n / (2 * whole)])
    inner, valley = r[least:-1], np.minimum.accumulate(r)[least:-1]
    good = (inner >= r[least - 1 : -2]) & (inner >= r[least + 1 :])
    good &= (inner >= alike) & (inner - valley >= CONTRAST)
    at = np.flatnonzero(good)
    return least + int(at[inner[at] >= NEARLY * np.maximum.reduce(inner[at])][0]) if len(at) else 0


def unlike(rings: NDArray[np.float16], blocks: NDArray[Any]) -> tuple[Float64Array, Float64Array]:
    """(P, 2) d and e of P rings, and (P,) the deviations of all that they hold.

    Args:
        rings: (P, RING).
        blocks: (P,) that each has taken, WINDOW + NEWEST at least.
    """
    pairs = len(rings)
    y, product = np.empty((pairs, RING)), np.empty((pairs, PAST))
    filled = np.minimum(blocks, RING).astype(np.int64)
    for out, ring, count in zip(y, rings, blocks.tolist(), strict=True):
        out[:] = in_order(ring, count)
    y -= np.add.reduce(y[:, -WINDOW:], 1, keepdims=True) / WINDOW
    beyond = np.arange(RING) < (RING - filled)[:, None]
    young = np.count_nonzero(beyond)
    if young:
        y[beyond] = 0.0
    for into, row in zip(product, y, strict=True):
        into[:] = np.correlate(row[:-WINDOW], row[-WINDOW:])
    sums, squares = np.zeros((2, pairs, RING + 1))
    np.add.accumulate(y, 1, out=sums[:, 1:])
    np.add.accumulate(np.square(y), 1, out=squares[:, 1:])
    means = (sums[:, WINDOW : PAST + WINDOW] - sums[:, :PAST]) / WINDOW
    apart = squares[:, WINDOW : PAST + WINDOW] - squares[:, :PAST]
    apart += (squares[:, -1] - squares[:, -1 - WINDOW])[:, None] - 2 * product
    apart /= WINDOW
    apart -= np.square(means)
    if young:
        apart[beyond[:, :PAST]] = np.inf
    at, rows = apart.argmin(1), np.arange(pairs)
    past = y[rows[:, None], at[:, None] + np.arange(WINDOW - NEWEST, WINDOW)]
    off = y[:, -NEWEST:] - (past - means[rows, at][:, None])
    found = np.empty((pairs, 2))
    found[:, 0] = apart[rows, at]
    found[:, 1] = np.add.reduce(np.square(off), 1) / NEWEST
    spread = squares[:, -1] / filled - np.square(sums[:, -1] / filled)
    return np.sqrt(np.maximum(found, 0.0)), np.sqrt(np.maximum(spread, 0.0))
