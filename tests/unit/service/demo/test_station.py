"""The simulated pump station: its physics, its sensors, its faults."""

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.recordings.recording import read_recordings
from gatewatch.service.demo.station import (
    CHANNELS,
    DAY_MINUTES,
    MINUTE_MS,
    SPREAD,
    STREAMS,
    Fault,
    demo_faults,
    simulate,
    write_recordings,
)

PRESSURE, FLOW, VIBRATION, TEMPERATURE, CURRENT = range(5)
START_MS = 1_767_571_200_000


@pytest.fixture(scope="module")
def normal() -> dict[str, NDArray[np.float32]]:
    """Three normal days: {stream: (T, C)}."""
    return {recording.stream: recording.values for recording in simulate(START_MS, 3 * DAY_MINUTES, seed=7)}


@pytest.fixture(scope="module")
def live() -> dict[str, NDArray[np.float32]]:
    """The same days with the demo's faults."""
    recordings = simulate(START_MS, 3 * DAY_MINUTES, seed=7, faults=demo_faults(START_MS))
    return {recording.stream: recording.values for recording in recordings}


def rows(fault: Fault) -> slice:
    return slice((fault.start_ms - START_MS) // MINUTE_MS, (fault.end_ms - START_MS) // MINUTE_MS)


def the(kind: str, channel: str = "") -> Fault:
    """The demo's first fault of this kind and on this channel."""
    return next(f for f in demo_faults(START_MS) if f.kind == kind and (not channel or channel in f.channels))


def test_equal_seeds_give_equal_readings_whenever_they_are_made() -> None:
    first = simulate(START_MS, 200, seed=3)
    second = simulate(START_MS + 12_345 * MINUTE_MS, 200, seed=3)
    other = simulate(START_MS, 200, seed=4)

    for one, same, different in zip(first, second, other, strict=True):
        np.testing.assert_array_equal(one.values, same.values)
        assert not np.array_equal(one.values, different.values, equal_nan=True)
        assert (np.diff(one.timestamps_ms) == MINUTE_MS).all()


def test_channels_stay_within_what_such_a_pump_does(normal: dict[str, NDArray[np.float32]]) -> None:
    bounds = {
        "pressure": (2.5, 5.5),
        "flow": (70, 170),
        "vibration": (1, 3),
        "temperature": (15, 75),
        "current": (15, 60),
    }
    for values in normal.values():
        for channel, (low, high) in bounds.items():
            seen = values[:, CHANNELS.index(channel)]
            assert low < np.nanmin(seen)
            assert np.nanmax(seen) < high


def test_spreads_are_as_stated() -> None:
    """The sizes of the faults are told in them."""
    values = np.concatenate([recording.values for recording in simulate(START_MS, 14 * DAY_MINUTES, seed=1)])
    np.testing.assert_allclose(np.nanstd(values, axis=0), list(SPREAD.values()), rtol=0.05)


def test_a_few_percent_of_values_are_missing(normal: dict[str, NDArray[np.float32]]) -> None:
    for values in normal.values():
        share = np.isnan(values).mean(axis=0)
        assert (share > 0.01).all()
        assert (share < 0.05).all()


def test_channels_follow_each_other(normal: dict[str, NDArray[np.float32]]) -> None:
    """Flow, pressure and current move together; temperature follows current later."""
    for values in normal.values():
        known = values[~np.isnan(values).any(axis=1)]
        related = np.corrcoef(known.T)
        assert related[PRESSURE, FLOW] > 0.8  # type: ignore[index]
        assert related[CURRENT, FLOW] > 0.9  # type: ignore[index]
        filled = np.where(np.isnan(values), np.nanmean(values, axis=0), values)
        now = np.corrcoef(filled[:, CURRENT], filled[:, TEMPERATURE])[0, 1]
        later = np.corrcoef(filled[:-45, CURRENT], filled[45:, TEMPERATURE])[0, 1]
        assert later > now


def test_without_faults_no_sensor_repeats_itself_for_long(normal: dict[str, NDArray[np.float32]]) -> None:
    for values in normal.values():
        for channel in values.T:
            seen = channel[~np.isnan(channel)]
            changed = np.flatnonzero(np.diff(seen) != 0)
            assert np.diff(changed).max() < 10


def test_faults_leave_all_other_readings_as_they_were(
    normal: dict[str, NDArray[np.float32]], live: dict[str, NDArray[np.float32]]
) -> None:
    """Up to its first fault a stream is normal; so are channels that a sensor's fault does not touch."""
    for stream in STREAMS:
        first = min(rows(f).start for f in demo_faults(START_MS) if f.stream == stream)
        assert first >= 18 * 60
        np.testing.assert_array_equal(live[stream][:first], normal[stream][:first])
    np.testing.assert_array_equal(live["pump-3"][:, [PRESSURE, CURRENT]], normal["pump-3"][:, [PRESSURE, CURRENT]])


def test_a_leak_lowers_pressure_and_raises_flow(
    normal: dict[str, NDArray[np.float32]], live: dict[str, NDArray[np.float32]]
) -> None:
    fault = the("leak")
    change = np.nanmean((live[fault.stream] - normal[fault.stream])[rows(fault)][10:], axis=0)
    assert -0.6 < change[PRESSURE] < -0.2
    assert 5 < change[FLOW] < 20


def test_bearing_wear_is_slow_and_reaches_vibration_before_temperature(
    normal: dict[str, NDArray[np.float32]], live: dict[str, NDArray[np.float32]]
) -> None:
    fault = the("bearing wear")
    change = (live[fault.stream] - normal[fault.stream])[rows(fault)]
    first_hours, middle, last_hours = change[:180], change[840:960], change[-180:]
    assert np.nanmean(first_hours[:, VIBRATION]) < 0.1
    assert np.nanmean(middle[:, VIBRATION]) > 0.6
    assert np.nanmean(middle[:, TEMPERATURE]) < 1.5
    assert np.nanmean(last_hours[:, VIBRATION]) > 1.8
    assert np.nanmean(last_hours[:, TEMPERATURE]) > 4


def test_a_stuck_sensor_repeats_its_last_value(live: dict[str, NDArray[np.float32]]) -> None:
    fault = the("stuck sensor")
    seen = live[fault.stream][rows(fault), CHANNELS.index(fault.channels[0])]
    seen = seen[~np.isnan(seen)]
    assert len(seen) > 200
    assert len(set(seen.tolist())) == 1


def test_a_spike_lasts_as_long_as_stated(
    normal: dict[str, NDArray[np.float32]], live: dict[str, NDArray[np.float32]]
) -> None:
    for channel, length in (("pressure", 1), ("current", 3)):
        fault = the("spike", channel)
        at = CHANNELS.index(channel)
        change = np.nan_to_num(live[fault.stream][:, at] - normal[fault.stream][:, at])
        inside = rows(fault)
        assert inside.stop - inside.start == length
        assert not np.isnan(live[fault.stream][inside, at]).any()
        assert not change[inside.stop : inside.stop + 60].any()


def test_a_spike_is_never_hidden_by_a_missing_value() -> None:
    """A fault that no reading shows could not be detected; over two hours some values would be missing."""
    fault = Fault("pump-1", "spike", ("flow",), START_MS, START_MS + 120 * MINUTE_MS, value=30.0)
    (seen,) = (r.values[:, FLOW] for r in simulate(START_MS, 120, seed=7, faults=[fault]) if r.stream == fault.stream)
    assert not np.isnan(seen).any()


def test_a_drop_out_is_missing_or_zero(live: dict[str, NDArray[np.float32]]) -> None:
    silent, zero = the("drop-out", "temperature"), the("drop-out", "flow")
    assert np.isnan(live[silent.stream][rows(silent), TEMPERATURE]).all()
    values = live[zero.stream][rows(zero), FLOW]
    assert set(values[~np.isnan(values)].tolist()) == {0.0}


def test_the_new_set_point_stays_at_values_known_from_training(live: dict[str, NDArray[np.float32]]) -> None:
    fault = the("new set-point")
    assert not fault.is_fault
    trained = np.concatenate([recording.values for recording in simulate(START_MS, 14 * DAY_MINUTES, seed=1)])
    inside = live[fault.stream][rows(fault)]
    assert (np.nanmax(inside, axis=0) < np.nanmax(trained, axis=0)).all()
    assert (np.nanmin(inside, axis=0) > np.nanmin(trained, axis=0)).all()


def test_written_recordings_read_back_as_they_were_simulated(tmp_path: Path) -> None:
    paths = write_recordings(tmp_path / "station", days=1, seed=5)

    assert [path.stem for path in paths] == list(STREAMS)
    with paths[0].open() as file:
        assert next(csv.reader(file)) == ["timestamp", *CHANNELS]
    for path, simulated in zip(paths, simulate(START_MS, DAY_MINUTES, seed=5), strict=True):
        (read,) = read_recordings(path)
        assert read.stream == simulated.stream
        np.testing.assert_allclose(read.values, simulated.values, rtol=1e-5)
        assert (np.diff(read.timestamps_ms) == MINUTE_MS).all()
