"""How a recording is written, as it was understood: which columns are what, and two lines that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC

from gatewatch.models.recordings.time_styles import TimeStyle
from gatewatch.models.recordings.values import BOOLEANS, PLAIN, CellStyle
from gatewatch.models.text import listed, one_line

MOST_NAMED = 8
"""Channels that are named in a line."""

SIGNS = {"\t": "tab", ";": "semicolon", ",": "comma", "|": "pipe", " ": "space"}


@dataclass(frozen=True)
class Column:
    """A column of values.

    Attributes:
        at: its place, from 0.
        unit: of its numbers, from the header or from its cells; None where none is named.
        behind: what stands behind each number in a cell, None for nothing.
        words: for values, in lower case.
        quality_at: the column that says whether each value is good; None where none does.
    """

    at: int
    name: str
    unit: str | None = None
    behind: str | None = None
    words: Mapping[str, float] = field(default_factory=lambda: BOOLEANS)
    quality_at: int | None = None


@dataclass(frozen=True)
class Layout:
    """What was understood of a file.

    Attributes:
        source: what kind of file it is.
        names: of all columns.
        lines: of text up to the first reading, header included.
        time_at: the column of times, or those of date and time of day.
        channels: the columns that are channels; of a long table its one column of values.
        streams: columns whose words name the stream.
        tag_at: of a long table, the column whose words name the channels; None of a wide one.
        left_out: columns that are no channels, and why.
        notes: what else was met.
        no_zone: its times name no zone.
        annotated: it is annotated CSV of InfluxDB, perhaps of several tables.
        every_us: from each row to the next; 0 where the rows have times.
    """

    source: str
    names: tuple[str, ...]
    lines: int
    times: TimeStyle
    time_at: tuple[int, ...]
    channels: tuple[Column, ...]
    delimiter: str = ","
    style: CellStyle = PLAIN
    streams: tuple[int, ...] = ()
    tag_at: int | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    no_zone: bool = False
    annotated: bool = False
    every_us: int = 0

    @property
    def units(self) -> dict[str, str]:
        """The unit of each channel that names one."""
        return {column.name: column.unit for column in self.channels if column.unit}

    def read_as(self) -> str:
        """One line for people: the form of the file and of its times."""
        if self.every_us:
            return one_line(f"{self.source}; no times: a row every {self.every_us / 1e6:g} s, from 2000-01-01 on")
        times = " + ".join(self.names[at] for at in self.time_at)
        zone = ""
        if self.no_zone and self.times.kind not in ("s", "ms", "us", "ns"):
            none = self.times.zone == UTC
            zone = ", no zone: taken for UTC, else say --timezone" if none else f", in {self.times.zone}"
        order = "; newest first, read from its end" if self.times.newest_first else ""
        return one_line(f"{self.source}; time: {times} ({self.times.words()}{zone}){order}")

    def holds(self) -> str:
        """One line for people: channels, streams and what is left out."""
        if self.tag_at is not None:
            said = f"long: {self.names[self.tag_at]} names the channels, {self.channels[0].name} has the values"
        else:
            units = {column.name: column.unit for column in self.channels}
            named = [f"{name} ({unit})" if unit and unit not in name else name for name, unit in units.items()]
            more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
            said = f"{len(named)} channel{'s' * (len(named) != 1)}: {listed(named[:MOST_NAMED])}{more}"
        if self.streams:
            said += f"; streams by {' + '.join(self.names[at] for at in self.streams)}"
        if judged := dict.fromkeys(column.quality_at for column in self.channels if column.quality_at is not None):
            said += f"; quality by {listed([self.names[at] for at in judged])}"
        if self.left_out:
            said += f"; left out: {listed([f'{name} ({why})' for name, why in self.left_out.items()])}"
        return one_line("; ".join([said, *self.notes]))
