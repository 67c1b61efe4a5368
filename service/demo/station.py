"""A simulated pump station: six speed-controlled pumps, five channels, a reading a minute, faults at known times.

The physics is coupled, so that a channel can be forecast from the others and from its own past:

    speed        n, follows the day's demand and the operator's set-point; never by more than RAMP a minute
    flow         Q = √((n²·SHUT_OFF - STATIC) / (pump curve + pipe resistance)), where pump and pipe agree
    pressure     STATIC + pipe resistance · Q²
    current      idle current + A a kW · Q·pressure/36
    temperature  ambient + heat of current², behind a time constant of 45 minutes
    vibration    grows with n², with a resonance at n = 0.86

On top of it come the sensors: white noise, resolution, values that are missing.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.recording import Recording

Floats = NDArray[np.float64]
Kind = Literal["leak", "bearing wear", "stuck sensor", "spike", "drop-out", "new set-point"]

STREAMS = tuple(f"pump-{number}" for number in range(1, 7))
UNITS = {"pressure": "bar", "flow": "m3/h", "vibration": "mm/s", "temperature": "degC", "current": "A"}
CHANNELS = tuple(UNITS)

MINUTE_MS = 60_000
DAY_MINUTES = 1_440
RECORDINGS_START_MS = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1000)

STATION_SEED = 1971
"""Draws the pumps themselves; they are the same machines in every recording."""

SPREAD = dict(zip(CHANNELS, (0.35, 13.5, 0.25, 8.6, 5.5), strict=True))
"""Standard deviation of each channel in normal operation, physical units (measured over 14 days of all pumps)."""

RAMP = 0.004
"""Speed a minute: the drive's ramp, slow against water hammer; a set-point of 0.05 takes 13 minutes."""

SHUT_OFF = 8.0  # bar at n = 1 without flow
STATIC = 2.0  # bar: the height of the tank
PUMP_CURVE = 0.9e-4  # bar/(m3/h)²
PIPE = 1.27e-4  # bar/(m3/h)²
HEAT_MINUTES = 45.0

NOISE = np.array([0.015, 0.7, 0.04, 0.12, 0.22])  # white, physical units: 0.01 to 0.16 spreads
RESOLUTION = np.array([0.001, 0.05, 0.005, 0.05, 0.02])  # physical units
MISSING_SHARE = 0.02
GAP_SHARE = 0.0015  # of readings with which a channel falls silent for 2 to 6 minutes


@dataclass(frozen=True)
class Fault:
    """Something that happens to one stream, at a known time.

    Attributes:
        stream: whom it befalls.
        kind: what it is.
        channels: where it is to be seen.
        start_ms: its first reading, Unix time.
        end_ms: the first reading after it.
        is_fault: false for what is normal and must not raise a lasting alarm.
        value: stuck sensor: none; spike: how far up, physical units; drop-out: 0.0, or none for missing values;
            new set-point: the speed.
    """

    stream: str
    kind: Kind
    channels: tuple[str, ...]
    start_ms: int
    end_ms: int
    is_fault: bool = True
    value: float | None = None


def demo_faults(start_ms: int) -> list[Fault]:
    """What happens in the demo's three days, which begin with at least 18 normal hours for each stream.

    Sizes, in spreads of normal operation (see SPREAD) and in what one reading differs from the one before:
        leak          a joint gives way within four minutes: pressure -1.1, flow +1.1; from one minute to the next
                      they move by 0.07
        bearing wear  vibration up by 2.4 mm/s (10 spreads) over 30 hours, to some 4.3 mm/s, about where ISO 10816-3
                      ends long-term operation (4.5); temperature up by 8 degC (0.9), most of it in the last third
        spike         pressure 1.4, one reading; current 1.5, three readings; both stay inside the channel's range
        drop-out      flow at 0: 9 below its mean; temperature without values for three hours
        stuck sensor  a flow meter repeats its last value while the flow goes on by ±1
        new set-point the speed is held at 0.87 for 16 hours: unusually long, at values seen every day
    """

    def fault(
        pump: int,
        kind: Kind,
        channels: tuple[str, ...],
        hour: float,
        minutes: int,
        value: float | None = None,
        is_fault: bool = True,
    ) -> Fault:
        start = start_ms + round(hour * 60) * MINUTE_MS
        return Fault(f"pump-{pump}", kind, channels, start, start + minutes * MINUTE_MS, is_fault, value)

    return [
        fault(4, "spike", ("pressure",), 19.5, 1, value=0.5),
        fault(6, "new set-point", CHANNELS, 26, 960, value=0.87, is_fault=False),
        fault(3, "stuck sensor", ("flow",), 27, 240),
        fault(5, "drop-out", ("temperature",), 31, 180),
        fault(1, "leak", ("pressure", "flow"), 34, 300),
        fault(2, "bearing wear", ("vibration", "temperature"), 42, 1_800),
        fault(4, "spike", ("current",), 52, 3, value=8.0),
        fault(5, "drop-out", ("flow",), 56, 120, value=0.0),
    ]


def simulate(start_ms: int, minutes: int, seed: int, faults: Sequence[Fault] = ()) -> list[Recording]:
    """What the station's sensors report from `start_ms` on, one recording a stream, a reading a minute.

    Args:
        start_ms: Unix time of the first reading. The station's day begins with it, so that equal seeds give equal
            readings whenever the demo is run.
        minutes: readings of each stream.
        seed: draws set-points, demand, weather and noise; equal seeds give equal readings.
        faults: what happens meanwhile; without them all is normal.
    """
    times = start_ms + MINUTE_MS * np.arange(minutes, dtype=np.int64)
    recordings = []
    for number, stream in enumerate(STREAMS, start=1):
        mine = [fault for fault in faults if fault.stream == stream]
        truth = _physics(times, number, np.random.default_rng([seed, number, 0]), mine)  # (T, C)
        values = _sense(truth, times, np.random.default_rng([seed, number, 1]), mine)
        recordings.append(Recording(stream, CHANNELS, times, values.astype(np.float32)))
    return recordings


def write_recordings(folder: Path, days: int = 14, seed: int = 1) -> list[Path]:
    """Write normal operation, one CSV file a stream, to train on; an empty cell is a missing value.

    Returns:
        The files, in the order of STREAMS.

    Raises:
        GatewatchError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write_files(folder, days, seed)
    except OSError as error:
        raise GatewatchError(f"{folder}: the recordings cannot be written: {error.strerror}") from error


def _write_files(folder: Path, days: int, seed: int) -> list[Path]:
    paths = []
    for recording in simulate(RECORDINGS_START_MS, days * DAY_MINUTES, seed):
        path = folder / f"{recording.stream}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["timestamp", *CHANNELS])
            for time_ms, row in zip(recording.timestamps_ms.tolist(), recording.values.tolist(), strict=True):
                moment = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
                writer.writerow([moment, *("" if value != value else f"{value:.6g}" for value in row)])
        paths.append(path)
    return paths


def _physics(times: NDArray[np.int64], number: int, rng: np.random.Generator, faults: list[Fault]) -> Floats:
    """(T, C) what happens in the machine, before any sensor."""
    minutes = len(times)
    pump = np.random.default_rng([STATION_SEED, number])
    curve, pipe, shaking, heat = 1 + 0.02 * pump.standard_normal(4)
    hour = np.arange(minutes) / 60 % 24
    demand = _demand(hour)

    speed = 0.80 + 0.06 * demand + _set_points(rng, minutes)
    for fault in _of(faults, "new set-point"):
        speed[_during(times, fault)] = fault.value
    speed = _limit_ramp(speed) + 0.003 * _wander(rng, minutes, 30)

    leak = sum((_rise(times, fault, 4) for fault in _of(faults, "leak")), np.zeros(minutes))
    resistance = PIPE * pipe * np.exp(-0.08 * demand + 0.03 * _wander(rng, minutes, 60)) * (1 - 0.34 * leak)
    flow = np.sqrt((speed**2 * SHUT_OFF - STATIC) / (PUMP_CURVE * curve + resistance))
    pressure = STATIC + resistance * flow**2

    wear = sum((_rise(times, fault, 1_800) for fault in _of(faults, "bearing wear")), np.zeros(minutes))
    current = 7.0 + 2.1 * flow * pressure / 36 + 0.8 * wear**2  # friction
    ambient = 20.0 - 3.5 * np.cos((hour - 4) * 2 * np.pi / 24) + 1.2 * _wander(rng, minutes, 600)
    temperature = _lag(ambient + 0.018 * heat * current**2 + 8.0 * wear**3, HEAT_MINUTES)

    resonance = 0.35 * np.exp(-(((speed - 0.86) / 0.03) ** 2))
    roughness = np.exp(0.03 * _wander(rng, minutes, 10) * (1 + 2 * wear))
    vibration = shaking * (0.8 + 1.5 * speed**2 + resonance) * roughness + 2.4 * wear**1.5
    return np.stack([pressure, flow, vibration, temperature, current], axis=1)


def _sense(truth: Floats, times: NDArray[np.int64], rng: np.random.Generator, faults: list[Fault]) -> Floats:
    """(T, C) what the sensors make of it, with NaN for what is missing."""
    values = truth + NOISE * rng.standard_normal(truth.shape)
    missing = rng.random(truth.shape) < MISSING_SHARE
    for row, channel in np.argwhere(rng.random(truth.shape) < GAP_SHARE):
        missing[row : row + rng.integers(2, 7), channel] = True

    held: list[tuple[NDArray[np.bool_], int, float]] = []
    for fault in faults:
        now = _during(times, fault)
        for at in map(CHANNELS.index, fault.channels):
            if fault.kind == "spike":
                values[now, at] += fault.value or 0.0
                missing[now, at] = False
            elif fault.kind == "drop-out":
                held.append((now, at, np.nan if fault.value is None else fault.value))
            elif fault.kind == "stuck sensor":
                held.append((now, at, values[max(int(now.argmax()) - 1, 0), at]))
    for now, at, value in held:
        values[now, at] = value
    values = np.round(values / RESOLUTION) * RESOLUTION
    return np.where(missing, np.nan, values)


def _demand(hour: Floats) -> Floats:
    """The day's demand, about -1 at night to 1 at the morning peak; continuous over midnight."""
    return 0.15 - 0.7 * np.cos((hour - 3.5) * 2 * np.pi / 24) - 0.35 * np.cos((hour - 1.5) * 4 * np.pi / 24)


def _set_points(rng: np.random.Generator, minutes: int) -> Floats:
    """The operator's part of the speed: a new value every 2 to 9 hours."""
    offsets, filled = np.empty(minutes), 0
    while filled < minutes:
        length = int(rng.integers(120, 540))
        offsets[filled : filled + length] = rng.choice([-0.05, -0.025, 0.0, 0.025, 0.05])
        filled += length
    return offsets


def _limit_ramp(wanted: Floats) -> Floats:
    """Follow `wanted` by at most RAMP a reading."""
    speed = np.empty_like(wanted)
    now = wanted[0]
    for index, target in enumerate(wanted.tolist()):
        now += min(max(target - now, -RAMP), RAMP)
        speed[index] = now
    return speed


def _lag(target: Floats, minutes: float) -> Floats:
    """Follow `target` with a time constant: T' = T + (target - T)/minutes."""
    lagged = np.empty_like(target)
    now = target[0]
    for index, value in enumerate(target.tolist()):
        now += (value - now) / minutes
        lagged[index] = now
    return lagged


def _wander(rng: np.random.Generator, readings: int, minutes: float) -> Floats:
    """An AR(1) series of variance 1 that forgets within `minutes`."""
    keep = np.exp(-1 / minutes)
    shocks = rng.standard_normal(readings) * np.sqrt(1 - keep**2)
    series = np.empty(readings)
    now = rng.standard_normal()
    for index, shock in enumerate(shocks.tolist()):
        now = keep * now + shock
        series[index] = now
    return series


def _of(faults: list[Fault], kind: Kind) -> list[Fault]:
    return [fault for fault in faults if fault.kind == kind]


def _during(times: NDArray[np.int64], fault: Fault) -> NDArray[np.bool_]:
    return (times >= fault.start_ms) & (times < fault.end_ms)


def _rise(times: NDArray[np.int64], fault: Fault, minutes: int) -> Floats:
    """0 before the fault, up to 1 within so many minutes, 0 after it."""
    rising = np.clip((times - fault.start_ms + MINUTE_MS) / (minutes * MINUTE_MS), 0.0, 1.0)
    return np.where(_during(times, fault), rising, 0.0)
