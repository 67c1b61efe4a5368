"""Synthetic streams of cycles, each with one that is wrong though its values are usual: a set made from a seed.

A stream has 3,000 readings to learn from, without anomalies, and 4,000 to be judged, one in five minutes. Its cycles
differ by a few hundredths in length and height, its period drifts, its level wanders, there is noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.random import Generator

from benchmarks.quality.injected import Float64Array, Stream

STREAMS = 2
"""Of each family and kind."""

SEED = 20_261_129
LEARN, ROWS = 3000, 7000
FIRST, LAST = LEARN + 500, ROWS - 900
"""Rows between which the anomaly begins."""

BLEND = 0.1
"""Share of a cycle in which another shape takes over, and gives way: nothing jumps."""

DAY = 288

Profile = Callable[[Float64Array], Float64Array]
"""Values by phase in [0, 1); it ends where it began."""


def cycle_streams() -> Iterator[Stream]:
    """STREAMS of each family and kind."""
    for family, make in FAMILIES.items():
        for kind in KINDS:
            if family == "daily" and kind in SHIFTING:
                continue
            for number in range(STREAMS):
                name = f"{family}-{kind}-{number}"
                rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
                values, event = _stream(make, kind, family == "daily", rng)
                yield name, values[:, None], [event]


def _stream(
    make: Callable[[Generator], Profile], kind: str, daily: bool, rng: Generator
) -> tuple[Float64Array, tuple[int, int]]:
    """(ROWS,) cycles with one that is wrong, and where."""
    period = DAY if daily else int(rng.integers(40, 240))
    profile, other = _in_range(make(rng)), _in_range(make(rng))
    length_jitter, height_jitter = (0.0 if daily else rng.uniform(0.005, 0.04)), rng.uniform(0.01, 0.06)
    drift, turn = (0.0 if daily else rng.uniform(0, 0.1)), rng.random()
    begins = int(rng.integers(FIRST, LAST - 2 * period))
    parts: list[Float64Array] = []
    at, event, number = 0, None, 0
    while at < ROWS:
        length = period * (1 + drift * np.sin(2 * np.pi * (at / ROWS + turn))) * (1 + length_jitter * rng.normal())
        rows = max(int(length), 8)
        height = (1 + height_jitter * rng.normal()) * (0.75 if daily and number % 7 >= 5 else 1.0)
        if event is None and at >= begins:
            values = KINDS[kind](profile, other, rows, rng)
            event = (at, at + len(values) - 1)
        else:
            values = profile(np.arange(rows) / rows)
        parts.append(height * values)
        at, number = at + len(parts[-1]), number + 1
    assert event is not None
    values = np.concatenate(parts)[:ROWS]
    place = np.arange(ROWS) / ROWS
    values += rng.uniform(0, 0.15) * np.sin(2 * np.pi * (rng.uniform(0.5, 3) * place + rng.random()))
    values += rng.uniform(0.01, 0.08) * rng.normal(size=ROWS)
    return (values + rng.normal() * 3) * 10 ** rng.uniform(-2, 3), event


def _in_range(profile: Profile) -> Profile:
    """The same between -1 and 1."""
    values = profile(np.arange(512) / 512)
    low, high = values.min(), values.max()
    return lambda phase: (profile(phase) - low) * (2 / (high - low)) - 1


def _waves(rng: Generator) -> Profile:
    """Four sines."""
    height, turn = rng.normal(size=4) / np.arange(1, 5), rng.random(4)
    return lambda phase: np.asarray(
        sum(height[k] * np.sin(2 * np.pi * ((k + 1) * phase + turn[k])) for k in range(4)), np.float64
    )


def _plateaus(rng: Generator) -> Profile:
    """On and off, with a ripple while it is on."""
    on, steep, ripple = rng.uniform(0.3, 0.6), rng.uniform(30, 80), rng.uniform(0.05, 0.25)
    waves = int(rng.integers(2, 6))

    def profile(phase: Float64Array) -> Float64Array:
        gate = (np.tanh(steep * (phase - 0.2)) - np.tanh(steep * (phase - 0.2 - on))) / 2
        return np.asarray(gate * (1 + ripple * np.sin(2 * np.pi * waves * (phase - 0.2) / on)))

    return profile


def _beats(rng: Generator) -> Profile:
    """A heart's: a small wave, a sharp peak, a broad wave."""
    shift = 0.03 * rng.normal(size=4)
    size = rng.uniform(0.6, 1.5, 4)
    bumps = ((0.15, 0.2, 0.04), (1.0, 0.4, 0.02), (-0.25, 0.46, 0.02), (0.3, 0.7, 0.07))
    return lambda phase: np.asarray(
        sum(
            height * more * np.exp(-(((phase - place - off) / width) ** 2))
            for (height, place, width), off, more in zip(bumps, shift, size, strict=True)
        )
    )


def _ramps(rng: Generator) -> Profile:
    """Something fills slowly and empties quickly, or breathes."""
    top, bend = rng.uniform(0.5, 0.8), rng.uniform(0.6, 2)

    def profile(phase: Float64Array) -> Float64Array:
        rise = np.clip(phase / top, 0, 1) ** bend
        return np.asarray(np.where(phase < top, rise, np.cos(np.pi / 2 * (phase - top) / (1 - top)) ** 2))

    return profile


def _daily(rng: Generator) -> Profile:
    """A day of people: asleep, a morning peak, an evening peak; weekends are lower."""
    peaks = ((rng.uniform(0.33, 0.42), 0.05, rng.uniform(0.5, 1)), (rng.uniform(0.7, 0.85), 0.07, rng.uniform(0.5, 1)))
    noon = rng.uniform(0.3, 0.6)

    def profile(phase: Float64Array) -> Float64Array:
        values = noon * np.exp(-(((phase - 0.6) / 0.2) ** 4))
        return np.asarray(values + sum(h * np.exp(-(((phase - at) / width) ** 2)) for at, width, h in peaks))

    return profile


SHIFTING = ("early", "slow")
"""Kinds that no day can be: all days after it would come at another time."""


def _odd(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """A cycle of another shape."""
    phase = np.arange(rows) / rows
    weight = np.clip(np.minimum(phase, 1 - phase) / BLEND, 0, 1)
    return np.asarray((1 - weight) * profile(phase) + weight * other(phase))


def _early(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """The second half hurries: the next cycle comes early."""
    half = rows // 2
    short = max(int(half * rng.uniform(0.25, 0.5)), 3)
    phase = np.concatenate([np.arange(half) / rows, half / rows + (1 - half / rows) * np.arange(short) / short])
    return profile(phase)


def _missing(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """It rests where a cycle begins, for the length of one."""
    return np.full(rows, profile(np.zeros(1))[0])


def _warped(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """As long as others, first too slow and then too fast, or the other way round."""
    phase = np.arange(rows) / rows
    return profile(phase + rng.choice([-1, 1]) * rng.uniform(0.6, 0.9) * np.sin(2 * np.pi * phase) / (2 * np.pi))


def _damped(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """Two cycles of half the height."""
    phase = np.arange(2 * rows) / rows
    weight = np.clip(np.minimum(phase, 2 - phase) / BLEND, 0, 1)
    values, middle = profile(phase % 1), float(profile(np.arange(512) / 512).mean())
    return np.asarray(values + weight * rng.uniform(0.4, 0.6) * (middle - values))


def _reversed(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """A cycle that runs backwards."""
    return profile((1 - np.arange(rows) / rows) % 1)


def _slow(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """A cycle half as long again."""
    longer = int(rows * rng.uniform(1.3, 1.6))
    return profile(np.arange(longer) / longer)


def _double(profile: Profile, other: Profile, rows: int, rng: Generator) -> Float64Array:  # noqa: ARG001
    """Two short cycles in the time of one."""
    return profile(2 * np.arange(rows) / rows % 1)


FAMILIES: dict[str, Callable[[Generator], Profile]] = {
    "waves": _waves,
    "plateaus": _plateaus,
    "beats": _beats,
    "ramps": _ramps,
    "daily": _daily,
}
KINDS: dict[str, Callable[[Profile, Profile, int, Generator], Float64Array]] = {
    "odd": _odd,
    "early": _early,
    "missing": _missing,
    "warped": _warped,
    "damped": _damped,
    "reversed": _reversed,
    "slow": _slow,
    "double": _double,
}
