"""Files as programs write them: what is found out, what is said, and what is refused with both readings."""

from __future__ import annotations

import gzip
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars
import pytest

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.recordings.recording import read_recordings, recording_files
from tests.support.layouts import LAYOUTS, flow, level, times, write_layout

NAMES = {
    "german": ("level [m³]", "flow (l/h)"),
    "azure": ("value",),
    "historian": ("TANK1.LEVEL", "TANK1.FLOW"),
    "home_assistant": ("sensor.level",),
    "air_handler": ("AHU: Supply Air Temperature", "AHU: Flow"),
    "wind_turbine": ("LV ActivePower (kW)", "Wind Speed (m/s)", "Wind Direction (°)"),
    "air_quality": ("CO(GT)", "NMHC(GT)"),
}
LOST = {"home_assistant": [50], "historian": [70], "air_quality": [*range(7, 700, 50)]}
"""The readings whose level is a word or a code for nothing."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_says_what_the_plain_file_says(name: str, tmp_path: Path) -> None:
    missing = ("-200",) if name == "air_quality" else ()
    how = ReadOptions(timezone="Europe/Berlin" if name == "german" else None, missing=missing)
    recordings = read_recordings(write_layout(tmp_path, name), how)
    found = recordings[0]
    assert found.channels == NAMES.get(name, ("level", "flow"))
    assert found.times_us.tolist() == [round(t.timestamp() * 1e6) for t in times()]
    expected = level()
    expected[LOST.get(name, [])] = np.nan
    np.testing.assert_array_equal(found.values[:, 0], expected)
    if len(found.channels) > 1:
        rows = slice(None, None, 10 if name == "air_quality" else 1)
        np.testing.assert_array_equal(found.values[rows, 1], flow()[rows])
    assert len(recordings) == (2 if name in ("telegraf", "home_assistant") else 1)


def read(path: Path, text: str, **how: object) -> Reader:
    path.write_text(text)
    reader = Reader(path, ReadOptions(**how))  # type: ignore[arg-type]
    reader.pieces = [piece for part in reader.parts() for piece in part]  # type: ignore[attr-defined]
    return reader


def test_columns_are_left_out_as_asked_and_a_name_that_is_none_is_told(tmp_path: Path) -> None:
    rows = [f"{60 * n},{n},{n % 7},{n % 5}\n" for n in range(30)]
    (tmp_path / "gatewatch.toml").write_text('leave-out = "hours"\n')
    found = read(tmp_path / "r.csv", "timestamp,hours,a,b\n" + "".join(rows))
    assert [column.name for column in found.layout.channels] == ["a", "b"]
    assert "hours (as asked)" in found.layout.holds()
    found = read(tmp_path / "r.csv", "timestamp,hours,a,b\n" + "".join(rows), leave_out=("a", "c"))
    assert [column.name for column in found.layout.channels] == ["hours", "b"]
    assert "nothing to leave out by the name c" in found.layout.holds()
    with pytest.raises(RecordingError, match="no channel"):
        read(tmp_path / "r.csv", "timestamp,hours\n60,1\n", leave_out=("hours",))


def test_names_of_a_long_table_are_left_out_as_asked(tmp_path: Path) -> None:
    rows = [f"{60 * n},{name},{n}\n" for n in range(30) for name in ("a", "b", "hours")]
    found = read(tmp_path / "r.csv", "time,tag,value\n" + "".join(rows), leave_out=("hours",))
    assert found.pieces[0].channels == ("a", "b")  # type: ignore[attr-defined]


def test_rows_without_times_are_so_far_apart_as_said(tmp_path: Path) -> None:
    rows = [f"{n} {1 + n // 20} {n % 7} {n % 5}\n" for n in range(40)]
    found = read(tmp_path / "r.txt", "n sensor_id a b\n" + "".join(rows), every="0.5", delimiter="space")
    one, two = found.pieces  # type: ignore[attr-defined]
    assert (one.stream, two.stream, one.channels) == ("1", "2", ("n", "a", "b"))
    assert np.diff(one.times_us).tolist() == [500_000] * 19
    assert two.times_us[0] - one.times_us[-1] == 500_000
    assert "no times: a row every 0.5 s" in found.layout.read_as()
    with pytest.raises(RecordingError, match="--every"):
        read(tmp_path / "r.txt", "n sensor_id a b\n" + "".join(rows), delimiter="space")
    for wrong in ("0", "-1", "soon", "nan"):
        with pytest.raises(RecordingError, match="expected seconds"):
            ReadOptions(every=wrong)


def test_names_that_lines_above_the_header_explain_are_taken(tmp_path: Path) -> None:
    above = (
        '"Key","Name:Suffix"\n"Point_1:","AHU1.SAT","","1 Minute"\n"Point_2:","AHU1.FAN"\n"Time Interval:","1 Minute"\n'
    )
    rows = "".join(f'"1/{1 + n // 24}/2024","{n % 24:02}:00:00","{n % 7}","{n % 5}"\n' for n in range(600))
    found = read(tmp_path / "r.csv", f'{above}"<>Date","Time","Point_1","Point_2"\n{rows}"  ** End of Report **"\n')
    assert [column.name for column in found.layout.channels] == ["AHU1.SAT", "AHU1.FAN"]
    assert "2 names taken from them" in found.layout.holds()


def days(order: str, count: int = 10, hours: int = 4) -> str:
    stamps = [datetime(2024, 4, 1 + n // hours, n % hours) for n in range(count * hours)]
    return "time,a\n" + "".join(f"{stamp:{order} %H:%M},{n}\n" for n, stamp in enumerate(stamps))


def test_day_and_month_are_told_apart_by_the_steps_of_the_whole_column(tmp_path: Path) -> None:
    for order in ("%d/%m/%Y", "%m/%d/%Y"):
        found = read_recordings(_written(tmp_path / "r.csv", days(order)))[0]
        assert found.times_us[-1] == round(datetime(2024, 4, 10, 3, tzinfo=UTC).timestamp() * 1e6)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_day_and_month_that_no_date_tells_apart_are_refused_with_both_readings(tmp_path: Path) -> None:
    path = _written(tmp_path / "r.csv", days("%d/%m/%Y", count=1))
    with pytest.raises(
        RecordingError, match=r"01 April 2024 with --time-format day-first or 04 January 2024 with .*month"
    ):
        read_recordings(path)
    found = read_recordings(path, ReadOptions(time_format="month-first"))[0]
    assert found.timestamps_ms[0] == 1000 * datetime(2024, 1, 4, tzinfo=UTC).timestamp()


def test_a_day_far_down_the_file_tells_the_order(tmp_path: Path) -> None:
    """The whole column is read where its beginning tells nothing: each month's first of the day, then the 13th."""
    rows = [f"{1 + n % 12:02d}/{1 + n % 12:02d}/2023 {n // 12 % 24:02d}:00" for n in range(4000)] + ["13/01/2024 00:00"]
    path = _written(tmp_path / "r.csv", "time,a\n" + "".join(f"{row},1\n" for row in rows))
    found = read_recordings(path)[0]
    assert found.timestamps_ms[-1] == 1000 * datetime(2024, 1, 13, tzinfo=UTC).timestamp()


def test_a_number_that_may_be_two_is_refused_with_both(tmp_path: Path) -> None:
    path = _written(tmp_path / "r.csv", 'timestamp,a\n1,"1,234"\n2,"5,678"\n')
    with pytest.raises(RecordingError, match=r"'1,234' may be 1\.234 with --decimal , or 1234 with --decimal \."):
        read_recordings(path)
    assert read_recordings(path, ReadOptions(decimal=","))[0].values[0, 0] == 1.234
    assert read_recordings(path, ReadOptions(decimal="."))[0].values[0, 0] == 1234


def test_the_hour_that_a_clock_change_repeats_comes_twice(tmp_path: Path) -> None:
    local = ["01:30", "02:00", "02:30", "02:00", "02:30", "03:00"]
    path = _written(tmp_path / "r.csv", "time,a\n" + "".join(f"2024-10-27 {clock},1\n" for clock in local))
    for newest_first in (False, True):
        if newest_first:
            rows = path.read_text().splitlines()
            path.write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
        found = read_recordings(path, ReadOptions(timezone="Europe/Berlin"))[0]
        assert np.diff(found.times_us).tolist() == [30 * 60 * 1_000_000] * 5
    with pytest.raises(RecordingError, match="--timezone 'Europe/Berlinn': expected a name"):
        read_recordings(path, ReadOptions(timezone="Europe/Berlinn"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1705276800000", "1705276860000"], 1705276800.0),
        (["1705276800000000", "1705276860000000"], 1705276800.0),
        (["1705276800123456789", "1705276860123456789"], 1705276800.123456),
        (["20240115", "20240116"], 1705276800.0),
        (["202401150000", "202401150010"], 1705276800.0),
        (["15-Jan-24 00:00:00", "15-Jan-24 00:01:00"], 1705276800.0),
        (["Jan 15, 2024 12:00:00 AM", "Jan 15, 2024 12:01:00 AM"], 1705276800.0),
        (["2024-01-14T24:00:00Z", "2024-01-15T00:01:00Z"], 1705276800.0),
        (["2024-01-15 00:00:00 +0000 UTC", "2024-01-15 00:01:00 +0000 UTC"], 1705276800.0),
        (["15. Januar 2024 01:00 CET", "15. Januar 2024 01:01 CET"], 1705276800.0),
        (["45306.000000", "45306.006944"], 1705276800.0),
    ],
)
def test_times_are_read_as_they_are_written(tmp_path: Path, cells: list[str], expected: float) -> None:
    quoted = "".join(f'"{cell}",1\n' for cell in cells)
    found = read_recordings(_written(tmp_path / "r.csv", "time,a\n" + quoted))[0]
    assert found.times_us[0] == round(expected * 1e6)
    assert found.times_us[1] > found.times_us[0]


def test_times_that_were_rounded_are_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "r.csv", "timestamp,a\n" + "1.70528e+09,1\n" * 20)
    with pytest.raises(RecordingError, match=r"times are rounded \(1\.70528e\+09\), 20 cells have 1 times"):
        read_recordings(path)


def test_words_and_codes_for_missing_are_missing_and_said(tmp_path: Path) -> None:
    text = "timestamp,a,b\n" + "".join(f"{n},{n}.5,1\n" for n in range(20)) + "20,Bad,-9999\n21,-,off line\n"
    reader = read(tmp_path / "r.csv", text, missing=("off line", "-9999"))
    (piece,) = reader.pieces  # type: ignore[attr-defined]
    assert np.isnan(piece.values[20:]).all()
    assert reader.remarks() == ["taken for missing: Bad (1), - (1), off line (1)"]
    with pytest.raises(RecordingError, match="row 23, column b: 'off line' is not a number"):
        read_recordings(tmp_path / "r.csv")
    odd = _written(tmp_path / "odd.csv", "timestamp,a\n1,2\n2,broken\n3,4\n")
    with pytest.raises(RecordingError, match="'broken' is not a number; --missing broken if it stands for a missing"):
        read_recordings(odd)


def test_values_of_poor_quality_are_missing(tmp_path: Path) -> None:
    words = "".join(f"{n},{n},{'Bad' if n == 3 else 'Good'}\n" for n in range(8))
    reader = read(tmp_path / "r.csv", "timestamp,a,Quality\n" + words)
    assert np.flatnonzero(np.isnan(reader.pieces[0].values[:, 0])).tolist() == [3]  # type: ignore[attr-defined]
    assert "1 value of poor quality taken for missing" in reader.remarks()
    german = "".join(f"{n},{n},{'SCHLECHT' if n == 3 else 'GUT'}\n" for n in range(8))
    reader = read(tmp_path / "r.csv", "timestamp,a,Güte\n" + german)
    assert np.flatnonzero(np.isnan(reader.pieces[0].values[:, 0])).tolist() == [3]  # type: ignore[attr-defined]
    numbers = "".join(f"{n},{n},{64 if n == 5 else 192}\n" for n in range(8))
    reader = read(tmp_path / "r.csv", "timestamp,a,a_quality\n" + numbers)
    assert np.flatnonzero(np.isnan(reader.pieces[0].values[:, 0])).tolist() == [5]  # type: ignore[attr-defined]


def test_lines_that_are_no_readings_are_left_out_and_said(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n}\n" for n in range(12))
    text = f"Station 4\nExported today\n\ntimestamp,a\ns,m\n{rows}timestamp,a\n{rows}# done\nTotal,,\n12"
    reader = read(tmp_path / "r.csv", text)
    assert len(reader.pieces[0].values) == 24  # type: ignore[attr-defined]
    assert "3 lines above the header left out; a second header line left out: s, m" in reader.layout.holds()
    assert reader.layout.units == {"a": "m"}
    numbered = read(tmp_path / "n.csv", f"timestamp,a\ns,SN 20123\n{rows}")
    assert numbered.layout.units == {}
    assert reader.remarks()[:2] == ["1 repeated header left out", "left out at the end, no readings: '12'; 'Total, '"]


def test_a_bad_row_among_good_ones_is_no_foot(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n}\n" for n in range(12))
    for odd, words in (
        ("Total,1,2\n", "line 14: 3 cells"),
        ("Total,3\n", "row 14, column timestamp: 'Total' is not a time"),
    ):
        with pytest.raises(RecordingError, match=words):
            read_recordings(_written(tmp_path / "r.csv", f"timestamp,a\n{rows}{odd}{rows}"))


def test_a_column_of_whole_numbers_that_parts_the_times_names_streams(tmp_path: Path) -> None:
    text = "timestamp,sensor_id,value\n" + "".join(f"{n},{one},{n + one}\n" for n in range(9) for one in (7, 8))
    reader = read(tmp_path / "r.csv", text)
    assert {piece.stream for piece in reader.pieces} == {"7", "8"}  # type: ignore[attr-defined]
    assert "each time comes 2 times, parted by sensor_id" in reader.layout.holds()


def test_long_names_the_columns_of_names_and_values(tmp_path: Path) -> None:
    text = "timestamp,what,how_much,extra\n" + "".join(f"{n},{one},{n},9\n" for n in range(9) for one in "ab")
    (piece,) = read(tmp_path / "r.csv", text, long="what,how_much").pieces  # type: ignore[attr-defined]
    assert (piece.channels, piece.values[3].tolist()) == (("a", "b"), [3.0, 3.0])
    with pytest.raises(RecordingError, match="no column whatever; the header has timestamp, what"):
        read(tmp_path / "r.csv", text, long="whatever,how_much")


def test_numbers_in_two_units_are_refused(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n}.5 kW\n" for n in range(6)) + "6,900 W\n"
    with pytest.raises(RecordingError, match="column power: numbers in kW and in W; export them in one unit"):
        read_recordings(_written(tmp_path / "r.csv", f"timestamp,power\n{rows}"))


def test_a_machine_s_own_status_says_nothing_of_quality(tmp_path: Path) -> None:
    """An error of the machine is what is to be found."""
    text = "timestamp,a,status\n" + "".join(f"{n},{n},{'error' if n > 5 else 'ok'}\n" for n in range(9))
    reader = read(tmp_path / "r.csv", text)
    assert np.isfinite(reader.pieces[0].values).all()  # type: ignore[attr-defined]
    assert "left out: status (words)" in reader.layout.holds()


def test_a_file_of_words_alone_is_refused_by_its_first(tmp_path: Path) -> None:
    for cell in ("on", "1 x", "12 apples"):
        with pytest.raises(RecordingError, match=f"no channel; .*row 2, column a: '{cell}' is not a number"):
            read_recordings(_written(tmp_path / "r.csv", f"timestamp,a\n1,{cell}\n"))


def test_a_switch_of_two_words_is_one_and_zero(tmp_path: Path) -> None:
    text = "timestamp,a,pump\n" + "".join(f"{n},{n},{'on' if n % 3 else 'OFF'}\n" for n in range(9))
    (piece,) = read(tmp_path / "r.csv", text).pieces  # type: ignore[attr-defined]
    assert piece.values[:3, 1].tolist() == [0, 1, 1]


def test_what_is_no_table_is_refused_by_what_it_is(tmp_path: Path) -> None:
    for content, words in {
        b"PK\x03\x04rest": "a ZIP or Excel file by its first bytes: call it .xlsx",
        b"\x89PNG\r\n\x1a\n": "a picture by its first bytes",
        b"%PDF-1.7\n": "a PDF",
        bytes(range(1, 32)) * 40: "cannot be read as text",
        b'{"a": 1}\n': "begins as JSON",
        b"<!doctype html>\n<p>Log in": "a page or XML, perhaps of a login",
        b"2024-01-15T00:00:00Z,1\n2024-01-15T00:01:00Z,2\n": "the first line is a reading",
    }.items():
        (tmp_path / "r.csv").write_bytes(content)
        with pytest.raises(RecordingError, match=words):
            read_recordings(tmp_path / "r.csv")


def test_a_formula_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="'=A1[+]2' is not a number; it is a formula: export values"):
        read_recordings(_written(tmp_path / "r.csv", "timestamp,a\n1,2\n2,3\n3,=A1+2\n"))


def test_a_toml_beside_the_file_keeps_what_was_said(tmp_path: Path) -> None:
    path = _written(tmp_path / "r.csv", days("%d/%m/%Y", count=1))
    (tmp_path / "gatewatch.toml").write_text('time-format = "month-first"\nmissing = [3]\n')
    assert read_recordings(path)[0].timestamps_ms[0] == 1000 * datetime(2024, 1, 4, tzinfo=UTC).timestamp()
    (tmp_path / "r.toml").write_text('time_format = "day-first"\n')
    found = read_recordings(path)[0]
    assert found.timestamps_ms[0] == 1000 * datetime(2024, 4, 1, tzinfo=UTC).timestamp()
    assert np.isnan(found.values[3, 0])
    assert read_recordings(path, ReadOptions(time_format="month-first"))[0].timestamps_ms[0] != found.timestamps_ms[0]
    (tmp_path / "r.toml").write_text('time_fromat = "day-first"\n')
    with pytest.raises(RecordingError, match="r.toml: time_fromat is no option of a recording; expected time_column"):
        read_recordings(path)


def test_a_spreadsheet_and_a_parquet_file_read_as_the_table(tmp_path: Path) -> None:
    stamps = [t.replace(tzinfo=None) for t in times()[:50]]
    table = polars.DataFrame({"When": stamps, "level": level()[:50], "note": ["fine"] * 50})
    table.write_parquet(tmp_path / "r.parquet")
    _workbook(tmp_path / "r.xlsx", [["Station 4"], ["When", "level", "note"], *map(list, table.rows())])
    for name in ("r.parquet", "r.xlsx"):
        found = read_recordings(tmp_path / name)[0]
        assert found.channels == ("level",)
        np.testing.assert_allclose(found.values[:, 0], level()[:50])
        assert found.times_us.tolist() == [round(t.timestamp() * 1e6) for t in times()[:50]]


def test_a_spreadsheet_that_becomes_too_much_or_is_none_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/worksheets/sheet1.xml", b" " * 2**27)
    (tmp_path / "none.xlsx").write_bytes(b"timestamp,a\n1,2\n")
    (tmp_path / "none.xls").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    for name, words in {
        "bomb.xlsx": "more than 200 times",
        "none.xlsx": "not a read",
        "none.xls": "not a read",
    }.items():
        with pytest.raises(RecordingError, match=words):
            read_recordings(tmp_path / name)


def _workbook(path: Path, rows: list[list[object]]) -> None:
    """A spreadsheet with one sheet: numbers, text in the cells, dates as days with a style of dates."""

    def cell(value: object) -> str:
        if isinstance(value, datetime):
            return f'<c s="1"><v>{(value - datetime(1899, 12, 30)).total_seconds() / 86_400!r}</v></c>'
        if isinstance(value, int | float):
            return f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    body = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"

    def related(*parts: tuple[str, str]) -> str:
        each = "".join(
            f'<Relationship Id="r{at}" Type="{office}/{one}" Target="{to}"/>' for at, (one, to) in enumerate(parts)
        )
        return f'<Relationships xmlns="{packages}/relationships">{each}</Relationships>'

    def typed(*parts: tuple[str, str]) -> str:
        each = "".join(f'<Override PartName="/xl/{name}.xml" ContentType="{kind}.{of}+xml"/>' for name, of in parts)
        rels = '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        return f'<Types xmlns="{packages}/content-types">{rels}{each}</Types>'

    sheets = '<sheets><sheet name="Data" sheetId="1" r:id="r0"/></sheets>'
    formats = '<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="22"/></cellXfs>'
    parts = {
        "[Content_Types].xml": typed(
            ("workbook", "sheet.main"), ("worksheets/sheet1", "worksheet"), ("styles", "styles")
        ),
        "_rels/.rels": related(("officeDocument", "xl/workbook.xml")),
        "xl/workbook.xml": f'<workbook {main} xmlns:r="{office}">{sheets}</workbook>',
        "xl/_rels/workbook.xml.rels": related(("worksheet", "worksheets/sheet1.xml"), ("styles", "styles.xml")),
        "xl/styles.xml": f"<styleSheet {main}>{formats}</styleSheet>",
        "xl/worksheets/sheet1.xml": f"<worksheet {main}><sheetData>{body}</sheetData></worksheet>",
    }
    with zipfile.ZipFile(path, "w") as book:
        for name, text in parts.items():
            book.writestr(name, f'<?xml version="1.0"?>{text}')


def test_a_file_of_more_than_one_place_is_looked_at_in_several(tmp_path: Path) -> None:
    """A column that has nothing at the beginning and words later is no channel; one with numbers later is one."""
    rows = "".join(f"{n},{n % 7},,\n" for n in range(60_000)) + "".join(
        f"{n},1,late,5\n" for n in range(60_000, 200_000)
    )
    found = read_recordings(_written(tmp_path / "r.csv", f"timestamp,a,note,b\n{rows}"))[0]
    assert found.channels == ("a", "b")
    assert len(found) == 200_000


def test_a_text_that_is_named_is_read_and_in_a_folder_left_alone(tmp_path: Path) -> None:
    for ending in (".txt", ".dat", ".log", ".txt.gz"):
        path = tmp_path / f"pump{ending}"
        text = b"Date;Time;a\n16/12/2006;17:24:00;?\n16/12/2006;17:25:00;4.2\n"
        path.write_bytes(gzip.compress(text) if ending.endswith(".gz") else text)
        found = read_recordings(path)[0]
        assert (found.stream, found.values[1, 0]) == ("pump", 4.2)
    with pytest.raises(RecordingError, match=r"no recording in this folder; .* name one that ends in \.txt"):
        recording_files([tmp_path])


def test_a_logger_that_numbers_its_rows_and_names_its_zone_in_the_header_is_read(tmp_path: Path) -> None:
    rows = "".join(f"{n + 1},09/{n + 1:02}/21 01:00:00 PM,{n}.5\n" for n in range(20))
    text = f'"Plot Title: Weir 7"\n"#","Date Time, GMT+02:00","Temp, °C (LGR S/N: 20123)"\n{rows}'
    reader = read(tmp_path / "weir.csv", text)
    assert reader.layout.names[1:] == ("Date Time, GMT+02:00", "Temp, °C (LGR S/N: 20123)")
    first = reader.pieces[0].times_us[0]  # type: ignore[attr-defined]
    assert first == datetime(2021, 9, 1, 11, tzinfo=UTC).timestamp() * 1e6
    assert "in UTC+02:00" in reader.layout.read_as()


def test_a_first_line_that_is_a_reading_is_not_taken_for_names(tmp_path: Path) -> None:
    for line in ("1700000000000,1.01,-0.5", "1,2024-05-01 10:00,7", "0.5,1700000000,3"):
        with pytest.raises(RecordingError, match="the first line is a reading .* put a line of names above it"):
            read(tmp_path / "r.csv", f"{line}\n{line}\n")
    found = read(tmp_path / "r.csv", "time,0,1\n1700000000,5,6\n1700000001,5,6\n")
    assert found.layout.names == ("time", "0", "1")


def test_a_date_with_dots_has_its_day_first_unless_another_tells(tmp_path: Path) -> None:
    found = read(tmp_path / "r.csv", days("%d.%m.%Y", count=1))
    assert "day first" in found.layout.read_as()
    odd = read(tmp_path / "r.csv", "time,a\n05.01.2024 00:00,1\n05.13.2024 00:00,2\n")
    assert "month first" in odd.layout.read_as()


def test_how_months_are_written_is_said_in_true_words(tmp_path: Path) -> None:
    for first, said in (("01-Jun-22", "day first"), ("2022-Jun-01", "year first"), ("Jun 01, 2022", "month first")):
        rows = "".join(f'"{first} 0{n}:00:00",{n}\n' for n in range(5))
        assert f"({said}" in read(tmp_path / "r.csv", f"time,a\n{rows}").layout.read_as()


def test_columns_of_formulas_are_named_and_a_name_in_gz_proves_nothing(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n},=B{n + 2}*2\n" for n in range(12))
    assert "left out: y (formulas: export values)" in read(tmp_path / "r.csv", f"time,x,y\n{rows}").layout.holds()
    assert len(read(tmp_path / "r.csv.gz", "time,x\n1,2\n3,4\n").pieces[0].values) == 2  # type: ignore[attr-defined]
