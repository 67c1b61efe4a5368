"""What is trained on from disk is what would be trained on from memory."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings import tables
from gatewatch.models.recordings.recording import Recording, read_pieces, read_recordings
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.stored import StoredRecording, TemporaryRows, store, store_files
from gatewatch.models.training.trained.loop import fit
from gatewatch.models.training.trained.sample import LEAST_ROWS, MOST_VALUES, splits_to_calibrate
from gatewatch.models.training.trained.windows import held_out_windows, train_windows


def random_recordings(lengths: list[int], seed: int = 0) -> list[Recording]:
    """Noise with gaps; clocks that stand still and step back."""
    rng = np.random.default_rng(seed)
    found = []
    for at, length in enumerate(lengths):
        values = rng.normal(5, 3, (length, 2)).astype(np.float32)
        values[rng.random(values.shape) < 0.1] = np.nan
        times = 1_700_000_000_000 + np.cumsum(rng.integers(-500, 3000, length)).astype(np.int64)
        found.append(Recording(f"s{at}", ("a", "b"), times, values))
    return found


def stored(recordings: list[Recording], piece: int) -> list[StoredRecording]:
    """The recordings in the temporary file, in pieces that come in turn, as from one file of several streams."""
    longest = max(map(len, recordings))
    turns = (r.rows(at, at + piece) for at in range(0, longest, piece) for r in recordings if at < len(r))
    return store(turns, TemporaryRows())


def same(one: Recording, other: Recording) -> bool:
    return (
        (one.stream, one.channels) == (other.stream, other.channels)
        and np.array_equal(one.timestamps_ms, other.timestamps_ms)
        and np.array_equal(one.values, other.values, equal_nan=True)
    )


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    piece=st.integers(1, 40),
    start=st.integers(-100, 100),
    stop=st.integers(-100, 100) | st.none(),
)
def test_any_rows_of_a_stored_recording_are_those_of_the_recording(
    lengths: list[int], piece: int, start: int, stop: int | None
) -> None:
    recordings = random_recordings(lengths)
    for recording, kept in zip(recordings, stored(recordings, piece), strict=True):
        assert len(kept) == len(recording)
        assert same(kept.rows(start, stop), recording.rows(start, stop))
        assert same(kept.only(["b"]).rows(start, stop), recording.only(["b"]).rows(start, stop))


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(43, 400), min_size=1, max_size=5),
    window=st.integers(2, 40),
    lanes=st.integers(1, 9),
    piece=st.integers(1, 50),
)
def test_windows_and_scales_from_disk_are_those_from_memory(
    lengths: list[int], window: int, lanes: int, piece: int
) -> None:
    recordings = random_recordings(lengths)
    kept, scaling = stored(recordings, piece), Scaling.fit(recordings)
    other = Scaling.fit(kept)
    assert scaling.center.tolist() == other.center.tolist()
    assert scaling.spread.tolist() == other.spread.tolist()
    assert scaling.interval_s == other.interval_s
    for cut in (train_windows, held_out_windows):
        pairs = list(
            zip(
                cut(recordings, scaling, 0.25, window, lanes), cut(kept, scaling, 0.25, window, lanes), strict=True
            )
        )  # fmt: skip
        assert all(one.first == two.first for one, two in pairs)
        for name in ("x", "observed", "elapsed", "counted"):
            assert all(torch.equal(getattr(one, name), getattr(two, name)) for one, two in pairs)


def test_weights_trained_from_disk_are_those_trained_from_memory_to_the_bit() -> None:
    recordings, config = random_recordings([300, 120, 200]), TrainConfig(hidden=5, window=32, lanes=4, epochs=1)
    scaling = Scaling.fit(recordings)
    one, two = fit(recordings, scaling, config), fit(stored(recordings, 7), scaling, config)
    weights = zip(one.network.state_dict().values(), two.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_the_typical_interval_is_the_median_of_the_steps_ahead() -> None:
    recordings = random_recordings([301, 44, 90], seed=3)
    steps = np.concatenate([np.diff(recording.timestamps_ms) for recording in recordings])
    assert Scaling.fit(recordings).interval_s == np.median(steps[steps > 0]) / 1000


def write_table(folder: Path, form: str, rows: int) -> Path:
    """Two streams in turn, missing values, times as text; in one of the forms of a recording."""
    cells = [
        (f"2024-01-01T00:{row // 60:02}:{row % 60:02}Z", "pq"[row % 2], "" if row % 7 == 3 else repr(row / 3), "nan")
        for row in range(rows)
    ]
    path = folder / f"t.{form}"
    if form == "parquet":
        frame = polars.DataFrame(cells, schema=["timestamp", "stream", "a", "b"], orient="row")
        numbers = polars.col("a", "b").replace("", None).cast(polars.Float64)
        frame.with_columns(numbers).write_parquet(path)
        return path
    with gzip.open(path, "wt") if form.endswith("gz") else path.open("w", newline="") as file:
        csv.writer(file).writerows([("timestamp", "stream", "a", "b"), *cells])
    return path


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
def test_a_file_read_in_small_blocks_is_the_file_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    path = write_table(tmp_path, form, 200)
    whole = read_recordings(path)
    assert [recording.stream for recording in whole] == ["p", "q"]
    assert whole[0].values[:3, 0].tolist() == [0, np.float32(2 / 3), np.float32(4 / 3)]
    monkeypatch.setattr(tables, "BLOCK_CELLS", 28)  # 7 rows
    pieces = list(read_pieces(path))
    assert max(map(len, pieces)) <= 7
    for found in (read_recordings(path), [kept.rows(0) for kept in store_files([path])]):
        assert all(same(one, two) for one, two in zip(whole, found, strict=True))


@pytest.mark.parametrize("cell", ["off", "1_000", "1e39", "１"])
def test_what_is_wrong_in_a_later_block_is_refused_by_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("timestamp,a\n" + "".join(f"{row},{row}\n" for row in range(1, 30)) + f"30,{cell}\n31,wrong\n")
    monkeypatch.setattr(tables, "BLOCK_CELLS", 14)
    with pytest.raises(RecordingError, match=f"row 31, column a: '{cell}' is "):
        store_files([path])


def test_the_temporary_file_has_no_name_and_closes_with_its_recordings(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    recordings = store_files([write_table(tmp_path, "csv", 50)])
    assert open_files() == before + 1
    assert os.fstat(recordings[0].file.descriptor).st_nlink == 0
    del recordings
    assert open_files() == before


def flat(lengths: list[int], channels: int) -> list[Recording]:
    names = tuple(f"c{at}" for at in range(channels))
    zeros = np.zeros((max(lengths), channels), np.float32)
    return [Recording(f"s{n}", names, np.arange(length), zeros[:length]) for n, length in enumerate(lengths)]


def test_few_readings_calibrate_all_of_them() -> None:
    splits = splits_to_calibrate(flat([100, 4000], 2), 0.25)
    assert [(len(split.recording), split.held_out_from) for split in splits] == [(100, 75), (4000, 3000)]


def test_many_readings_calibrate_with_the_ends_of_their_recordings() -> None:
    channels = 400
    splits = splits_to_calibrate(flat([1000, 10_000], channels), 0.5)
    lengths = [len(split.recording) for split in splits]
    assert lengths == [1000, MOST_VALUES // channels - 1000]
    assert [split.held_out_from for split in splits] == [500, 0]
    assert splits[1].recording.timestamps_ms[-1] == 9999


def test_very_many_recordings_calibrate_with_some_of_them() -> None:
    channels = MOST_VALUES // (3 * LEAST_ROWS)
    splits = splits_to_calibrate(flat([LEAST_ROWS] * 9, channels), 0.25)
    assert [split.recording.stream for split in splits] == ["s0", "s4", "s8"]
    assert all(len(split.recording) == LEAST_ROWS for split in splits)
