"""Ten kinds of normal streams, seeded, for benchmarks.quality.rates.

Each has three channels and nothing wrong in it. A row is five minutes: a day has DAY rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY = 288
CHANNELS = 3


def normal_stream(kind: str, rows: int, seed: int) -> Floats:
    """(rows, CHANNELS) readings of one of KINDS; the same seed and rows give the same stream."""
    channels = np.random.default_rng([seed, [*KINDS].index(kind)]).spawn(CHANNELS)
    values = np.stack([KINDS[kind](channel, rows) for channel in channels], axis=1)
    return _followed(values, channels[0]) if kind == "commands" else values


def _autoregressive(rng: np.random.Generator, rows: int, kept: float) -> Floats:
    """A stationary process of standard deviation 1, of which so much is kept from one row to the next."""
    steps = np.sqrt(1 - kept**2) * rng.standard_normal(rows)
    x, values = rng.standard_normal(), np.empty(rows)
    for row, step in enumerate(steps.tolist()):
        x = kept * x + step
        values[row] = x
    return values


def _pulses(rng: np.random.Generator, rows: int) -> Floats:
    """A heart's beats: a small wave, a sharp peak and a broad wave in some 40 rows, a twentieth early or late."""
    beats = np.cumsum(rng.uniform(32, 48) * (1 + 0.05 * rng.standard_normal(rows // 16 + 8)))
    place = np.arange(rows, dtype=np.float64)
    beat = np.searchsorted(beats, place)
    before = np.where(beat > 0, beats[beat - 1], beats[0] - 40)
    phase = (place - before) / (beats[beat] - before)
    shape = sum(
        height * np.exp(-(((phase - at) / width) ** 2))
        for height, at, width in ((0.15, 0.2, 0.04), (1.0, 0.4, 0.02), (-0.2, 0.45, 0.02), (0.3, 0.7, 0.08))
    )
    return np.asarray(shape + 0.02 * rng.standard_normal(rows))


def _shutdown(rng: np.random.Generator, rows: int) -> Floats:
    """A machine that is off for five hours of every night, a quarter of an hour early or late."""
    day, place = np.arange(rows) // DAY, np.arange(rows) % DAY
    off, on = (edge + rng.normal(0, 3, rows // DAY + 1)[day] for edge in (40, 100))
    running = (place < off) | (place >= on)
    return np.where(running, 10 + np.sin(2 * np.pi * place / DAY), 0.5) + 0.2 * rng.standard_normal(rows)


def _duty(rng: np.random.Generator, rows: int) -> Floats:
    """A thermostat: on for 10 to 30 rows, off for 20 to 60, each approached in a few rows."""
    lengths = np.stack([rng.integers(10, 31, rows // 30 + 2), rng.integers(20, 61, rows // 30 + 2)], axis=1).ravel()
    on = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths)[:rows]
    x, values = 0.0, np.empty(rows)
    for row, target in enumerate(on.tolist()):
        x += (target - x) / 4
        values[row] = x
    return values + 0.03 * rng.standard_normal(rows)


def _commands(rng: np.random.Generator, rows: int) -> Floats:
    """A valve that is opened and shut at any time, every 80 rows or so: two values."""
    return np.asarray(np.cumsum(rng.random(rows) < 1 / 80) % 2, np.float64)


def _followed(commands: Floats, rng: np.random.Generator) -> Floats:
    """The same with the last channel a tank that fills while the first two valves are open."""
    x, values = 0.0, commands.copy()
    for row, target in enumerate((commands[:, 0] + 0.5 * commands[:, 1]).tolist()):
        x += (target - x) / 15
        values[row, -1] = x
    values[:, -1] += 0.03 * rng.standard_normal(len(values))
    return values


def _counts(rng: np.random.Generator, rows: int) -> Floats:
    """Requests: Poisson around a level that wanders by the day and has bursts."""
    intensity = np.exp(1.5 + 0.4 * np.sin(2 * np.pi * np.arange(rows) / DAY) + 0.5 * _autoregressive(rng, rows, 0.9))
    return rng.poisson(intensity).astype(np.float64)


def _season(rng: np.random.Generator, rows: int) -> Floats:
    """A day's curve on a level that rises by its own height in 70 days."""
    place = np.arange(rows)
    curve = np.sin(2 * np.pi * place / DAY) + 0.3 * np.sin(4 * np.pi * place / DAY + 1)
    return np.asarray(curve + place / (70 * DAY) + 0.1 * rng.standard_normal(rows))


def _heavy(rng: np.random.Generator, rows: int) -> Floats:
    """Noise of Student's t with 3 degrees of freedom."""
    return np.asarray(rng.standard_t(3, rows))


def _quantised(rng: np.random.Generator, rows: int) -> Floats:
    """A slow sensor that knows steps of a third of its spread."""
    return np.asarray(np.round(3 * (_autoregressive(rng, rows, 0.9) + np.sin(2 * np.pi * np.arange(rows) / DAY))) / 3)


KINDS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "pulses": _pulses,
    "shutdown": _shutdown,
    "slow": lambda rng, rows: _autoregressive(rng, rows, 0.99),
    "wandering": lambda rng, rows: _autoregressive(rng, rows, 0.998),
    "duty": _duty,
    "commands": _commands,
    "counts": _counts,
    "season": _season,
    "heavy": _heavy,
    "quantised": _quantised,
}
