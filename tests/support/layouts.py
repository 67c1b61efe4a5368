"""One recording with one fault, written as a dozen programs write theirs; the reader has to find all of it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

ROWS, FAULT, FAULT_ROWS = 700, 600, 30
START = datetime(2024, 1, 25, tzinfo=UTC)
STEP = timedelta(minutes=10)
BERLIN = ZoneInfo("Europe/Berlin")


def times() -> list[datetime]:
    """Of all readings, in UTC."""
    return [START + row * STEP for row in range(ROWS)]


def level() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(ROWS,) a tank's level with a day in it; 30 too high for 30 readings from row FAULT on."""
    rng = np.random.default_rng(16)
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = 50 + 3 * np.sin(np.arange(ROWS) / 144 * 2 * np.pi)
    found = found + rng.normal(0, 0.2, ROWS)
    found[FAULT : FAULT + FAULT_ROWS] += 30
    return found.round(3)


def flow() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(ROWS,) another channel, without a fault, with values above 1,000."""
    return (1200 + 40 * np.random.default_rng(61).normal(size=ROWS)).round(2)


Rows = list[tuple[datetime, float, float]]


def _rows() -> Rows:
    return list(zip(times(), level().tolist(), flow().tolist(), strict=True))


def plain(rows: Rows) -> str:
    return "timestamp,level,flow\n" + "".join(f"{t:%Y-%m-%dT%H:%M:%SZ},{a},{b}\n" for t, a, b in rows)


def german(rows: Rows) -> str:
    """Of a spreadsheet in Berlin: local times, day first, decimal comma, points in thousands, units in the header."""

    def comma(number: float) -> str:
        return f"{number:,.3f}".translate(str.maketrans(",.", ".,"))

    lines = [f"{t.astimezone(BERLIN):%d.%m.%Y %H:%M};{comma(a)};{comma(b)}\r\n" for t, a, b in rows]
    return "Datum/Zeit;level [m³];flow (l/h)\r\n" + "".join(lines)


def american(rows: Rows) -> str:
    """Newest first, month first, AM and PM, every cell in quotes."""
    lines = [f'"{t:%m/%d/%Y %I:%M %p}","{a}","{b:,.2f}"\n' for t, a, b in reversed(rows)]
    return '"Time","level","flow"\n' + "".join(lines)


def two_columns(rows: Rows) -> str:
    """Date and time of day apart, tabs, words and empty columns at the end."""
    lines = [f"{t:%d/%m/%Y}\t{t:%H.%M.%S}\t{a}\t{b}\tok\t\n" for t, a, b in rows]
    return "Date\tTime\tlevel\tflow\tstate\t\n" + "".join(lines)


def campbell(rows: Rows) -> str:
    """TOA5 of a logger: four lines of header, a count of records, "NAN"."""
    head = '"TOA5","site","CR1000X","1234","OS","prog","1","Ten"\n"TIMESTAMP","RECORD","level","flow"\n'
    head += '"TS","RN","m","l/h"\n"","","Avg","Avg"\n'
    return head + "".join(f'"{t:%Y-%m-%d %H:%M:%S}",{n},{a},{b}\n' for n, (t, a, b) in enumerate(rows))


def influx(rows: Rows) -> str:
    """Annotated CSV: one table after the other, each with its header."""
    head = (
        "#datatype,string,long,dateTime:RFC3339,double,string,string,string\n"
        "#group,false,false,false,false,true,true,true\n"
        "#default,_result,,,,,,\n,result,table,_time,_value,_field,_measurement,host\n"
    )
    parts = [
        head + "".join(f",,{n},{row[0]:%Y-%m-%dT%H:%M:%SZ},{row[1 + n]},{field},tank,plc-1\n" for row in rows)
        for n, field in enumerate(("level", "flow"))
    ]
    return "\n".join(parts)


def grafana(rows: Rows) -> str:
    """Values with their units in the cells."""
    return '"Time","level","flow"\n' + "".join(f'"{t:%Y-%m-%d %H:%M:%S}","{a} m","{b} l/h"\n' for t, a, b in rows)


def home_assistant(rows: Rows) -> str:
    """A row for each change of an entity; states that are words."""
    lines = []
    for n, (t, a, b) in enumerate(rows):
        state = "unavailable" if n == 50 else a
        lines.append(f"sensor.level,{state},{t:%Y-%m-%dT%H:%M:%S}.000Z\n")
        lines.append(f"sensor.flow,{b},{t + timedelta(seconds=17):%Y-%m-%dT%H:%M:%S}.000Z\n")
    return "entity_id,state,last_changed\n" + "".join(lines)


def telegraf(rows: Rows) -> str:
    """A measurement with tags: two hosts at the same times, Unix seconds."""
    lines = []
    for t, a, b in rows:
        lines += [f"{int(t.timestamp())},tank,{host},{a},{b}\n" for host in ("plc-1", "plc-2")]
    return "timestamp,measurement,host,level,flow\n" + "".join(lines)


def historian(rows: Rows) -> str:
    """PI: tag, time, value, quality; months by name, digital states for what is none."""
    lines = []
    for n, (t, a, b) in enumerate(rows):
        bad = n == 70
        lines.append(f"TANK1.LEVEL,{t:%d-%b-%y %H:%M:%S},{'I/O Timeout' if bad else a},{'Bad' if bad else 'Good'}\n")
        lines.append(f"TANK1.FLOW,{t:%d-%b-%y %H:%M:%S},{b},Good\n")
    return "Tag,Timestamp,Value,Status\n" + "".join(lines)


def azure(rows: Rows) -> str:
    """A file a variable, as Azure Anomaly Detector took them."""
    return "timestamp,value\n" + "".join(f"{t:%Y-%m-%dT%H:%M:%SZ},{a}\n" for t, a, _ in rows)


def lookout(rows: Rows) -> str:
    """As Lookout for Equipment took them: local names, microseconds, a sensor a column."""
    return "Timestamp,level,flow\n" + "".join(f"{t:%Y-%m-%dT%H:%M:%S}.000000,{a},{b}\n" for t, a, b in rows)


def dashboards(rows: Rows) -> str:
    """A report of OpenSearch Dashboards."""
    lines = [f'"{t:%b} {t.day}, {t:%Y @ %H:%M:%S}.000","{a}","{b:,.2f}"\n' for t, a, b in rows]
    return '"@timestamp",level,flow\n' + "".join(lines)


def milliseconds(rows: Rows) -> str:
    """Unix milliseconds, a column of quality for each channel in OPC's numbers, a foot."""
    lines = [f"{int(t.timestamp() * 1000)},{a},192,{b},192\n" for t, a, b in rows]
    return "ts,level,level_quality,flow,flow_quality\n" + "".join(lines) + f"({len(rows)} rows affected)\n"


def spreadsheet(rows: Rows) -> str:
    """Days since 1900, as a spreadsheet writes dates where it was not told."""
    day = datetime(1899, 12, 30, tzinfo=UTC)
    return "when,level,flow\n" + "".join(f"{(t - day) / timedelta(days=1):.6f},{a},{b}\n" for t, a, b in rows)


def air_handler(rows: Rows) -> str:
    """Of a building: M/D/YYYY H:MM, names with colons, and a column that marks the fault."""
    lines = [
        f"{t.month}/{t.day}/{t.year} {t.hour}:{t.minute:02d},{a},{b},{int(FAULT <= n < FAULT + FAULT_ROWS)}\n"
        for n, (t, a, b) in enumerate(rows)
    ]
    return "Datetime,AHU: Supply Air Temperature,AHU: Flow,Fault Detection Ground Truth\n" + "".join(lines)


def wind_turbine(rows: Rows) -> str:
    """Of a turbine: "DD MM YYYY HH:MM" in Latin-1."""
    lines = [f"{t:%d %m %Y %H:%M},{a},{b},{n * 7 % 360}\n" for n, (t, a, b) in enumerate(rows)]
    return "Date/Time,LV ActivePower (kW),Wind Speed (m/s),Wind Direction (°)\n" + "".join(lines)


def air_quality(rows: Rows) -> str:
    """Of a street: date and time apart, decimal commas, -200 for nothing, empty columns and rows at the end."""
    lines = []
    for n, (t, a, b) in enumerate(rows):
        lost = [-200 if n % 50 == 7 else a, -200 if n % 10 else b]
        lines.append(f"{t:%d/%m/%Y};{t:%H.%M.%S};" + ";".join(str(one).replace(".", ",") for one in lost) + ";;\n")
    return "Date;Time;CO(GT);NMHC(GT);;\n" + "".join(lines) + ";;;;;\n" * 100


LAYOUTS: dict[str, tuple[Callable[[Rows], str], str, tuple[str, ...]]] = {
    "plain": (plain, "utf-8", ()),
    "german": (german, "latin-1", ("--timezone", "Europe/Berlin")),
    "american": (american, "utf-8-sig", ()),
    "two_columns": (two_columns, "utf-8", ()),
    "campbell": (campbell, "utf-8", ()),
    "influx": (influx, "utf-8", ()),
    "grafana": (grafana, "utf-8", ()),
    "home_assistant": (home_assistant, "utf-8", ()),
    "telegraf": (telegraf, "utf-8", ()),
    "historian": (historian, "utf-8", ()),
    "azure": (azure, "utf-8", ()),
    "lookout": (lookout, "utf-16", ()),
    "dashboards": (dashboards, "utf-8", ()),
    "milliseconds": (milliseconds, "utf-8", ()),
    "spreadsheet": (spreadsheet, "utf-8", ()),
    "air_handler": (air_handler, "utf-8", ()),
    "wind_turbine": (wind_turbine, "latin-1", ()),
    "air_quality": (air_quality, "utf-8", ("--missing", "-200")),
}
"""What writes each, in which encoding, and what the reader has to be told."""


def write_layout(folder: Path, name: str) -> Path:
    """A file in one of LAYOUTS."""
    text, encoding, _ = LAYOUTS[name]
    path = folder / f"{name}.csv"
    path.write_bytes(text(_rows()).encode(encoding))
    return path


def incidents_of(stdout: str) -> list[dict[str, object]]:
    """From what `scan --json` printed."""
    found: list[dict[str, object]] = json.loads(stdout)["incidents"]
    return found
