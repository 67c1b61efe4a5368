"""Which columns are times, and how they write them: told by names and by all their cells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.dates import is_clock, is_date_alone
from gatewatch.models.recordings.looks import Look
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.sniffing import TIME_NAMES, plain_name
from gatewatch.models.recordings.time_styles import EPOCHS, ORDERS, TimeStyle, find_style, with_zone
from gatewatch.models.recordings.times import BadTime, TimeReader
from gatewatch.models.recordings.values import number
from gatewatch.models.text import listed

NEWEST_FIRST = 0.8
"""Share of the steps that go back in time, from which a file is taken for one with its newest reading first."""


def column_called(where: str, looks: Sequence[Look], name: str) -> int:
    exact = [look.at for look in looks if look.name == name]
    if found := exact or [look.at for look in looks if look.name.lower() == name.lower()]:
        return found[0]
    raise RecordingError(f"{where}: no column {name}; the header has {listed([look.name for look in looks])}")


def time_columns(where: str, looks: Sequence[Look], options: ReadOptions) -> list[int]:
    """The column of times, or those of date and time of day."""
    if options.time_column is not None:
        if any(look.name == options.time_column for look in looks):
            return [column_called(where, looks, options.time_column)]
        return [column_called(where, looks, name.strip()) for name in options.time_column.split(",")]
    exact = [look.at for look in looks if look.name == "timestamp"]
    if exact:
        return exact[:1]
    usable = [look for look in looks if look.known]
    rank = {
        look.at: TIME_NAMES.index(plain) if (plain := plain_name(look.name)) in TIME_NAMES else 999 for look in usable
    }
    dates = [look for look in usable if look.dates * 2 > look.known]
    with_clock = [look for look in dates if not all(map(is_date_alone, _filled(look)))]
    if with_clock:
        return [min(with_clock, key=lambda look: rank[look.at]).at]
    alone = dates or [
        look
        for look in usable
        if rank[look.at] < 999 and "dat" in look.name.lower() and all(map(is_date_alone, _filled(look)))
    ]
    if alone:
        clocks = [look for look in usable if look is not alone[0] and all(map(is_clock, _filled(look)))]
        return [alone[0].at, *[look.at for look in clocks[:1]]]
    named = [look for look in usable if rank[look.at] < 999 and look.numbers * 2 > look.known]
    if named:
        return [min(named, key=lambda look: rank[look.at]).at]
    unix = [look for look in usable if look.numbers == look.known and _like_unix(look)]
    if unix:
        return [unix[0].at]
    parted = "; if spaces part its cells, say --delimiter space" if len(looks) == 1 and " " in looks[0].name else ""
    raise RecordingError(
        f"{where}: no column `timestamp`; the header has {listed([look.name for look in looks])}, and none of them has "
        f"times; name it with --time-column, or say --every SECONDS where there are none{parted}"
    )


def _filled(look: Look) -> list[object]:
    return [cell for cell in look.cells if cell not in (None, "")]


def _like_unix(look: Look) -> bool:
    """Whether numbers rise, or fall, between 1990 and 2100 in a unit of time."""
    values = np.array([number(cell, look.style.decimal) for cell in _filled(look)])
    scale = 10.0 ** (3 * np.floor((np.log10(max(1.0, float(np.median(np.abs(values))))) - 8.8) / 3))
    seconds = values / max(1.0, scale)
    steps = np.diff(values)
    one_way = (steps >= 0).all() or (steps <= 0).all()
    within = (seconds > 6.3e8).all() and (seconds < 4.1e9).all()
    return bool(len(values) > 1 and within and one_way and values[0] != values[-1])


def joined_cells(looks: Sequence[Look], time_at: Sequence[int]) -> list[object]:
    if len(time_at) == 1:
        return list(looks[time_at[0]].cells)
    return [" ".join(map(str, cells)) for cells in zip(*(looks[at].cells for at in time_at), strict=True)]


def zone_in_name(name: str) -> str | None:
    """The distance from UTC that the name of a column of times states, as `Date Time, GMT+02:00`."""
    if found := re.search(r"\b(?:GMT|UTC)\s?([+-])(\d{1,2})(?::?(\d\d))?(?!\d)", name):
        return f"{found[1]}{int(found[2]):02}:{found[3] or '00'}"
    return None


def time_style(
    where: str, looks: Sequence[Look], time_at: Sequence[int], options: ReadOptions,
    everything: Callable[[Sequence[int]], Iterable[str]],
) -> TimeStyle:  # fmt: skip
    given = options.time_format
    if given is None:
        column = " + ".join(looks[at].name for at in time_at)
        found = find_style(joined_cells(looks, time_at), everything(time_at), f"{where}, column {column}")
    elif given in ORDERS:
        found = TimeStyle("date", ORDERS[given])
    elif given in (*EPOCHS, "iso", "excel"):
        found = TimeStyle(given)
    elif "%" in given:
        found = TimeStyle("format", format=given)
    else:
        raise RecordingError(
            f"--time-format {given!r:.80}: expected iso, {', '.join(EPOCHS)}, excel, {', '.join(ORDERS)}, or a "
            "format as %d.%m.%Y %H:%M"
        )
    return with_zone(found, options.timezone or zone_in_name(" ".join(looks[at].name for at in time_at)))


def with_order(style: TimeStyle, cells: Sequence[object]) -> tuple[TimeStyle, list[int]]:
    """The style with the direction of time, and the times of the sample that can be read."""
    times: list[int] = []
    for cell in cells:
        try:
            times += TimeReader(style).read([cell], "", 0, "").tolist()
        except BadTime:
            times.append(-1)
    steps = np.diff([one for one in times if one >= 0])
    newest_first = len(steps) > 2 and bool((steps < 0).mean() >= NEWEST_FIRST)
    return replace(style, newest_first=newest_first), times
