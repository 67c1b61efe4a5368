"""Each oddity planted in a recording is found, at its place; a plain recording has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings import tables
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.examine import examine
from gatewatch.models.training.suitability import Finding, Suitability
from gatewatch.models.training.trained.windows import usable

ROWS = 2400
CHANNELS = ("temp", "flow")


def plain(stream: str = "s", rows: int = ROWS) -> Recording:
    """A slow wave and noise, both well away from 0, one reading a minute."""
    rng = np.random.default_rng(len(stream))
    t = np.arange(rows)
    values = np.stack([20 + np.sin(t / 30) + rng.normal(0, 0.1, rows), 5 + rng.normal(0, 0.3, rows)], axis=1)
    return Recording(stream, CHANNELS, 1_700_000_000_000 + 60_000 * t.astype(np.int64), values.astype(np.float32))


def examined(*recordings: Recording, rate: float = 0.1) -> Suitability:
    used = usable(recordings, 0.25)
    return examine(recordings, used, Scaling.fit(used), rate)


def found(kind: str, *recordings: Recording, rate: float = 0.1) -> Finding:
    """The one finding of a kind."""
    (finding,) = (each for each in examined(*recordings, rate=rate).findings if each.kind == kind)
    return finding


def test_nothing_is_odd_about_a_plain_recording() -> None:
    looked = examined(plain("a"), plain("bb"))
    assert looked.findings == []
    assert looked.lines() == [f"{2 * ROWS} readings of 2 recordings, 0.00% of values missing"]


def test_clocks_that_stand_still_step_back_and_leave_gaps() -> None:
    recording = plain()
    times = recording.timestamps_ms
    times[500] = times[499]
    times[1000:] -= 7_200_000
    times[2000:] += 86_400_000
    assert found("duplicate time", recording) == Finding(
        "duplicate time", "", 1, 1.0, "s, reading 501, 2023-11-15T06:32:20Z"
    )
    assert found("backward time", recording).extent == 7140
    assert "reading 1001" in found("backward time", recording).where
    assert found("gap in time", recording).extent == 86460
    assert "reading 2001" in found("gap in time", recording).where


def spoilt(rows: slice | int, channel: int, value: float) -> Recording:
    recording = plain()
    recording.values[rows, channel] = value
    return recording


def plain_with(channel: int, values: NDArray[Any]) -> Recording:
    recording = plain("bb", len(values))
    recording.values[:, channel] = values
    return recording


def test_missing_values_are_counted_with_their_longest_run() -> None:
    recording = spoilt(slice(100, 140), 1, np.nan)
    recording.values[300, 1] = np.nan
    finding = found("missing", recording)
    assert (finding.channel, finding.count, finding.extent) == ("flow", 41, 40)
    assert "reading 140" in finding.where
    assert examined(recording).missing_share == 41 / (2 * ROWS)


@pytest.mark.parametrize(("value", "kind"), [(7.5, "constant"), (np.nan, "empty")])
def test_a_channel_that_says_nothing(value: float, kind: str) -> None:
    assert found(kind, spoilt(slice(None), 0, value)).channel == "temp"
    assert "stuck" not in [finding.kind for finding in examined(spoilt(slice(None), 0, value)).findings]


def test_a_channel_that_stood_still() -> None:
    finding = found("stuck", spoilt(slice(1000, 1300), 0, 20.0))
    assert (finding.channel, finding.count, finding.extent) == ("temp", 1, 299)
    assert "reading 1300" in finding.where


def test_a_switch_is_not_stuck() -> None:
    recording = plain()
    recording.values[:, 0] = np.arange(ROWS) // 200 % 2
    assert [finding.kind for finding in examined(recording).findings] == []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_counter_is_told_with_what_to_record_in_its_place(sign: int) -> None:
    counter = sign * np.cumsum(np.arange(ROWS) % 7 == 0)
    recording = plain()
    recording.values[:, 1] = counter
    finding = found("counter", recording, plain_with(1, counter[:1200] - 3 * sign))
    assert (finding.channel, finding.count, finding.extent) == ("flow", 342 + 171, 345)
    (line,) = (line for line in examined(recording).lines() if line.startswith("counter"))
    assert "record its rate in its place, the difference from one reading to the next, or leave it out" in line


def test_what_falls_once_or_rises_a_few_times_is_no_counter() -> None:
    """Numbers of one shift, a tank that is filled; a set point that was raised."""
    rises = np.arange(ROWS) % 2000
    assert "counter" not in [finding.kind for finding in examined(plain_with(0, rises)).findings]
    steps = np.arange(ROWS) // 100
    assert "counter" not in [finding.kind for finding in examined(plain_with(0, steps)).findings]


def test_outliers_and_the_spread_that_they_rule() -> None:
    finding = found("outlier", spoilt(1500, 0, 1e5))
    assert (finding.channel, finding.count) == ("temp", 1)
    assert "reading 1501" in finding.where
    assert found("spread of outliers", spoilt(1500, 0, 1e5)).channel == "temp"


@pytest.mark.parametrize("factor", [10, 1000, 0.01])
def test_a_change_of_unit_within_a_recording_and_between_recordings(factor: float) -> None:
    within = plain()
    within.values[1200:, 0] *= factor
    finding = found("unit change", within)
    assert (finding.channel, finding.count) == ("temp", 1)
    assert finding.extent == pytest.approx(max(factor, 1 / factor))
    other = plain("bb")
    other.values[:, 1] *= factor
    assert found("unit change", plain("a"), other, plain("ccc")).where == "bb beside the others"


def test_recordings_of_slow_waves_around_zero_change_no_unit() -> None:
    """What is left of their levels is small, and differs by any factor."""
    t = np.arange(ROWS)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        waves = [np.sin(t / 82 + rng.uniform(0, 6)) + rng.normal(0, 0.02, ROWS) for _ in range(12)]
        looked = examined(
            *(
                Recording(f"r{at}", ("a",), 60_000 * t.astype(np.int64), wave[:, None].astype(np.float32))
                for at, wave in enumerate(waves)
            )
        )
        assert not [finding for finding in looked.findings if finding.kind == "unit change"]


def test_a_machine_that_is_switched_on_and_off_changes_no_unit() -> None:
    recording = plain()
    on: NDArray[np.bool_] = np.arange(ROWS) // 400 % 2 == 1
    recording.values[on, 0] *= 10
    assert examined(recording).findings == []


def test_too_few_readings_for_the_rate_and_recordings_too_short() -> None:
    finding = found("too little", plain(), rate=0.001)
    assert (finding.count, finding.extent) == (2400, 13_334)
    assert found("too short", plain(), plain("brief", 30)).where == "brief"


def test_small_pieces_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for runs, which are followed within a piece, and places, of which small pieces have more."""
    recording = spoilt(slice(100, 103), 1, np.nan)
    recording.values[1500, 0] = 1e5
    recording.timestamps_ms[1200:] -= 7_200_000
    whole = examined(recording)
    monkeypatch.setattr(tables, "BLOCK_CELLS", 2 * 400)
    kinds = ("missing", "outlier", "backward time")
    one, other = (
        [(f.channel, f.count, f.where) for f in looked.findings if f.kind in kinds]
        for looked in (examined(recording), whole)
    )
    assert one == other


def test_what_was_found_survives_the_manifest() -> None:
    looked = examined(spoilt(1500, 0, 1e5))
    assert Suitability.of_json(looked.as_json()) == looked
