"""Synthetic streams with anomalies put in, one kind of anomaly a stream: a set as the others, made from a seed.

Each stream has a week to learn from, without anomalies, and a week to be judged, one reading in five minutes. The
kinds are those that labelled recordings have few of, or hide among others.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

STREAMS = 6
"""Of each kind."""

SEED = 20_261_128
WEEK, DAY, HOUR = 2016, 288, 12
ROWS = 2 * WEEK
START_MS, INTERVAL_MS = 1_767_225_600_000, 300_000
VUS_WINDOW = 50

Float64Array = NDArray[np.float64]
Events = list[tuple[int, int]]
"""First and last row, counted from the stream's first."""

Stream = tuple[str, Float64Array, Events]
"""Name, (rows, channels) values, and what is anomalous in them."""


def injected_streams() -> Iterator[Stream]:
    """STREAMS of each kind."""
    for kind, make in KINDS.items():
        for number in range(STREAMS):
            values, events = make(np.random.default_rng([SEED, zlib.crc32(kind.encode()), number]))
            yield f"{kind}-{number}", values, events


def write_streams(folder: Path, made: Iterable[Stream], learn: int, vus_window: int | None = None) -> None:
    """Write a set: train/, test/ and labels.json, as the other sets have them.

    Args:
        learn: rows of each stream that become its train part.
        vus_window: see Series.window.
    """
    streams = {}
    for name, values, events in made:
        channels = [f"c{channel:02d}" for channel in range(values.shape[1])]
        table = pd.DataFrame(np.round(values, 5), columns=channels)
        stamps = pd.to_datetime(START_MS + INTERVAL_MS * np.arange(len(values)), unit="ms", utc=True)
        table.insert(0, "timestamp", stamps.strftime("%Y-%m-%dT%H:%M:%SZ"))
        for part, rows in (("train", slice(0, learn)), ("test", slice(learn, None))):
            path = folder / part / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            table.iloc[rows].to_csv(path, index=False)
        streams[name] = {
            "train_file": f"train/{name}.csv",
            "test_file": f"test/{name}.csv",
            "target_channels": channels,
            "vus_window": vus_window,
            "anomalies": [{"start": first - learn, "end": last - learn} for first, last in events],
        }
    (folder / "labels.json").write_text(json.dumps({"streams": streams}))


def _places(rng: Generator, count: int, apart: int) -> NDArray[np.intp]:
    """Rows of the second week at which so many anomalies begin, at least so far apart."""
    room = WEEK - 200 - apart * count
    return WEEK + 100 + np.sort(rng.integers(0, room, count)) + apart * np.arange(count)


def _noise(rng: Generator, memory: float, rows: int = ROWS) -> Float64Array:
    """(rows,) noise of unit spread that forgets within so many readings."""
    keep, drawn = np.exp(-1 / memory), rng.normal(size=rows)
    noise, now = np.empty(rows), 0.0
    for row in range(rows):
        now = keep * now + drawn[row]
        noise[row] = now
    return np.asarray(noise * np.sqrt(1 - keep**2))


def _curve(rng: Generator) -> Float64Array:
    """(ROWS,) a smooth curve of the day, different from day to day by a tenth, between -1 and 1."""
    day = np.arange(ROWS) / DAY
    phase = rng.random(2)
    wave = np.sin(2 * np.pi * (day + phase[0])) + rng.uniform(0, 0.6) * np.sin(4 * np.pi * (day + phase[1]))
    knots = 1 + 0.1 * rng.normal(size=ROWS // DAY + 3)
    return np.asarray(wave / np.abs(wave).max() * np.interp(day, np.arange(len(knots)), knots))


def _alone(values: Float64Array, rng: Generator) -> Float64Array:
    """(ROWS, 1) of one channel, in units of its own."""
    return np.asarray(((values + rng.normal() * 3) * 10 ** rng.uniform(-2, 3))[:, None])


def _spikes(rng: Generator) -> tuple[Float64Array, Events]:
    """Jumps of one to three readings on a smooth curve, inside its range."""
    values = _curve(rng) + rng.uniform(0.003, 0.02) * rng.normal(size=ROWS)
    events = []
    for row in _places(rng, 5, 150):
        rows = np.arange(row, row + rng.integers(1, 4))
        values[rows] -= np.sign(values[row]) * rng.uniform(0.3, 0.6)
        events.append((int(rows[0]), int(rows[-1])))
    return _alone(values, rng), events


def _cycles(rng: Generator) -> tuple[Float64Array, Events]:
    """A cycle of 30 to 150 readings; of three, one is missing, one is upside down, one comes early."""
    period = int(rng.integers(30, 150))
    phase, events = np.arange(ROWS) / period, []
    first, second, third = _places(rng, 3, 2 * period + 100).tolist()
    phase[third:] += rng.uniform(0.3, 0.6)
    height = rng.normal(size=4) / np.arange(1, 5)
    turn = rng.random(4)

    def profile(at: Float64Array) -> Float64Array:
        waves = [height[k] * np.sin(2 * np.pi * ((k + 1) * at + turn[k])) for k in range(4)]
        return np.asarray(np.sum(waves, axis=0))

    values = profile(phase)
    spread = values.std()
    missing, turned = slice(first, first + period), slice(second, second + period)
    values[missing] = values[first]
    values[turned] = values[second] - (values[turned] - values[second]) * 0.8
    values = np.clip(values, -2.5 * spread, 2.5 * spread) / spread + rng.uniform(0.02, 0.1) * rng.normal(size=ROWS)
    events = [(first, first + period), (second, second + period), (third, third + period)]
    return _alone(values, rng), events


def _recurring(rng: Generator) -> tuple[Float64Array, Events]:
    """Eight like events of 6 to 18 readings, 2 to 5 hours apart."""
    values = 0.3 * _curve(rng) + rng.uniform(0.05, 0.15) * _noise(rng, float(rng.choice([1, 5])))
    length, size = int(rng.integers(6, 19)), rng.choice([-1, 1]) * rng.uniform(0.8, 2)
    row, events = WEEK + int(rng.integers(100, 800)), []
    for _ in range(8):
        values[row : row + length] += size * rng.uniform(0.85, 1.15)
        events.append((row, row + length - 1))
        row += int(rng.integers(2 * HOUR, 5 * HOUR)) + length
    return _alone(values, rng), events


def _levels(rng: Generator) -> tuple[Float64Array, Events]:
    """A level that changes by 2 to 5 spreads and stays for a day; its whole time is labelled."""
    values = rng.uniform(0, 1) * _curve(rng) + rng.uniform(0.1, 0.4) * _noise(rng, float(rng.choice([1, 10])))
    row = int(_places(rng, 1, DAY + 100)[0])
    values[row : row + DAY] += rng.choice([-1, 1]) * rng.uniform(2, 5) * values[:WEEK].std()
    return _alone(values, rng), [(row, row + DAY - 1)]


def _relations(rng: Generator) -> tuple[Float64Array, Events]:
    """Six channels of one cause; twice, one of them goes its own way, inside its range, for half a day."""
    cause = _curve(rng) + 0.3 * _noise(rng, 20)
    weights = rng.choice([-1, 1], 6) * rng.uniform(0.5, 1.5, 6)
    values = cause[:, None] * weights + 0.05 * rng.normal(size=(ROWS, 6))
    events = []
    for row in _places(rng, 2, DAY):
        rows = np.arange(row, row + DAY // 2)
        channel = rng.integers(6)
        values[rows, channel] = values[rows - DAY // 2 - int(rng.integers(20, 80)), channel]
        events.append((int(rows[0]), int(rows[-1])))
    return values * 10 ** rng.uniform(-1, 2, 6), events


def _commands(rng: Generator) -> tuple[Float64Array, Events]:
    """A value beside 20 channels of two values, some of which first switch in the second week; the value errs."""
    values = np.zeros((ROWS, 21))
    values[:, 0] = 0.5 * _curve(rng) + 0.1 * _noise(rng, 5)
    for channel in range(1, 21):
        often = rng.choice([0, 1 / 2000, 1 / 200, 1 / 30])
        values[:, channel] = np.cumsum(rng.random(ROWS) < often) % 2
    events = []
    for row in _places(rng, 3, 200):
        length = int(rng.integers(5, 40))
        values[row : row + length, 0] += rng.choice([-1, 1]) * rng.uniform(1, 2)
        events.append((int(row), int(row) + length - 1))
    return values, events


def _sentinels(rng: Generator) -> tuple[Float64Array, Events]:
    """A value that reads -9999 now and then, as it always did; what is labelled are jumps of its true values."""
    values = _curve(rng) + 0.1 * _noise(rng, 3)
    events = []
    for row in _places(rng, 3, 200):
        length = int(rng.integers(3, 20))
        values[row : row + length] += rng.choice([-1, 1]) * rng.uniform(1.5, 3)
        events.append((int(row), int(row) + length - 1))
    values[rng.random(ROWS) < rng.choice([0.003, 0.01, 0.03])] = -9999
    return values[:, None], events


def _lively(rng: Generator) -> tuple[Float64Array, Events]:
    """Noise that for half a day is three to five times as large, or a fifth as large, as before."""
    scale, events = np.ones(ROWS), []
    for row, factor in zip(_places(rng, 2, DAY), rng.permutation([rng.uniform(3, 5), 0.15]), strict=True):
        scale[row : row + DAY // 2] = factor
        events.append((int(row), int(row) + DAY // 2 - 1))
    return _alone(0.5 * _curve(rng) + 0.1 * scale * _noise(rng, 2), rng), events


def _normal(rng: Generator) -> tuple[Float64Array, Events]:
    """Nothing: daily bursts, counts, a switch, a walk that returns, heavy tails, a busy week with a quiet weekend."""
    day, curve = np.arange(ROWS) % DAY, _curve(rng)
    daily = curve + 0.1 * rng.normal(size=ROWS)
    kinds = [
        daily + 3 * ((day >= 100) & (day < 100 + rng.integers(6, 30))),
        rng.poisson(np.exp(1 + curve)).astype(np.float64),
        np.cumsum(rng.random(ROWS) < 1 / 60) % 2 + 0.02 * rng.normal(size=ROWS),
        _noise(rng, 300),
        0.3 * curve + 0.2 * np.clip(rng.standard_t(2.5, ROWS), -30, 30),
        daily * np.where(np.arange(ROWS) // DAY % 7 >= 5, 0.3, 1.0),
    ]
    return _alone(kinds[rng.integers(len(kinds))], rng), []


KINDS: dict[str, Callable[[Generator], tuple[Float64Array, Events]]] = {
    "spikes": _spikes,
    "cycles": _cycles,
    "recurring": _recurring,
    "levels": _levels,
    "relations": _relations,
    "commands": _commands,
    "sentinels": _sentinels,
    "lively": _lively,
    "normal": _normal,
}
