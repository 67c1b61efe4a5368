"""VUS-PR: how well scores rank labelled events above everything else, whatever the threshold and some tolerance.

The labels are widened by a buffer of w/2 rows on both sides of each event, falling as √(1 - d/w) with the distance d,
and the area under the precision-recall curve is averaged over w = 0, 1, ..., window:

    TPR = Σ l s / ((Σ y + Σ l) / 2) · share of events with a row above the threshold      precision = Σ l s / Σ s

y are the labels, l the widened ones (within Σ l only the buffer rows above the threshold count), s is 1 above it.

Source: Paparrizos et al. 2022, "Volume Under the Surface", with the range-PR of its authors' later benchmark TSB-AD.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = 250

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


def vus_pr(
    label: NDArray[np.bool_],
    score: Floats,
    window: int,
    part: Rows | None = None,
    weights: Floats | None = None,
) -> Floats:
    """The volume, for each of R weightings of K parts of the rows.

    Every sum over rows is a weighted sum over parts, so that a bootstrap draws weights and ranks nothing anew; the
    thresholds stay those of all rows.

    Args:
        label: (N,) whether a row is anomalous; a run of such rows is an event.
        score: (N,) higher is stranger.
        window: rows, the widest buffer; 0 leaves the labels as they are.
        part: (N,) index of each row's part, below K; all rows are one part if None.
        weights: (R, K) how often each part counts; (1, K) ones if None.

    Returns:
        (R,) in [0, 1]; NaN where no event has any weight.
    """
    part = np.zeros(len(label), np.intp) if part is None else part
    parts = int(part.max(initial=0)) + 1
    weights = np.ones((1, parts)) if weights is None else weights
    events = runs(label)
    if not events:
        return np.full(len(weights), np.nan)
    thresholds = np.sort(score)[::-1][np.linspace(0, len(score) - 1, THRESHOLDS).astype(np.intp)]
    reached = np.searchsorted(-thresholds, -score)  # (N,) the first threshold that a row is not below

    def above(rows: Rows | slice, values: Floats) -> Floats:
        """(R, THRESHOLDS) the weighted sum of the values of those rows that are above each threshold."""
        cell = part[rows] * THRESHOLDS + reached[rows]
        counts = np.bincount(cell, values, parts * THRESHOLDS).reshape(parts, THRESHOLDS)
        return np.asarray(weights @ counts.cumsum(axis=1))

    everything = slice(None)
    positive = above(everything, np.ones(len(label)))
    labelled = above(everything, label.astype(np.float64))[:, -1:]
    volume = np.zeros(len(weights))
    for width in range(window + 1):
        widened, spans = _widen(label, events, width)
        highest = np.array([first + reached[first : last + 1].argmin() for first, last in spans], np.intp)
        met = above(highest, np.ones(len(highest)))
        hit = above(everything, widened)
        buffer = above(everything, np.where(label, 0.0, widened))
        recall = np.minimum(_ratio(hit, labelled + buffer / 2), 1.0) * _ratio(met, met[:, -1:])
        volume += (np.diff(recall, axis=1, prepend=0.0) * _ratio(hit, positive)).sum(axis=1)
    return np.where(labelled[:, 0] > 0, volume / (window + 1), np.nan)


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last row of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(start), int(stop) - 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _widen(label: NDArray[np.bool_], events: list[tuple[int, int]], width: int) -> tuple[Floats, list[tuple[int, int]]]:
    """The labels with their buffers, and the events with theirs; events whose buffers touch are one."""
    half, widened = width // 2, label.astype(np.float64)
    last_row = len(label) - 1
    spans: list[tuple[int, int]] = []
    for first, last in events:
        after = np.arange(last + 1, min(last + half, last_row) + 1)
        widened[after] += np.sqrt(1 - (after - last) / max(width, 1))
        before = np.arange(max(first - half, 0), first)
        widened[before] += np.sqrt(1 - (first - before) / max(width, 1))
        if spans and first - half <= spans[-1][1]:
            spans[-1] = (spans[-1][0], min(last + half, last_row))
        else:
            spans.append((max(first - half, 0), min(last + half, last_row)))
    return np.minimum(widened, 1.0), spans


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)
