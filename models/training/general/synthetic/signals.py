"""Kinds of synthetic signals: a clock of N series to (N, T), in any unit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gatewatch.models.training.general.synthetic.clocks import Clock
from gatewatch.models.training.general.synthetic.parts import (
    SEGMENTS,
    Floats,
    autoregression,
    draw_noise,
    draw_profile,
    draw_segments,
    log_uniform,
    per_segment,
)

EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""


def draw_signals(rng: Generator, clock: Clock, kinds: NDArray[np.intp]) -> Floats:
    """(N, T) a signal of the wanted kind for each series, standardised; a constant one is left at 0."""
    signals = np.empty(clock.timestamps_ms.shape)
    for number, make in enumerate(KINDS.values()):
        chosen = np.flatnonzero(kinds == number)
        if len(chosen):
            signals[chosen] = make(rng, clock.of(chosen))
    signals -= signals.mean(axis=1, keepdims=True)
    spread = signals.std(axis=1, keepdims=True)
    return signals / np.where(spread > 1e-9, spread, 1)


def draw_week(rng: Generator, clock: Clock) -> Floats:
    """(N, T) a factor for each day of the week: weekends differ on half of the series, every day on a quarter."""
    count = len(clock.interval_s)
    factors = np.ones((count, 7))
    factors[:, 5:] *= np.where(rng.random((count, 1)) < 0.5, rng.uniform(0.2, 1.3, (count, 1)), 1)
    factors *= np.where(rng.random((count, 1)) < 0.25, rng.uniform(0.7, 1.3, (count, 7)), 1)
    return np.take_along_axis(factors, (np.floor(clock.days).astype(np.int64) + EPOCH_WEEKDAY) % 7, axis=1)


def _waves(rng: Generator, clock: Clock) -> Floats:
    """One to three periodic components of 4 to 800 readings, of any shape, with a wandering phase, under noise."""
    shape = clock.timestamps_ms.shape
    total = draw_noise(rng, shape)
    for component in range(3):
        period = log_uniform(rng, 4, 800, (shape[0], 1))
        wander = rng.choice([0, 0, 0.02, 0.1], (shape[0], 1))
        rate = np.maximum(1 + wander * rng.normal(size=shape), 0) / period
        phase = rng.random((shape[0], 1)) + rate.cumsum(axis=1)
        total += (
            rng.normal(size=(shape[0], 1)) * draw_profile(rng, phase) * (rng.random((shape[0], 1)) < 0.5**component)
        )
    return total


def _daily(rng: Generator, clock: Clock) -> Floats:
    """A profile of the day (office hours, two rush hours, a smooth curve), weekly modulated, under correlated noise."""
    days, count = clock.days, len(clock.interval_s)
    profile = draw_profile(rng, days + rng.random((count, 1)))
    skew = rng.uniform(0, 1.5, (count, 1)) * (rng.random((count, 1)) < 0.5)
    profile = np.where(skew > 0, np.exp(skew * profile), profile)
    memory = log_uniform(rng, 1, 300, (count, 1))
    noise = autoregression(rng.normal(size=days.shape), np.exp(-1 / memory)) * np.sqrt(2 / (memory + 1))
    level = 0.3 + profile - profile.min(axis=1, keepdims=True)
    shaky = 1 + log_uniform(rng, 0.01, 0.5, (count, 1)) * noise
    return np.asarray(level * draw_week(rng, clock) * shaky) + draw_noise(rng, days.shape)


def _trends(rng: Generator, clock: Clock) -> Floats:
    """Straight pieces with changing slopes, under noise."""
    shape = clock.timestamps_ms.shape
    piece = draw_segments(rng, shape, log_uniform(rng, 40, 2000, (shape[0], 1)))
    trend = per_segment(rng.standard_t(3, (shape[0], SEGMENTS)), piece).cumsum(axis=1)
    trend /= trend.std(axis=1, keepdims=True) + 1e-9
    return trend + draw_noise(rng, shape)


def _walks(rng: Generator, clock: Clock) -> Floats:
    """Random walks with normal or heavy-tailed steps, on some only at a few readings; no forecast beats the last."""
    shape = clock.timestamps_ms.shape
    steps = rng.standard_t(log_uniform(rng, 2, 50, (shape[0], 1)), shape)
    moves = rng.random(shape) < rng.choice([1, 1, 0.3, 0.05], (shape[0], 1))
    pull = rng.choice([1, 1, 0.999, 0.99], (shape[0], 1))
    return autoregression(steps * moves, pull)


def _autoregressions(rng: Generator, clock: Clock) -> Floats:
    """AR(1) that forgets within 1 to 300 readings, and AR(2) that rings with a period of 4 to 200."""
    shape = clock.timestamps_ms.shape
    keep = np.exp(-1 / log_uniform(rng, 1, 300, (shape[0], 1)))
    turn = 2 * np.pi / log_uniform(rng, 4, 200, (shape[0], 1))
    rings = rng.random((shape[0], 1)) < 0.5
    first = np.where(rings, 2 * keep * np.cos(turn), keep * rng.choice([1, 1, 1, -1], (shape[0], 1)))
    return autoregression(rng.normal(size=shape), first, np.where(rings, -(keep**2), 0))


def _bursts(rng: Generator, clock: Clock) -> Floats:
    """Quiet, and now and then a burst that rises at once and fades within 1 to 60 readings."""
    shape = clock.timestamps_ms.shape
    begins = rng.random(shape) < 1 / log_uniform(rng, 10, 500, (shape[0], 1))
    size = np.exp(rng.uniform(0, 1.2, (shape[0], 1)) * rng.normal(size=shape))
    fade = np.exp(-1 / log_uniform(rng, 0.5, 60, (shape[0], 1)))
    return autoregression(begins * size, fade) + 0.3 * draw_noise(rng, shape)


def _counts(rng: Generator, clock: Clock) -> Floats:
    """Poisson and negative binomial counts whose rate, 0.05 to 2,000 a reading, follows the day or wanders."""
    shape = clock.timestamps_ms.shape
    count = shape[0]
    wander = autoregression(rng.normal(size=shape), np.full((count, 1), 0.99)) * 0.14
    by_day = draw_profile(rng, clock.days + rng.random((count, 1)))
    depth = rng.uniform(0, 1, (count, 1)) * (rng.random((count, 1)) < 0.7)
    rate = log_uniform(rng, 0.05, 2000, (count, 1)) * np.exp(
        depth * np.where(rng.random((count, 1)) < 0.6, by_day, wander)
    )
    dispersion = log_uniform(rng, 1, 30, (count, 1))
    spread = np.where(rng.random((count, 1)) < 0.5, rng.gamma(dispersion, 1 / dispersion, shape), 1)
    return rng.poisson(rate * draw_week(rng, clock) * spread).astype(np.float64)


def _heavy_tails(rng: Generator, clock: Clock) -> Floats:
    """Log-normal levels that remember, and Student-t noise of 1.5 to 4 degrees of freedom around a slow level."""
    shape = clock.timestamps_ms.shape
    memory = log_uniform(rng, 1, 100, (shape[0], 1))
    slow = autoregression(rng.normal(size=shape), np.exp(-1 / memory)) * np.sqrt(2 / (memory + 1))
    log_normal = np.exp(rng.uniform(0.3, 1.2, (shape[0], 1)) * (slow + 0.3 * rng.normal(size=shape)))
    noisy = slow + log_uniform(rng, 0.1, 1, (shape[0], 1)) * np.clip(
        rng.standard_t(rng.uniform(1.5, 4, (shape[0], 1)), shape), -40, 40
    )
    return np.where(rng.random((shape[0], 1)) < 0.5, log_normal, noisy)


def _regimes(rng: Generator, clock: Clock) -> Floats:
    """Levels and noises that switch, between a few that return or to ever new ones."""
    shape = clock.timestamps_ms.shape
    piece = draw_segments(rng, shape, log_uniform(rng, 20, 700, (shape[0], 1)))
    returning = rng.random((shape[0], 1)) < 0.5
    piece = np.where(returning, (piece * 7919 + piece // 3) % rng.integers(2, 5, (shape[0], 1)), piece)
    level = per_segment(rng.normal(size=(shape[0], SEGMENTS)), piece)
    loudness = per_segment(log_uniform(rng, 0.02, 0.5, (shape[0], SEGMENTS)), piece)
    same = rng.random((shape[0], 1)) < 0.4
    noise = autoregression(rng.normal(size=shape), rng.uniform(-0.2, 0.9, (shape[0], 1)))
    return level + np.where(same, loudness[:, :1], loudness) * noise


def _constants(rng: Generator, clock: Clock) -> Floats:
    """One value for ever; or a rare step to another; or a rare flicker to a neighbouring value."""
    shape = clock.timestamps_ms.shape
    piece = draw_segments(rng, shape, np.full((shape[0], 1), 600.0))
    steps = per_segment(rng.normal(size=(shape[0], SEGMENTS)), piece)
    flicker = rng.integers(-1, 2, shape) * (rng.random(shape) < log_uniform(rng, 0.003, 0.2, (shape[0], 1)))
    which = rng.integers(3, size=(shape[0], 1))
    return np.where(which == 0, 0.0, np.where(which == 1, steps, flicker))


def _two_valued(rng: Generator, clock: Clock) -> Floats:
    """On or off: for random times, by the clock of the day, or on for single readings."""
    shape = clock.timestamps_ms.shape
    count = shape[0]
    random_times = draw_segments(rng, shape, log_uniform(rng, 3, 300, (count, 1))) % 2
    by_clock = (clock.days + rng.random((count, 1))) % 1 < rng.uniform(0.1, 0.9, (count, 1))
    single = rng.random(shape) < log_uniform(rng, 0.005, 0.4, (count, 1))
    which = rng.integers(3, size=(count, 1))
    return np.where(which == 0, random_times, np.where(which == 1, by_clock, single)).astype(np.float64)


def _duty_cycles(rng: Generator, clock: Clock) -> Floats:
    """A thermostat: heats to an upper limit, cools to a lower one; pump and compressor loads are its switch."""
    shape = clock.timestamps_ms.shape
    count = shape[0]
    warming, cooling = (1 - np.exp(-1 / log_uniform(rng, 3, 150, count)) for _ in range(2))
    upper, lower = rng.uniform(0.55, 0.9, count), rng.uniform(0.1, 0.45, count)
    outside = 0.1 * autoregression(rng.normal(size=shape), np.full((count, 1), 0.995)) * 0.1
    shock = rng.normal(size=shape) * log_uniform(rng, 0.001, 0.03, (count, 1))
    temperature, switch = np.empty(shape), np.empty(shape)
    now = rng.random((count,))
    on = rng.random((count,)) < 0.5
    for row in range(shape[1]):
        target = np.where(on, 1.0, 0.0) + outside[:, row]
        now = now + np.where(on, warming, cooling) * (target - now) + shock[:, row]
        on = np.where(now > upper, False, np.where(now < lower, True, on))
        temperature[:, row], switch[:, row] = now, on
    load = switch * (1 + 0.1 * autoregression(rng.normal(size=shape), np.full((count, 1), 0.9)))
    shown = np.where(rng.random((count, 1)) < 0.6, temperature, load)
    return shown + log_uniform(rng, 0.001, 0.1, (count, 1)) * rng.normal(size=shape)


def _ramps(rng: Generator, clock: Clock) -> Floats:
    """Counters and tanks: they fill at a varying rate and begin anew when full, some never within the series."""
    shape = clock.timestamps_ms.shape
    shaky = rng.gamma(2, 0.5, shape)
    daily = np.exp(rng.uniform(0, 1, (shape[0], 1)) * draw_profile(rng, clock.days + rng.random((shape[0], 1))))
    rate = np.where(rng.random((shape[0], 1)) < 0.5, 1.0, shaky) * np.where(rng.random((shape[0], 1)) < 0.5, 1.0, daily)
    filled = (rate / log_uniform(rng, 15, 5000, (shape[0], 1))).cumsum(axis=1) + rng.random((shape[0], 1))
    return np.asarray(filled % 1 * rng.choice([-1, 1], (shape[0], 1)))


KINDS: dict[str, Callable[[Generator, Clock], Floats]] = {
    "waves": _waves,
    "daily": _daily,
    "trends": _trends,
    "walks": _walks,
    "autoregressions": _autoregressions,
    "bursts": _bursts,
    "counts": _counts,
    "heavy_tails": _heavy_tails,
    "regimes": _regimes,
    "constants": _constants,
    "two_valued": _two_valued,
    "duty_cycles": _duty_cycles,
    "ramps": _ramps,
}
