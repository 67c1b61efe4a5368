"""Files to recordings: what is read, and what is refused with which words."""

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings import files, reading, tables
from gatewatch.models.recordings import recording as recordings
from gatewatch.models.recordings.recording import joined, read_pieces, read_recordings, recording_files


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_every_row_is_a_reading_whatever_its_timestamp(tmp_path: Path) -> None:
    """Unsorted rows and rows with one and the same timestamp are readings, in the order of the file."""
    path = write(
        tmp_path / "r.csv", "timestamp,a\n2020-01-01 00:01:00,1\n2020-01-01 00:00:00,2\n2020-01-01 00:00:00,3\n"
    )
    (recording,) = read_recordings(path)
    assert recording.stream == "r"
    assert recording.values[:, 0].tolist() == [1, 2, 3]
    assert np.diff(recording.timestamps_ms).tolist() == [-60_000, 0]


def test_csv_gzip_and_parquet_read_alike(tmp_path: Path) -> None:
    text = "timestamp,a,b\n1577836800,1.5,\n1577836860.25,nan,2\n"
    plain = read_recordings(write(tmp_path / "x.csv", text))[0]
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(text.encode()))
    polars.DataFrame({"timestamp": [1577836800.0, 1577836860.25], "a": [1.5, None], "b": [None, 2.0]}).write_parquet(
        tmp_path / "x.parquet"
    )
    for name in ("x.csv.gz", "x.parquet"):
        other = read_recordings(tmp_path / name)[0]
        assert other.stream == plain.stream == "x"
        assert other.timestamps_ms.tolist() == plain.timestamps_ms.tolist() == [1577836800000, 1577836860250]
        np.testing.assert_array_equal(other.values, plain.values)


def test_a_stream_column_separates_streams(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", "timestamp,stream,a\n1,p,1\n1,q,2\n2,p,3\n")
    assert [(r.stream, r.values[:, 0].tolist()) for r in read_recordings(path)] == [("p", [1, 3]), ("q", [2])]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("timestamp,a\n", "a header and no reading"),
        ("what,a\nx,2\n", "no column `timestamp`; the header has what, a, and none of them has times"),
        ("timestamp\n1\n", "no channel"),
        ("timestamp,a,a\n1,2,3\n", "column a stands twice"),
        ("timestamp,a,\n1,2,3\n", "column 3 has no name"),
        ("timestamp,a\n1,2\n2,off\n", "row 3, column a: 'off' is not a number"),
        ("timestamp,a\n1,1_000\n", "row 2, column a: '1_000' is not a number"),
        ("timestamp,a\n1,１\n", "row 2, column a: '１' is not a number"),
        ("timestamp,a\n1_000,1\n", "row 2, column timestamp: '1_000' is not a time"),
        ("timestamp,a\n1,1e39\n", "row 2, column a: '1e39' is larger than a float32"),
        ("timestamp,a\n1,inf\n", "row 2, column a: 'inf' is larger"),
        ("timestamp,a\nyesterday,1\n", "row 2, column timestamp: 'yesterday' is not a time"),
        ("timestamp,a\n1e300,1\n", "column timestamp: '1e300' is not a time"),
        ("timestamp,a\n1,1\n-99999999999,1\n", "row 3, column timestamp: '-99999999999' is not a time between 1970"),
        ("timestamp,a\n-1,1\n", "column timestamp: '-1' is not a time between 1970"),
        ("timestamp,a\n0001-01-01T00:00:00+05:00,1\n", "column timestamp: '0001-.*' is not a time between 1970"),
        ("timestamp,a\n9999-01-01,1\n", "column timestamp: '9999-01-01' is not a time between 1970"),
        ("timestamp,a\nnan,1\n", "column timestamp: 'nan' is not a time"),
        ("timestamp,a\n1\n", "line 2: 1 cells; the header has 2"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_by_row_and_column(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecordingError, match=words.replace("(", r"\(").replace("`", "`")):
        read_recordings(write(tmp_path / "bad.csv", text))


NUMBERS = st.one_of(
    st.floats(width=32).map(repr),
    st.floats().map(repr),
    st.decimals(-1000, 1000, places=3).map(str),
    st.sampled_from(
        ["", "nan", "NULL", " 1", "2 ", "+3", ".5", "1.", "1e3", "1_0", "１", "inf", '"4"', "x", "n/a", "-"]
    ),
    st.text("0123456789+-.eE_", max_size=6),
)
TIMES = st.one_of(
    st.integers(0, 2 * 10**11).map(str),
    st.floats(0, 3e9).map(repr),
    st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)).map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ")),
    st.sampled_from(["2024-02-30T00:00:00Z", "2024-02-28T23:59:60Z", "2024-01-01 00:00:00", "", "now", '"5"']),
)


@given(
    rows=st.lists(
        st.tuples(TIMES, st.sampled_from(["p", 'q"', "", "None"]), NUMBERS, NUMBERS), min_size=1, max_size=12
    ),
    ends=st.sampled_from(["\n", "\r\n", "\n\n"]),
    last=st.sampled_from(["", "\n", "1,2\n"]),
)
def test_with_polars_and_without_it_a_file_says_the_same(
    rows: list[tuple[str, ...]], ends: str, last: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("same") / "r.csv"
    path.write_bytes((ends.join([",".join(row) for row in (("timestamp", "stream", "a", "b"), *rows)]) + last).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "_parsed", lambda *_: None)
        expected = read_or_refusal(path)
    for characters in (tables.CELL_CHARACTERS * tables.BLOCK_CELLS, 30):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tables, "CELL_CHARACTERS", characters / tables.BLOCK_CELLS)
            assert read_or_refusal(path) == expected


def read_or_refusal(path: Path) -> object:
    """What can be compared of a file's recordings; of two mistakes in it, either may be told."""
    try:
        return [(r.stream, r.channels, r.timestamps_ms.tolist(), r.values.tobytes()) for r in read_recordings(path)]
    except RecordingError:
        return "refused"


def test_broken_files_and_paths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.csv.gz").write_bytes(b"not gzip")
    damaged = bytearray(gzip.compress(b"timestamp,a\n1,2\n"))
    damaged[10] ^= 0xFF  # the first byte behind the header
    (tmp_path / "damaged.csv.gz").write_bytes(damaged)
    (tmp_path / "b.parquet").write_bytes(b"not parquet")
    (tmp_path / "b.csv").write_bytes(b"timestamp,a\n\xff\xfe,1\n")
    (tmp_path / "b.doc").write_text("timestamp,a\n1,2\n")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(b"compressed inside, as Parquet is"))
    for name in ("b.csv.gz", "damaged.csv.gz", "b.parquet", "b.parquet.gz", "b.csv", "b.doc"):
        with pytest.raises(RecordingError, match=name):
            read_recordings(tmp_path / name)
    with pytest.raises(RecordingError, match="no such file"):
        recording_files([tmp_path / "absent.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="no recording in this folder"):
        recording_files([tmp_path / "empty"])


def test_times_of_parquet_are_bounded_too(tmp_path: Path) -> None:
    early = polars.DataFrame({"timestamp": [datetime(1969, 7, 20, tzinfo=UTC)], "a": [1.0]})
    early.write_parquet(tmp_path / "early.parquet")
    with pytest.raises(RecordingError, match="row 2, column timestamp: .* is not a time between 1970 and 5138"):
        read_recordings(tmp_path / "early.parquet")


def csv_gz(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(gzip.compress(part) for part in parts))
    return path


def test_a_file_as_no_table_of_readings_is_refused_before_it_is_held(tmp_path: Path) -> None:
    wide = ",".join(f"c{n}" for n in range(5000))
    refusals = {
        "columns": (f"timestamp,{wide}\n1{',1' * 5000}\n".encode(), "5001 columns; at most 4096 channels"),
        "header": (b"a," * 2**21, "line 1: a row of more than 1048576 characters"),
        "line": (b"timestamp,a\n" + b"1," * 2**21, "line 2: a row of more than"),
        "quoted": (b"timestamp,a\n1," + b'"\n",' * 2**19, "a row of more than"),
        "cell": (b"timestamp,a\n1," + b"9" * 200_000 + b"\n", "field larger|larger than a float32"),
        "name": (b"timestamp," + b"a" * 300 + b"\n1,2\n", "column 2 has a name of 300 characters, aaaa"),
        "nul": (b"timestamp,a\n1,2\n" + bytes(2**22), "a row of more than|cannot be read"),
    }
    for name, (content, words) in refusals.items():
        (tmp_path / f"{name}.csv").write_bytes(content)
        for path in (tmp_path / f"{name}.csv", csv_gz(tmp_path / f"{name}.csv.gz", content)):
            with pytest.raises(RecordingError, match=words) as raised:
                read_recordings(path)
            assert len(str(raised.value)) < 600


def test_a_gzip_file_that_becomes_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = b"timestamp,a\n" + b"1700000000,1\n" * 100_000
    assert len(read_recordings(csv_gz(tmp_path / "fair.csv.gz", rows))[0]) == 100_000
    monkeypatch.setattr(files, "FREE_BYTES", 2**16)
    with pytest.raises(RecordingError, match="more than 200 times its size"):
        read_recordings(tmp_path / "fair.csv.gz")
    with pytest.raises(RecordingError, match="gzip members with hardly anything in them"):
        read_recordings(csv_gz(tmp_path / "members.csv.gz", b"timestamp,a\n1,2\n", *[b""] * 3000))
    (tmp_path / "zeros.csv.gz").write_bytes(gzip.compress(b"timestamp,a\n1,2\n") + bytes(2**21))
    with pytest.raises(RecordingError, match="hardly anything"):
        read_recordings(tmp_path / "zeros.csv.gz")


def test_members_of_a_gzip_file_are_one_text_and_one_cut_off_is_refused(tmp_path: Path) -> None:
    path = csv_gz(tmp_path / "r.csv.gz", b"timestamp,a\n1,", b"", b"2\n2,3\n")
    path.write_bytes(path.read_bytes() + bytes(512))
    assert read_recordings(path)[0].values[:, 0].tolist() == [2, 3]
    path.write_bytes(gzip.compress(b"timestamp,a\n1,2\n")[:-6])
    with pytest.raises(RecordingError, match="ends within a gzip member"):
        read_recordings(path)


def test_a_pipe_a_device_and_a_loop_of_links_are_no_recordings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    for name in ("pipe", "zero"):
        for suffix in (".csv", ".csv.gz", ".parquet"):
            place = tmp_path / f"{name}{suffix}"
            if not place.exists():
                place.symlink_to(tmp_path / f"{name}.csv")
            with pytest.raises(RecordingError, match="a pipe, a socket or a device; expected a regular file"):
                read_recordings(place)
    with pytest.raises(RecordingError, match="no such file or folder"):
        recording_files([tmp_path / "loop.csv"])
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "again").symlink_to(tmp_path / "deep")
    write(tmp_path / "deep" / "r.csv", "timestamp,a\n1,2\n")
    assert recording_files([tmp_path / "deep"]) == [tmp_path / "deep" / "r.csv"]


def test_a_file_that_grows_is_read_as_far_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CELL_CHARACTERS", 30 / tables.BLOCK_CELLS)
    path = write(tmp_path / "r.csv", "timestamp,a\n" + "".join(f"{n},1\n" for n in range(100)))
    pieces = read_pieces(path)
    found = len(next(pieces))
    for piece in pieces:
        found += len(piece)
        with path.open("a") as file:
            file.write("1,1\n" * 20)
    assert found == 100


def test_a_parquet_file_is_measured_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [1_700_000_000 + n for n in range(1000)]
    polars.DataFrame({"timestamp": times, "a": [1.0] * 1000}).write_parquet(tmp_path / "r.parquet")
    polars.DataFrame({"timestamp": [1], "a": [[1.0]]}).write_parquet(tmp_path / "list.parquet")
    polars.DataFrame({"timestamp": [1], "a": ["9" * 2**18]}).write_parquet(tmp_path / "cell.parquet")
    (tmp_path / "footer.parquet").write_bytes(b"PAR1" + bytes(20) + b"\xff\xff\xff\x7fPAR1")
    monkeypatch.setattr(recordings, "MOST_IN_MEMORY", 1999)
    for name, words in {
        "r": "1000 rows of 2 columns; at most 1999 values",
        "list": "column a has List",
        "cell": "a cell of 262144 characters",
        "footer": "its footer has 2147483647 bytes",
    }.items():
        with pytest.raises(RecordingError, match=words):
            read_recordings(tmp_path / f"{name}.parquet")


def test_what_is_read_into_memory_and_how_many_streams_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "r.csv", "timestamp,stream,a\n" + "".join(f"{n},s{n},1\n" for n in range(100)))
    monkeypatch.setattr(recordings, "MOST_IN_MEMORY", 150)
    with pytest.raises(RecordingError, match="more than 150 values"):
        read_recordings(path)
    monkeypatch.setattr(reading, "MOST_STREAMS", 99)
    with pytest.raises(RecordingError, match="100 streams, .*; at most 99"):
        read_recordings(path)


def test_times_are_kept_to_the_microsecond(tmp_path: Path) -> None:
    text = "timestamp,a\n1705276800.000000,1\n1705276800.000083,2\n2024-01-15T00:00:00.000667Z,3\n1705276800.0015,4\n"
    for path in (write(tmp_path / "r.csv", text), csv_gz(tmp_path / "r.csv.gz", text.encode())):
        (recording,) = read_recordings(path)
        first = 1_705_276_800_000_000
        assert (recording.times_us - first).tolist() == [0, 83, 667, 1500]
        assert (recording.timestamps_ms - first // 1000).tolist() == [0, 0, 1, 2]
        assert recording.rows(1, 3).only(["a"]).times_us.tolist() == [first + 83, first + 667]
        assert joined([recording.rows(0, 2), recording.rows(2)]).times_us.tolist() == recording.times_us.tolist()


def test_true_and_false_are_one_and_zero(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "timestamp,a\n1,True\n2,FALSE\n3,\n")
    np.testing.assert_array_equal(read_recordings(path)[0].values[:, 0], [1, 0, np.nan])


def test_large_values_keep_their_small_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "timestamp,a\n1,5500000.001\n2,5500000.002\n")
    assert np.diff(read_recordings(path)[0].values[:, 0]) == pytest.approx(0.001, rel=1e-4)


def test_hidden_files_of_a_folder_are_no_recordings(tmp_path: Path) -> None:
    """And those that spreadsheets and copies leave beside a file, or in a folder of their own."""
    (tmp_path / ".cache").mkdir()
    for name in ("a.csv", ".b.csv", "._a.csv", "~$c.xlsx", ".cache/d.csv"):
        (tmp_path / name).write_text("timestamp,a\n2024-01-01,1\n")
    assert recording_files([tmp_path]) == [tmp_path / "a.csv"]
    assert recording_files([tmp_path / ".b.csv"]) == [tmp_path / ".b.csv"]  # who names one means it
    with pytest.raises(RecordingError, match=r"a folder, which scan and train take; expected a file ending in \.csv"):
        read_recordings(tmp_path)
