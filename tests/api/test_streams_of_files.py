"""Files of one stream are one stream: scanned as the whole, replayed behind each other, and trained on as sampled."""

from __future__ import annotations

import csv
from pathlib import Path

import httpx2
import numpy as np
import pytest

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.recording import Recording, read_recordings
from gatewatch.models.scan import scan, summary
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.train import prepare
from gatewatch.service.client.replay import next_seq, replay_recordings
from tests.support.cli import gatewatch, rows_of
from tests.support.samples import CHANNELS, START_MS
from tests.support.whole_path import serving


def readings(rows: int = 90, seed: int = 0) -> Recording:
    values = np.random.default_rng(seed).normal(3, 1, (rows, len(CHANNELS))).round(3)
    return Recording("pump", CHANNELS, START_MS + 60_000 * np.arange(rows, dtype=np.int64), values)


def write(path: Path, *recordings: Recording, stream: bool = False) -> Path:
    """The readings in order of time; of several streams, mixed."""
    path.parent.mkdir(exist_ok=True)
    lines = [
        [int(ms) / 1000, *([one.stream] if stream else []), *values]
        for one in recordings
        for ms, values in zip(one.timestamps_ms.tolist(), one.values.tolist(), strict=True)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["timestamp", *(["stream"] if stream else []), *CHANNELS], *sorted(lines)])
    return path


def test_scores_of_a_file_for_each_hour_are_those_of_the_whole(artefact: Path, tmp_path: Path) -> None:
    whole = readings()
    write(tmp_path / "whole" / "pump.csv", whole)
    for hour in range(3):
        write(tmp_path / "hours" / f"{hour}.csv", whole.rows(30 * hour, 30 * hour + 30))
        write(tmp_path / "days" / f"{hour}.csv", whole.rows(30 * hour, 30 * hour + 30), stream=True)
    for folder, options in (("whole", ()), ("hours", ("--stream", "pump")), ("days", ())):
        done = gatewatch("scan", tmp_path / folder, "--model", artefact, "--out", tmp_path / "out" / folder, *options)
        assert done.returncode == 0, done.stderr
    expected = [row["score"] for row in rows_of(tmp_path / "out" / "whole" / "pump.csv")]
    for folder in ("hours", "days"):
        found = [row["score"] for n in range(3) for row in rows_of(tmp_path / "out" / folder / f"{n}.csv")]
        assert found == expected
    assert done.stdout.splitlines()[-1] == "in all 4 of 90 readings were never judged"


def test_a_file_that_does_not_go_on_begins_afresh(artefact: Path, tmp_path: Path) -> None:
    """Two streams of one name in two folders, of the same hours."""
    for folder in ("a", "b"):
        write(tmp_path / "in" / f"{folder}.csv", readings(seed=ord(folder)), stream=True)
    done = gatewatch("scan", tmp_path / "in", "--model", artefact, "--out", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    done = gatewatch("scan", tmp_path / "in" / "b.csv", "--model", artefact, "--out", tmp_path / "alone.csv")
    assert (tmp_path / "both" / "b.csv").read_text() == (tmp_path / "alone.csv").read_text()


def test_several_streams_of_a_file_are_scored_each_for_itself_in_the_order_of_its_rows(
    artefact: Path, detector: TrainedDetector, tmp_path: Path
) -> None:
    p, q = readings(40), Recording("=q", CHANNELS, START_MS + 90_000 * np.arange(40), readings(40, seed=1).values)
    path = write(tmp_path / "both.csv", p, q, stream=True)
    done = gatewatch("scan", path, "--model", artefact, "--out", tmp_path / "s.csv")
    assert done.returncode == 0, done.stderr
    assert "80 readings of 2 streams" in done.stdout
    scored, given = rows_of(tmp_path / "s.csv"), rows_of(path)
    assert [row["stream"] for row in scored] == ["'" * (row["stream"] == "=q") + row["stream"] for row in given]
    for one, name in ((p, "pump"), (q, "'=q")):
        assert [float(row["score"]) for row in scored if row["stream"] == name] == scan(detector, one).score.tolist()


def test_what_was_never_judged_is_said(detector: TrainedDetector) -> None:
    """Each gap is too much longer than those before to be of one rhythm with them."""
    bursts = readings(12)
    gap_ms = int(detector.manifest.calibration.restart_gap_s * 1000) + 1
    bursts.timestamps_ms[:] += gap_ms * 100 ** (np.arange(12) // 3)
    said = summary([scan(detector, bursts)])
    assert "; 12 of 12 readings were never judged: in one warm-up; a stream warms up anew after a long gap" in said
    bursts = readings(60)
    bursts.timestamps_ms[:] += gap_ms * 100 ** (np.arange(60) // 20)
    assert "; 12 of 60 readings were never judged: in 3 warm-ups; a stream warms" in summary([scan(detector, bursts)])


def test_bursts_are_trained_on_as_a_rhythm_and_too_short_ones_are_told() -> None:
    config = TrainConfig()
    bursts = readings(600)
    bursts.timestamps_ms[:] = START_MS + 1000 * np.arange(600) + 3_600_000 * (np.arange(600) // 20)
    prepared = prepare([bursts], config)
    assert prepared.restart_gap_s == pytest.approx(3 * 3601)
    assert "rhythm of gaps: 29 gaps, mostly of 3601 s" in "\n".join(prepared.suitability.lines())
    outage = readings(600)
    outage.timestamps_ms[300:] += 86_400_000_000
    assert prepare([outage], config).restart_gap_s == 60_000
    short = readings(90)
    short.timestamps_ms[:] += 86_400_000_000 * (np.arange(90) >= 31) + 2_592_000_000_000 * (np.arange(90) >= 61)
    lines = "\n".join(prepare([short], config).suitability.lines())
    assert "no reading will ever be judged: the longest run between restarts is 31, the warm-up 32" in lines


def test_files_of_a_stream_are_replayed_behind_each_other(artefact: Path, tmp_path: Path) -> None:
    whole = readings(70)
    with serving(artefact, tmp_path / "data") as (url, _):
        first, second = whole.rows(0, 35), whole.rows(35)
        counts = [replay_recordings([one], url, None, 16, None).counts["pump"] for one in (first, second)]
        known = httpx2.get(f"{url}/v1/streams/pump").json()
        again = [replay_recordings([one], url, None, 16, None).counts["pump"] for one in (second, whole)]
        with httpx2.Client(base_url=url) as client:
            lies_within = Recording("pump", CHANNELS, whole.timestamps_ms + 1, whole.values)
            with pytest.raises(GatewatchError, match="lies within the time of this recording and is none of it"):
                next_seq(client, lies_within)
            with pytest.raises(GatewatchError, match="number 69 of .* is later than all of this recording"):
                next_seq(client, first)
    assert all(set(count) <= {"warming_up", "normal", "anomalous"} for count in counts)
    assert (known["readings"], known["last_seq"]) == (70, 69)
    assert again == [{"replayed": 35}, {"replayed": 70}]


def test_kilohertz_times_are_written_as_they_are(artefact: Path, tmp_path: Path) -> None:
    rows = "".join(f"{1_705_276_800 + n / 12_000:.6f},1,{n % 7}\n" for n in range(60))
    (tmp_path / "fast.csv").write_text("timestamp,pressure,flow\n" + rows)
    done = gatewatch("scan", tmp_path / "fast.csv", "--model", artefact, "--out", tmp_path / "s.csv")
    assert "54 of 60 readings share one with the reading before" in done.stderr
    assert rows_of(tmp_path / "s.csv")[1]["timestamp"] == "2024-01-15T00:00:00.000083Z"
    assert len({row["timestamp"] for row in rows_of(tmp_path / "s.csv")}) == 60
    assert len(read_recordings(tmp_path / "fast.csv")[0]) == 60
