"""A corpus of synthetic series: signals on clocks, and what sensors and transport do to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gatewatch.models.training.general.synthetic.clocks import INTERVALS_S, draw_clock
from gatewatch.models.training.general.synthetic.parts import SEGMENTS, Floats, draw_segments, log_uniform, per_segment
from gatewatch.models.training.general.synthetic.signals import KINDS, draw_signals

SECOND_SIGNAL, OUTLIERS, NEW_LEVELS, LIMITS, STEPS, MISSING = 0.3, 0.2, 0.2, 0.1, 0.25, 0.2
"""Shares of the series to which this is done."""


@dataclass(frozen=True)
class Corpus:
    """N synthetic series of T readings.

    Attributes:
        kinds: (N,) each series' place in KINDS.
        timestamps_ms: (N, T) Unix time.
        values: (N, T) physical units, NaN where missing.
    """

    kinds: NDArray[np.intp]
    timestamps_ms: NDArray[np.int64]
    values: NDArray[np.float32]


def generate(series: int, rows: int, seed: int, intervals_s: Sequence[int] = INTERVALS_S) -> Corpus:
    """`series` series of `rows` readings, as many of each kind; the same arguments give the same corpus.

    Args:
        intervals_s: the seconds between two readings of a series are one of these.
    """
    rng = np.random.default_rng(seed)
    clock = draw_clock(rng, series, rows, intervals_s)
    kinds = rng.permutation(np.arange(series) % len(KINDS))
    signal = draw_signals(rng, clock, kinds)
    second = np.flatnonzero(rng.random(series) < SECOND_SIGNAL)
    weight = log_uniform(rng, 0.1, 2, (len(second), 1))
    signal[second] += weight * draw_signals(rng, clock.of(second), rng.integers(len(KINDS), size=len(second)))
    return Corpus(kinds, clock.timestamps_ms, measure(rng, signal))


def measure(rng: Generator, signal: Floats) -> NDArray[np.float32]:
    """Outliers, new levels, limits, steps and units from 1e-6 to 1e9, and missing values; see the shares above."""
    series = len(signal)

    def done(share: float) -> Floats:
        """(N, 1) 1 for the chosen series, else 0."""
        return (rng.random((series, 1)) < share).astype(np.float64)

    spikes = rng.random(signal.shape) < log_uniform(rng, 1 / 1500, 1 / 100, (series, 1))
    signal = signal + done(OUTLIERS) * spikes * 4 * rng.standard_t(3, signal.shape)
    piece = draw_segments(rng, signal.shape, np.full((series, 1), 800.0))
    shifts = per_segment(rng.normal(size=(series, SEGMENTS)) * 2, piece)
    signal = signal + done(NEW_LEVELS) * (piece > 0) * shifts

    low, high = np.quantile(signal, [rng.uniform(0, 0.3), rng.uniform(0.7, 1)], axis=1, keepdims=True)
    side = rng.integers(3, size=(series, 1))
    limited = np.clip(signal, np.where(side == 0, -np.inf, low), np.where(side == 1, np.inf, high))
    signal = np.where(done(LIMITS) > 0, limited, signal)

    step = log_uniform(rng, 0.01, 1, (series, 1))
    signal = np.where(done(STEPS) > 0, np.round(signal / step) * step, signal)

    unit = 10 ** rng.uniform(-6, 9, (series, 1)) * rng.choice([-1, 1], (series, 1), p=[0.2, 0.8])
    offset = rng.choice([0, 1, 10, 300], (series, 1)) * rng.normal(size=(series, 1))
    measured: NDArray[np.float32] = np.clip(unit * (signal + offset), -1e12, 1e12).astype(np.float32)

    rare = rng.random(signal.shape) < log_uniform(rng, 0.002, 0.2, (series, 1))
    outage = draw_segments(rng, signal.shape, np.full((series, 1), 60.0)) % 17 == 16
    absent = np.where(rng.random((series, 1)) < 0.6, rare, outage)
    measured[(done(MISSING) > 0) & absent] = np.nan
    return measured
