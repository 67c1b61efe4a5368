"""Columns to their roles: time, channels, names of streams, a long table's names and values; by name and content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import numpy as np

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.label_names import MARKS, is_like_label
from gatewatch.models.recordings.layout import Column, Layout
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.sniffing import TIME_NAMES, plain_name
from gatewatch.models.recordings.times import (
    EPOCHS,
    ORDERS,
    BadTime,
    TimeReader,
    TimeStyle,
    find_style,
    is_clock,
    is_date,
    is_date_alone,
    with_zone,
)
from gatewatch.models.recordings.values import (
    BOOLEANS,
    MISSING,
    SWITCHES,
    CellStyle,
    number,
    unit_behind,
    unit_in_header,
)
from gatewatch.models.text import listed

TAG_NAMES = frozenset(
    {
        "tag", "tagname", "tag_name", "tagid", "tag_id", "metric", "metric_name", "variable", "parameter", "param",
        "point", "pointname", "point_name", "name", "signal", "signal_name", "channel", "channel_name", "field",
        "_field", "attribute", "series", "measurement", "entity_id", "statistic_id", "item", "property", "sensor_name",
        "sensor_type", "quantity", "kpi"
    }
)  # fmt: skip
"""What columns are called whose words name channels."""

ID_NAME = re.compile(
    r"(.*[_ .-])?(stream|id|sensor|sensorid|device|deviceid|machine|machineid|asset|assetid|node|nodeid|host|hostname|"
    r"server|station|site|equipment|entity|meter|well|turbine|pump|unit_id|component|logger|mote|moteid|instance|plant|"
    r"location|room|engine|unit_number)([_ .-]?(id|no|nr|number|name))?"
)
"""What columns are called whose words name a stream."""

ROW_NAMES = frozenset(
    {
        "record", "rn", "row", "index", "no", "nr", "id", "#", "line", "rownum", "row_number"
    }
)  # fmt: skip
QUALITY_NAME = re.compile(
    r"(.*[_ .:-])?(quality|opcquality|qualitydetail|qc|status|qualitaet|qualität)(_?(code|flag))?"
)
GOOD = frozenset(
    {
        "good", "ok", "valid", "normal", "true", "good, non-specific", "g"
    }
)  # fmt: skip
POOR = frozenset(
    {
        "bad", "uncertain", "questionable", "substituted", "suspect", "invalid", "poor", "error", "stale", "false", "b",
        "u", "unavailable", "unknown", "bad input", "no data", "bad, non-specific", "uncertain, non-specific",
        "not good", "offline"
    }
)  # fmt: skip
INFLUX = frozenset({"result", "table", "_start", "_stop", "_measurement"})
"""Columns of InfluxDB that say how it was asked."""

MOST_TEXTS = 10_000

NEWEST_FIRST = 0.8
"""Share of the steps that go back in time, from which a file is taken for one with its newest reading first."""


@dataclass
class Look:
    """What a column has in the sample."""

    at: int
    name: str
    cells: Sequence[object]
    style: CellStyle
    numbers: int = 0
    missing: int = 0
    dates: int = 0
    booleans: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    unit: str | None = None

    def __post_init__(self) -> None:
        """Count what the cells are."""
        behind: Counter[str] = Counter()
        for cell in self.cells:
            if self._is_missing(cell):
                self.missing += 1
            elif isinstance(cell, bool) or (isinstance(cell, str) and cell.strip().lower() in BOOLEANS):
                self.booleans += 1
            elif _is_number(cell, self.style):
                self.numbers += 1
            elif is_date(cell):
                self.dates += 1
            elif isinstance(cell, str) and (unit := unit_behind(cell)) is not None:
                behind[unit] += 1
            elif len(self.texts) < MOST_TEXTS:
                self.texts[str(cell).strip()] += 1
        found = behind.most_common(1)
        if found and found[0][1] > 2 and 2 * sum(behind.values()) > self.known:
            self.unit = found[0][0]
            self.numbers += found[0][1]
            self.texts.update({f"... {unit}": count for unit, count in behind.items() if unit != self.unit})
        else:
            self.texts.update(behind)

    def _is_missing(self, cell: object) -> bool:
        word = cell.strip().lower() if isinstance(cell, str) else cell
        return word is None or (isinstance(word, str) and (word in MISSING or word in self.style.missing))

    @property
    def known(self) -> int:
        """Cells with something in them."""
        return len(self.cells) - self.missing

    @property
    def words(self) -> Mapping[str, float]:
        """For values: those of a switch where the column has both and no other, else true and false."""
        seen = {text.lower() for text in self.texts}
        pair = next((pair for pair in SWITCHES if seen == set(pair)), None)
        return BOOLEANS if pair is None or self.numbers else {pair[0]: 1.0, pair[1]: 0.0}

    @property
    def measures(self) -> bool:
        """Whether it has numbers, or could."""
        values = self.numbers + self.booleans
        return values * 2 >= self.known or (
            values + sum(self.texts.values()) == self.known and self.words is not BOOLEANS
        )

    @cached_property
    def whole(self) -> NDArrayOrNone:
        """(N,) its cells that are not missing as whole numbers; None where one is none."""
        try:
            found = np.array([number(cell) for cell in self.cells if not self._is_missing(cell)])
        except (TypeError, ValueError):
            return None
        return found if len(found) and np.isfinite(found).all() and (found == np.rint(found)).all() else None

    @property
    def marks(self) -> bool:
        """Whether it has nothing but marks: -1, 0 and 1, or true and false."""
        whole = self.whole
        return self.booleans == self.known or (whole is not None and MARKS.issuperset(whole.tolist()))

    @property
    def counts_rows(self) -> bool:
        return self.whole is not None and len(self.whole) > 1 and float(np.median(np.diff(self.whole))) == 1.0

    def different(self) -> set[str]:
        """What stands in it."""
        return {str(cell).strip() for cell in self.cells}


NDArrayOrNone = np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None


def _is_number(cell: object, style: CellStyle) -> bool:
    if isinstance(cell, datetime):
        return False
    try:
        number(cell, style.decimal)
    except (TypeError, ValueError):
        return False
    return True


def layout_of(
    where: str,
    names: Sequence[str],
    rows: Sequence[Sequence[object]],
    options: ReadOptions,
    everything: Callable[[Sequence[int]], Iterable[str]],
    base: Layout,
    annotated: bool = False,
) -> Layout:
    """The roles of the columns of a table.

    Args:
        where: the file, for messages.
        rows: a sample, each as long as `names`.
        everything: all cells of some columns, joined by a space, read as far as needed.
        base: what is known of the file before its columns; what is found is filled in.

    Raises:
        RecordingError: no time, no channel, names that cannot be told apart, or an option that names no column.
    """
    looks = [Look(at, name, [row[at] for row in rows], base.style) for at, name in enumerate(names)]
    time_at = _times(where, looks, options)
    style = _time_style(where, looks, time_at, options, everything)
    cells = _joined(looks, time_at)
    style, times = _with_order(style, cells)
    named_zone = all(
        isinstance(cell, str) and re.search(r"(Z|UTC|GMT|[+-]\d\d:?\d\d)\s*$", cell) for cell in cells[:20]
    )
    roles = _Roles(where, looks, options, set(time_at), times, annotated)
    return replace(
        base, times=style, time_at=tuple(time_at), channels=roles.channels, streams=tuple(roles.streams),
        tag_at=roles.tag_at, left_out=roles.left_out, notes=(*base.notes, *roles.notes), no_zone=not named_zone,
    )  # fmt: skip


def _column(where: str, looks: Sequence[Look], name: str) -> int:
    exact = [look.at for look in looks if look.name == name]
    if found := exact or [look.at for look in looks if look.name.lower() == name.lower()]:
        return found[0]
    raise RecordingError(f"{where}: no column {name}; the header has {listed([look.name for look in looks])}")


def _times(where: str, looks: Sequence[Look], options: ReadOptions) -> list[int]:
    """The column of times, or those of date and time of day."""
    if options.time_column is not None:
        if any(look.name == options.time_column for look in looks):
            return [_column(where, looks, options.time_column)]
        return [_column(where, looks, name.strip()) for name in options.time_column.split(",")]
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
    raise RecordingError(
        f"{where}: no column `timestamp`; the header has {listed([look.name for look in looks])}, and none of them has "
        "times; name it with --time-column"
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


def _joined(looks: Sequence[Look], time_at: Sequence[int]) -> list[object]:
    if len(time_at) == 1:
        return list(looks[time_at[0]].cells)
    return [" ".join(map(str, cells)) for cells in zip(*(looks[at].cells for at in time_at), strict=True)]


def _time_style(
    where: str, looks: Sequence[Look], time_at: Sequence[int], options: ReadOptions,
    everything: Callable[[Sequence[int]], Iterable[str]],
) -> TimeStyle:  # fmt: skip
    given = options.time_format
    if given is None:
        column = " + ".join(looks[at].name for at in time_at)
        found = find_style(_joined(looks, time_at), everything(time_at), f"{where}, column {column}")
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
    return with_zone(found, options.timezone)


def _with_order(style: TimeStyle, cells: Sequence[object]) -> tuple[TimeStyle, list[int]]:
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


class _Roles:
    """What the columns beside time are; see Layout for the attributes."""

    def __init__(
        self, where: str, looks: Sequence[Look], options: ReadOptions, taken: set[int], times: Sequence[int],
        annotated: bool,
    ) -> None:  # fmt: skip
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []
        self.streams: list[int] = []
        self.tag_at: int | None = None
        self._where, self._looks, self._options, self._times = where, looks, options, times
        _check_names(where, [look.name for look in looks if look.known or look.name])
        rest = [look for look in looks if look.at not in taken]
        rest = [look for look in rest if not self._leave_out(look, annotated)]
        quality = [look for look in rest if len(rest) > 1 and self._says_quality(look)]
        rest = [look for look in rest if look not in quality]
        texts, values = self._split(rest)
        self._name_streams(texts, values)
        for look in texts:
            if look.at not in (*self.streams, self.tag_at):
                self.left_out[look.name] = "times" if look.dates * 2 > look.known else "words"
        values = [look for look in values if look.at not in (*self.streams, self.tag_at)]
        self.channels = tuple(self._channel(look, quality, len(values)) for look in values)
        if not self.channels:
            raise RecordingError(f"{where}: no channel; expected at least one column beside timestamp" + self._why())

    def _why(self) -> str:
        for look in self._looks:
            if look.name in self.left_out and look.texts:
                row = next(place for place, cell in enumerate(look.cells) if str(cell).strip() in look.texts)
                return f"; row {row + 2}, column {look.name}: {look.cells[row]!r:.80} is not a number"
        return ""

    def _leave_out(self, look: Look, annotated: bool) -> bool:
        """Whether a column is nothing, counts rows, or says how a database was asked."""
        if not look.name:
            if look.known == 0:
                return True
            if look.at == 0 and look.counts_rows:
                self.left_out["column 1"] = "counts rows"
                return True
            raise RecordingError(f"{self._where}: column {look.at + 1} has no name in the header")
        if annotated and look.name in INFLUX:
            return True
        if look.name.lower() in ROW_NAMES and look.counts_rows and len(self._looks) > 2:
            self.left_out[look.name] = "counts rows"
            return True
        flags = look.whole is not None and len(look.different()) < 12 and "192" not in look.different()
        if flags and QUALITY_NAME.fullmatch(look.name.lower()) and re.search("qc|qualit", look.name.lower()):
            self.left_out[look.name] = "flags of quality"
            return True
        if is_like_label(look.name) and self._options.label_column is None and look.marks:
            self.left_out[look.name] = "looks like labels; --label-column no keeps it"
            return True
        if look.name == self._options.label_column:
            self.left_out[look.name] = "label"
        return look.name == self._options.label_column

    def _says_quality(self, look: Look) -> bool:
        """Whether a column says which values are good, in words or in the numbers of OPC."""
        if not QUALITY_NAME.fullmatch(look.name.lower()):
            return False
        seen = {text.lower() for text in look.different()} - {"", "nan"}
        return bool(seen) and (("192" in seen and look.whole is not None) or (bool(look.texts) and seen <= GOOD | POOR))

    def _split(self, rest: Sequence[Look]) -> tuple[list[Look], list[Look]]:
        """Columns of words, `stream` among them, and those of numbers."""
        given = self._long_option()
        texts = [look for look in rest if not look.measures or look.name == "stream" or (given and look.at == given[0])]
        texts = [look for look in texts if look.name != "stream" or not self._measured_stream(look, rest)]
        values = [look for look in rest if look not in texts]
        return texts, values

    def _measured_stream(self, look: Look, rest: Sequence[Look]) -> bool:
        """Whether a column called stream is that of a brook: numbers with parts, hardly one twice."""
        brook = (
            look.numbers == len(look.cells) > 3 and look.whole is None and 4 * len(look.different()) > len(look.cells)
        )
        if brook:
            self.notes.append("the column stream holds measurements: taken for a channel")
        return brook and len(rest) > 0

    def _long_option(self) -> tuple[int, int] | None:
        long = self._options.long
        if long is None or long == "no":
            return None
        tag, comma, measured = long.rpartition(",")
        if not comma:
            raise RecordingError(
                f"--long {long!r:.80}: expected the columns of names and of values, as tag,value; or no"
            )
        return _column(self._where, self._looks, tag.strip()), _column(self._where, self._looks, measured.strip())

    def _name_streams(self, texts: list[Look], values: list[Look]) -> None:
        """Find the columns that name streams, and that of a long table's channels."""
        given = self._long_option()
        named = [look for look in texts if look.name == "stream"]
        if given is not None:
            self.tag_at = given[0]
            for look in values[:]:
                if look.at not in given:
                    values.remove(look)
                    self.left_out[look.name] = "not of --long"
            self.streams = [look.at for look in named]
            return
        if named:
            self.streams = [named[0].at]
            return
        words = [look for look in texts if look.known and look.dates == 0]
        if self._options.long != "no" and len(values) == 1:
            tags = [look for look in words if plain_name(look.name) in TAG_NAMES] or [
                look for look in words
                if not ID_NAME.fullmatch(plain_name(look.name)) and self._parts_times([look.at])
                and len(look.different()) * 2 <= len(look.cells)
            ]  # fmt: skip
            if tags:
                self.tag_at = next(
                    (look.at for look in tags if plain_name(look.name) in ("_field", "field")), tags[0].at
                )
        self.streams = [
            look.at for look in words if look.at != self.tag_at and ID_NAME.fullmatch(plain_name(look.name))
        ]
        if self.tag_at is None:
            for look in [look for look in words if look.at not in self.streams]:
                if self._parts_times([*self.streams, look.at]) and not self._parts_times(self.streams):
                    self.streams.append(look.at)
        if not self.streams and self.tag_at is None and len(values) > 1:
            ids = [
                look for look in values
                if look.whole is not None and ID_NAME.fullmatch(plain_name(look.name)) and self._parts_times([look.at])
            ]  # fmt: skip
            self.streams = [look.at for look in ids[:1]]
        if self.streams and self.tag_at is None and self._twice([]):
            by = " + ".join(self._looks[at].name for at in self.streams)
            self.notes.append(f"each time comes {self._twice([])} times, parted by {by}")

    def _twice(self, columns: Sequence[int]) -> int:
        """How often a time comes, with what stands in some columns, mostly; 0 if once."""
        cells = zip(self._times, *([str(cell) for cell in self._looks[at].cells] for at in columns), strict=True)
        counts = Counter(Counter(cells).values())
        often = max(counts, key=lambda times: (times * counts[times], times)) if counts else 1
        return often if often > 1 else 0

    def _parts_times(self, columns: Sequence[int]) -> bool:
        """Whether times that come several times come once with what stands in these columns."""
        return bool(columns) and bool(self._twice([])) and not self._twice(columns)

    def _channel(self, look: Look, quality: Sequence[Look], channels: int) -> Column:
        if look.unit is not None and any(text.startswith("... ") for text in look.texts):
            others = [text.removeprefix("... ") for text in look.texts if text.startswith("... ")]
            raise RecordingError(
                f"{self._where}, column {look.name}: numbers in {look.unit} and in {listed(others)}; export them in "
                "one unit, or without units"
            )
        own = [one for one in quality if look.name.lower() in one.name.lower()]
        about = own or (list(quality) if channels == 1 or len(quality) == 1 else [])
        return Column(
            look.at, look.name, look.unit or unit_in_header(look.name), look.unit, look.words,
            about[0].at if about else None,
        )  # fmt: skip


def _check_names(where: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name)
    if twice:
        raise RecordingError(f"{where}: column {listed(twice)} stands twice in the header; give each a name of its own")
