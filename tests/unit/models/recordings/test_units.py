"""The unit in a column's name, told from serial numbers, indices and words."""

from __future__ import annotations

import pytest

from gatewatch.models.recordings.values import unit_in_header


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("Temp, °C (LGR S/N: 20123)", "°C"),
        ("Temp, °C (LGR S/N: 20123, SEN S/N: 20456, LBL: weir)", "°C"),
        ("Abs Pres, kPa (LGR S/N: 1)", "kPa"),
        ("DO conc (mg/L) (LGR S/N: 10)", "mg/L"),
        ("Flow [m3/h] (mean)", "m3/h"),
        ("RH, %", "%"),
        ("Rain (mm/10min)", "mm/10min"),
        ("Fuel (l/100km)", "l/100km"),
        ("Level [raw]", "raw"),
        ("Serial no. 20123 [°C]", "°C"),
    ],
)
def test_a_unit_stands_in_brackets_or_behind_a_comma(name: str, unit: str) -> None:
    assert unit_in_header(name) == unit


@pytest.mark.parametrize(
    "name",
    [
        "Temp (LGR S/N: 20123)", "T [S/N 7]", "T (S/N 7)", "Sensor [20123]", "n (ID #7)", "Spalte (Nr. 12345)", "x [0]",
        "Temp (min/max)", "P (in/out)", "State (n/a)", "Pump, in", "Speed, rpm, max", "AHU: Supply Air Temperature",
    ],
)  # fmt: skip
def test_a_serial_number_an_index_or_a_word_is_no_unit(name: str) -> None:
    assert unit_in_header(name) is None
