"""Univariate series of many kinds, drawn from a seed: all that the general network is ever trained on.

Each series is made in four steps: a clock (interval 1 s to 1 h, regular or not), a signal of one of KINDS on that
clock, for some a second signal on top, and last what sensors and transport do to it: outliers, lasting changes of
level, limits, steps of quantisation, physical units, missing values. Nothing in it is an anomaly: all that occurs is
something that a forecaster has to live with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INTERVALS_S = (1, 2, 5, 10, 30, 60, 60, 120, 300, 300, 300, 600, 600, 900, 900, 1800, 1800, 3600, 3600)
"""Usual ones; those under which the clock of the day shows in a thousand rows come more often."""

DAY_S = 86_400
EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday; Monday is 0."""

IRREGULAR, GAPS, SECOND_SIGNAL, OUTLIERS, NEW_LEVELS, LIMITS, STEPS, MISSING = 0.25, 0.1, 0.3, 0.2, 0.2, 0.1, 0.25, 0.2
"""Shares of the series to which this is done."""


@dataclass(frozen=True)
class Clock:
    """When the readings of N series were taken.

    Attributes:
        timestamps_ms: (N, T) Unix time, never falling.
        interval_s: (N,) between two readings, typically.
    """

    timestamps_ms: NDArray[np.int64]
    interval_s: Floats

    def of(self, chosen: NDArray[Any]) -> Clock:
        """The clock of some of the series."""
        return Clock(self.timestamps_ms[chosen], self.interval_s[chosen])

    @property
    def days(self) -> Floats:
        """(N, T) time in days; its fraction is the time of day."""
        return self.timestamps_ms / (1000 * DAY_S)


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
    clock = _clock(rng, series, rows, intervals_s)
    kinds = rng.permutation(np.arange(series) % len(KINDS))
    signal = _signals(rng, clock, kinds)
    second = np.flatnonzero(rng.random(series) < SECOND_SIGNAL)
    weight = _log_uniform(rng, 0.1, 2, (len(second), 1))
    signal[second] += weight * _signals(rng, clock.of(second), rng.integers(len(KINDS), size=len(second)))
    return Corpus(kinds, clock.timestamps_ms, _measure(rng, signal))


def _signals(rng: Generator, clock: Clock, kinds: NDArray[np.intp]) -> Floats:
    """(N, T) a signal of the wanted kind for each series, standardised; a constant one is left at 0."""
    signals = np.empty(clock.timestamps_ms.shape)
    for number, make in enumerate(KINDS.values()):
        chosen = np.flatnonzero(kinds == number)
        if len(chosen):
            signals[chosen] = make(rng, clock.of(chosen))
    signals -= signals.mean(axis=1, keepdims=True)
    spread = signals.std(axis=1, keepdims=True)
    return signals / np.where(spread > 1e-9, spread, 1)


def _clock(rng: Generator, series: int, rows: int, intervals_s: Sequence[int]) -> Clock:
    """Start anywhere within three years; a quarter of the clocks jitter, and some skip a stretch now and then."""
    interval_s = rng.choice(intervals_s, series).astype(np.float64)
    steps = np.ones((series, rows))
    irregular = np.flatnonzero(rng.random(series) < IRREGULAR)
    jitter = _log_uniform(rng, 0.02, 0.7, (len(irregular), 1))
    steps[irregular] = np.exp(jitter * rng.normal(size=(len(irregular), rows)) - jitter**2 / 2)
    gaps = np.flatnonzero(rng.random(series) < GAPS)
    skips = rng.random((len(gaps), rows)) < 0.005
    steps[gaps] += skips * _log_uniform(rng, 1, 60, (len(gaps), rows))
    start_s = rng.uniform(1.6e9, 1.7e9, (series, 1)) // interval_s[:, None] * interval_s[:, None]
    elapsed_s = (steps.cumsum(axis=1) - steps[:, :1]) * interval_s[:, None]
    return Clock(((start_s + elapsed_s) * 1000).astype(np.int64), interval_s)


# --- kinds of signals: a clock of N series to (N, T), in any unit ---


def _waves(rng: Generator, clock: Clock) -> Floats:
    """One to three periodic components of 4 to 800 readings, of any shape, with a wandering phase, under noise."""
    shape = clock.timestamps_ms.shape
    total = _noise(rng, shape)
    for component in range(3):
        period = _log_uniform(rng, 4, 800, (shape[0], 1))
        wander = rng.choice([0, 0, 0.02, 0.1], (shape[0], 1))
        rate = np.maximum(1 + wander * rng.normal(size=shape), 0) / period
        phase = rng.random((shape[0], 1)) + rate.cumsum(axis=1)
        total += rng.normal(size=(shape[0], 1)) * _profile(rng, phase) * (rng.random((shape[0], 1)) < 0.5**component)
    return total


def _daily(rng: Generator, clock: Clock) -> Floats:
    """A profile of the day (office hours, two rush hours, a smooth curve), weekly modulated, under correlated noise."""
    days, count = clock.days, len(clock.interval_s)
    profile = _profile(rng, days + rng.random((count, 1)))
    skew = rng.uniform(0, 1.5, (count, 1)) * (rng.random((count, 1)) < 0.5)
    profile = np.where(skew > 0, np.exp(skew * profile), profile)
    memory = _log_uniform(rng, 1, 300, (count, 1))
    noise = _autoregression(rng.normal(size=days.shape), np.exp(-1 / memory)) * np.sqrt(2 / (memory + 1))
    level = 0.3 + profile - profile.min(axis=1, keepdims=True)
    shaky = 1 + _log_uniform(rng, 0.01, 0.5, (count, 1)) * noise
    return np.asarray(level * _week(rng, clock) * shaky) + _noise(rng, days.shape)


def _trends(rng: Generator, clock: Clock) -> Floats:
    """Straight pieces with changing slopes, under noise."""
    shape = clock.timestamps_ms.shape
    piece = _segments(rng, shape, _log_uniform(rng, 40, 2000, (shape[0], 1)))
    trend = _per_segment(rng.standard_t(3, (shape[0], SEGMENTS)), piece).cumsum(axis=1)
    trend /= trend.std(axis=1, keepdims=True) + 1e-9
    return trend + _noise(rng, shape)


def _walks(rng: Generator, clock: Clock) -> Floats:
    """Random walks with normal or heavy-tailed steps, on some only at a few readings; no forecast beats the last."""
    shape = clock.timestamps_ms.shape
    steps = rng.standard_t(_log_uniform(rng, 2, 50, (shape[0], 1)), shape)
    moves = rng.random(shape) < rng.choice([1, 1, 0.3, 0.05], (shape[0], 1))
    pull = rng.choice([1, 1, 0.999, 0.99], (shape[0], 1))
    return _autoregression(steps * moves, pull)


def _autoregressions(rng: Generator, clock: Clock) -> Floats:
    """AR(1) that forgets within 1 to 300 readings, and AR(2) that rings with a period of 4 to 200."""
    shape = clock.timestamps_ms.shape
    keep = np.exp(-1 / _log_uniform(rng, 1, 300, (shape[0], 1)))
    turn = 2 * np.pi / _log_uniform(rng, 4, 200, (shape[0], 1))
    rings = rng.random((shape[0], 1)) < 0.5
    first = np.where(rings, 2 * keep * np.cos(turn), keep * rng.choice([1, 1, 1, -1], (shape[0], 1)))
    return _autoregression(rng.normal(size=shape), first, np.where(rings, -(keep**2), 0))


def _bursts(rng: Generator, clock: Clock) -> Floats:
    """Quiet, and now and then a burst that rises at once and fades within 1 to 60 readings."""
    shape = clock.timestamps_ms.shape
    begins = rng.random(shape) < 1 / _log_uniform(rng, 10, 500, (shape[0], 1))
    size = np.exp(rng.uniform(0, 1.2, (shape[0], 1)) * rng.normal(size=shape))
    fade = np.exp(-1 / _log_uniform(rng, 0.5, 60, (shape[0], 1)))
    return _autoregression(begins * size, fade) + 0.3 * _noise(rng, shape)


def _counts(rng: Generator, clock: Clock) -> Floats:
    """Poisson and negative binomial counts whose rate, 0.05 to 2,000 a reading, follows the day or wanders."""
    shape = clock.timestamps_ms.shape
    count = shape[0]
    wander = _autoregression(rng.normal(size=shape), np.full((count, 1), 0.99)) * 0.14
    by_day = _profile(rng, clock.days + rng.random((count, 1)))
    depth = rng.uniform(0, 1, (count, 1)) * (rng.random((count, 1)) < 0.7)
    rate = _log_uniform(rng, 0.05, 2000, (count, 1)) * np.exp(
        depth * np.where(rng.random((count, 1)) < 0.6, by_day, wander)
    )
    dispersion = _log_uniform(rng, 1, 30, (count, 1))
    spread = np.where(rng.random((count, 1)) < 0.5, rng.gamma(dispersion, 1 / dispersion, shape), 1)
    return rng.poisson(rate * _week(rng, clock) * spread).astype(np.float64)


def _heavy_tails(rng: Generator, clock: Clock) -> Floats:
    """Log-normal levels that remember, and Student-t noise of 1.5 to 4 degrees of freedom around a slow level."""
    shape = clock.timestamps_ms.shape
    memory = _log_uniform(rng, 1, 100, (shape[0], 1))
    slow = _autoregression(rng.normal(size=shape), np.exp(-1 / memory)) * np.sqrt(2 / (memory + 1))
    log_normal = np.exp(rng.uniform(0.3, 1.2, (shape[0], 1)) * (slow + 0.3 * rng.normal(size=shape)))
    noisy = slow + _log_uniform(rng, 0.1, 1, (shape[0], 1)) * np.clip(
        rng.standard_t(rng.uniform(1.5, 4, (shape[0], 1)), shape), -40, 40
    )
    return np.where(rng.random((shape[0], 1)) < 0.5, log_normal, noisy)


def _regimes(rng: Generator, clock: Clock) -> Floats:
    """Levels and noises that switch, between a few that return or to ever new ones."""
    shape = clock.timestamps_ms.shape
    piece = _segments(rng, shape, _log_uniform(rng, 20, 700, (shape[0], 1)))
    returning = rng.random((shape[0], 1)) < 0.5
    piece = np.where(returning, (piece * 7919 + piece // 3) % rng.integers(2, 5, (shape[0], 1)), piece)
    level = _per_segment(rng.normal(size=(shape[0], SEGMENTS)), piece)
    loudness = _per_segment(_log_uniform(rng, 0.02, 0.5, (shape[0], SEGMENTS)), piece)
    same = rng.random((shape[0], 1)) < 0.4
    noise = _autoregression(rng.normal(size=shape), rng.uniform(-0.2, 0.9, (shape[0], 1)))
    return level + np.where(same, loudness[:, :1], loudness) * noise


def _constants(rng: Generator, clock: Clock) -> Floats:
    """One value for ever; or a rare step to another; or a rare flicker to a neighbouring value."""
    shape = clock.timestamps_ms.shape
    piece = _segments(rng, shape, np.full((shape[0], 1), 600.0))
    steps = _per_segment(rng.normal(size=(shape[0], SEGMENTS)), piece)
    flicker = rng.integers(-1, 2, shape) * (rng.random(shape) < _log_uniform(rng, 0.003, 0.2, (shape[0], 1)))
    which = rng.integers(3, size=(shape[0], 1))
    return np.where(which == 0, 0.0, np.where(which == 1, steps, flicker))


def _two_valued(rng: Generator, clock: Clock) -> Floats:
    """On or off: for random times, by the clock of the day, or on for single readings."""
    shape = clock.timestamps_ms.shape
    count = shape[0]
    random_times = _segments(rng, shape, _log_uniform(rng, 3, 300, (count, 1))) % 2
    by_clock = (clock.days + rng.random((count, 1))) % 1 < rng.uniform(0.1, 0.9, (count, 1))
    single = rng.random(shape) < _log_uniform(rng, 0.005, 0.4, (count, 1))
    which = rng.integers(3, size=(count, 1))
    return np.where(which == 0, random_times, np.where(which == 1, by_clock, single)).astype(np.float64)


def _duty_cycles(rng: Generator, clock: Clock) -> Floats:
    """A thermostat: heats to an upper limit, cools to a lower one; pump and compressor loads are its switch."""
    shape = clock.timestamps_ms.shape
    count = shape[0]
    warming, cooling = (1 - np.exp(-1 / _log_uniform(rng, 3, 150, count)) for _ in range(2))
    upper, lower = rng.uniform(0.55, 0.9, count), rng.uniform(0.1, 0.45, count)
    outside = 0.1 * _autoregression(rng.normal(size=shape), np.full((count, 1), 0.995)) * 0.1
    shock = rng.normal(size=shape) * _log_uniform(rng, 0.001, 0.03, (count, 1))
    temperature, switch = np.empty(shape), np.empty(shape)
    now = rng.random((count,))
    on = rng.random((count,)) < 0.5
    for row in range(shape[1]):
        target = np.where(on, 1.0, 0.0) + outside[:, row]
        now = now + np.where(on, warming, cooling) * (target - now) + shock[:, row]
        on = np.where(now > upper, False, np.where(now < lower, True, on))
        temperature[:, row], switch[:, row] = now, on
    load = switch * (1 + 0.1 * _autoregression(rng.normal(size=shape), np.full((count, 1), 0.9)))
    shown = np.where(rng.random((count, 1)) < 0.6, temperature, load)
    return shown + _log_uniform(rng, 0.001, 0.1, (count, 1)) * rng.normal(size=shape)


def _ramps(rng: Generator, clock: Clock) -> Floats:
    """Counters and tanks: they fill at a varying rate and begin anew when full, some never within the series."""
    shape = clock.timestamps_ms.shape
    shaky = rng.gamma(2, 0.5, shape)
    daily = np.exp(rng.uniform(0, 1, (shape[0], 1)) * _profile(rng, clock.days + rng.random((shape[0], 1))))
    rate = np.where(rng.random((shape[0], 1)) < 0.5, 1.0, shaky) * np.where(rng.random((shape[0], 1)) < 0.5, 1.0, daily)
    filled = (rate / _log_uniform(rng, 15, 5000, (shape[0], 1))).cumsum(axis=1) + rng.random((shape[0], 1))
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


# --- what they are made of ---

SEGMENTS = 64
"""Different values that segments of one series can have; a series with more segments goes round."""


def _log_uniform(rng: Generator, low: float, high: float, shape: int | tuple[int, ...]) -> Floats:
    return np.asarray(np.exp(rng.uniform(np.log(low), np.log(high), shape)))


def _autoregression(shocks: NDArray[Any], first: Floats, second: Floats | float = 0.0) -> Floats:
    """(N, T) x_t = first x_{t-1} + second x_{t-2} + shock_t, with (N, 1) coefficients."""
    x = shocks.astype(np.float64)
    one, two = np.broadcast_to(first, (len(x), 1))[:, 0], np.broadcast_to(second, (len(x), 1))[:, 0]
    for row in range(1, x.shape[1]):
        x[:, row] += one * x[:, row - 1]
        if row > 1:
            x[:, row] += two * x[:, row - 2]
    return x


def _noise(rng: Generator, shape: tuple[int, ...]) -> Floats:
    """Normal or heavy-tailed noise of 0.003 to 1, on a third of the series none."""
    loudness = _log_uniform(rng, 0.003, 1, (shape[0], 1)) * (rng.random((shape[0], 1)) < 2 / 3)
    return loudness * rng.standard_t(rng.choice([3, 5, 50, 50], (shape[0], 1)), shape)


def _profile(rng: Generator, phase: Floats) -> Floats:
    """(N, T) a periodic function of the phase, about 1 in size: each series has its own, of one of five shapes."""
    count = len(phase)
    turn = 2 * np.pi * phase
    smooth = sum(
        rng.normal(size=(count, 1)) / order * np.cos(order * (turn + rng.uniform(0, 2 * np.pi, (count, 1))))
        for order in range(1, 6)
    )
    square = np.tanh(_log_uniform(rng, 1, 20, (count, 1)) * (np.cos(turn) + rng.uniform(-0.8, 0.8, (count, 1))))
    apart = 2 * np.pi * rng.uniform(0.2, 0.5, (count, 1))
    sharp = _log_uniform(rng, 2, 60, (2, count, 1))
    peaks = np.exp(sharp[0] * (np.cos(turn) - 1)) + rng.uniform(0, 1, (count, 1)) * np.exp(
        sharp[1] * (np.cos(turn - apart) - 1)
    )
    pieces = rng.integers(3, 40, (count, 1))
    levels = _per_segment(rng.normal(size=(count, SEGMENTS)), (phase % 1 * pieces).astype(np.int64))
    rise = rng.uniform(0.05, 0.95, (count, 1))
    saw = np.where(phase % 1 < rise, phase % 1 / rise, (1 - phase % 1) / (1 - rise))
    return np.asarray(np.choose(rng.integers(5, size=(count, 1)), [smooth, square, 2 * peaks, levels, 2 * saw]))


def _week(rng: Generator, clock: Clock) -> Floats:
    """(N, T) a factor for each day of the week: weekends differ on half of the series, every day on a quarter."""
    count = len(clock.interval_s)
    factors = np.ones((count, 7))
    factors[:, 5:] *= np.where(rng.random((count, 1)) < 0.5, rng.uniform(0.2, 1.3, (count, 1)), 1)
    factors *= np.where(rng.random((count, 1)) < 0.25, rng.uniform(0.7, 1.3, (count, 7)), 1)
    return np.take_along_axis(factors, (np.floor(clock.days).astype(np.int64) + EPOCH_WEEKDAY) % 7, axis=1)


def _segments(rng: Generator, shape: tuple[int, ...], length: Floats) -> NDArray[np.int64]:
    """(N, T) the number of the segment that a reading lies in; segments last `length` (N, 1) readings on average."""
    return np.asarray((rng.random(shape) < 1 / length).cumsum(axis=1, dtype=np.int64))


def _per_segment(values: Floats, segment: NDArray[np.int64]) -> Floats:
    """(N, SEGMENTS) values to (N, T), by segment."""
    return np.take_along_axis(values, segment % SEGMENTS, axis=1)


# --- from a standardised signal to what a sensor reports ---


def _measure(rng: Generator, signal: Floats) -> NDArray[np.float32]:
    """Outliers, new levels, limits, steps and units from 1e-6 to 1e9, and missing values; see the shares above."""
    series = len(signal)

    def done(share: float) -> Floats:
        """(N, 1) 1 for the chosen series, else 0."""
        return (rng.random((series, 1)) < share).astype(np.float64)

    spikes = rng.random(signal.shape) < _log_uniform(rng, 1 / 1500, 1 / 100, (series, 1))
    signal = signal + done(OUTLIERS) * spikes * 4 * rng.standard_t(3, signal.shape)
    piece = _segments(rng, signal.shape, np.full((series, 1), 800.0))
    shifts = _per_segment(rng.normal(size=(series, SEGMENTS)) * 2, piece)
    signal = signal + done(NEW_LEVELS) * (piece > 0) * shifts

    low, high = np.quantile(signal, [rng.uniform(0, 0.3), rng.uniform(0.7, 1)], axis=1, keepdims=True)
    side = rng.integers(3, size=(series, 1))
    limited = np.clip(signal, np.where(side == 0, -np.inf, low), np.where(side == 1, np.inf, high))
    signal = np.where(done(LIMITS) > 0, limited, signal)

    step = _log_uniform(rng, 0.01, 1, (series, 1))
    signal = np.where(done(STEPS) > 0, np.round(signal / step) * step, signal)

    unit = 10 ** rng.uniform(-6, 9, (series, 1)) * rng.choice([-1, 1], (series, 1), p=[0.2, 0.8])
    offset = rng.choice([0, 1, 10, 300], (series, 1)) * rng.normal(size=(series, 1))
    measured: NDArray[np.float32] = np.clip(unit * (signal + offset), -1e12, 1e12).astype(np.float32)

    rare = rng.random(signal.shape) < _log_uniform(rng, 0.002, 0.2, (series, 1))
    outage = _segments(rng, signal.shape, np.full((series, 1), 60.0)) % 17 == 16
    absent = np.where(rng.random((series, 1)) < 0.6, rare, outage)
    measured[(done(MISSING) > 0) & absent] = np.nan
    return measured
