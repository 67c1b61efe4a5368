"""What synthetic signals are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SEGMENTS = 64
"""Different values that segments of one series can have; a series with more segments goes round."""


def log_uniform(rng: Generator, low: float, high: float, shape: int | tuple[int, ...]) -> Floats:
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), shape)))


def autoregression(shocks: NDArray[Any], first: Floats, second: Floats | float = 0.0) -> Floats:
    """(N, T) x_t = first x_{t-1} + second x_{t-2} + shock_t, with (N, 1) coefficients."""
    x = shocks.astype(np.float64)
    one, two = np.broadcast_to(first, (len(x), 1))[:, 0], np.broadcast_to(second, (len(x), 1))[:, 0]
    for row in range(1, x.shape[1]):
        x[:, row] += one * x[:, row - 1]
        if row > 1:
            x[:, row] += two * x[:, row - 2]
    return x


def draw_noise(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Normal or heavy-tailed noise of 0.003 to 1, on a third of the series none."""
    loudness = log_uniform(rng, 0.003, 1, (shape[0], 1)) * (rng.random((shape[0], 1)) < 2 / 3)
    return loudness * rng.standard_t(rng.choice([3, 5, 50, 50], (shape[0], 1)), shape)


def draw_profile(rng: Generator, phase: Floats) -> Floats:
    """(N, T) a periodic function of the phase, about 1 in size: each series has its own, of one of five shapes."""
    count = len(phase)
    turn = 2 * np.pi * phase
    smooth = sum(
        rng.normal(size=(count, 1)) / order * np.cos(order * (turn + rng.uniform(0, 2 * np.pi, (count, 1))))
        for order in range(1, 6)
    )
    square = np.tanh(log_uniform(rng, 1, 20, (count, 1)) * (np.cos(turn) + rng.uniform(-0.8, 0.8, (count, 1))))
    apart = 2 * np.pi * rng.uniform(0.2, 0.5, (count, 1))
    sharp = log_uniform(rng, 2, 60, (2, count, 1))
    peaks = np.exp(sharp[0] * (np.cos(turn) - 1)) + rng.uniform(0, 1, (count, 1)) * np.exp(
        sharp[1] * (np.cos(turn - apart) - 1)
    )
    pieces = rng.integers(3, 40, (count, 1))
    levels = per_segment(rng.normal(size=(count, SEGMENTS)), (phase % 1 * pieces).astype(np.int64))
    rise = rng.uniform(0.05, 0.95, (count, 1))
    saw = np.where(phase % 1 < rise, phase % 1 / rise, (1 - phase % 1) / (1 - rise))
    return np.asarray(np.choose(rng.integers(5, size=(count, 1)), [smooth, square, 2 * peaks, levels, 2 * saw]))


def draw_segments(rng: Generator, shape: tuple[int, ...], length: Floats) -> NDArray[np.int64]:
    """(N, T) the number of the segment that a reading lies in; segments last `length` (N, 1) readings on average."""
    return np.asarray((rng.random(shape) < 1 / length).cumsum(axis=1, dtype=np.int64))


def per_segment(values: Floats, segment: NDArray[np.int64]) -> Floats:
    """(N, SEGMENTS) values to (N, T), by segment."""
    return np.take_along_axis(values, segment % SEGMENTS, axis=1)
