"""Columns to their roles: time, channels, names of streams, a long table's names and values; by name and content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.column_names import GOOD, ID_NAME, INFLUX, POOR, QUALITY_NAME, ROW_NAMES, TAG_NAMES
from gatewatch.models.recordings.label_names import is_like_label
from gatewatch.models.recordings.layout import Column, Layout
from gatewatch.models.recordings.looks import Look
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.sniffing import plain_name
from gatewatch.models.recordings.time_columns import column_called, joined_cells, time_columns, time_style, with_order
from gatewatch.models.recordings.values import unit_in_header
from gatewatch.models.text import listed


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
    if options.every_us:
        roles = _Roles(where, looks, options, set(), range(len(rows)), annotated)
        return replace(base, **roles.found(base), every_us=options.every_us)
    time_at = time_columns(where, looks, options)
    style = time_style(where, looks, time_at, options, everything)
    cells = joined_cells(looks, time_at)
    style, times = with_order(style, cells)
    named_zone = all(
        isinstance(cell, str) and re.search(r"(Z|UTC|GMT|[+-]\d\d:?\d\d)\s*$", cell) for cell in cells[:20]
    )
    roles = _Roles(where, looks, options, set(time_at), times, annotated)
    return replace(base, times=style, time_at=tuple(time_at), **roles.found(base), no_zone=not named_zone)


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
        rest = [look for look in looks if look.at not in taken and not self._is_asked_out(look)]
        rest = [look for look in rest if not self._leave_out(look, annotated)]
        quality = [look for look in rest if len(rest) > 1 and self._says_quality(look)]
        rest = [look for look in rest if look not in quality]
        texts, values = self._split(rest)
        self._name_streams(texts, values)
        for look in texts:
            if look.at not in (*self.streams, self.tag_at):
                self.left_out[look.name] = _kind_of(look)
        values = [look for look in values if look.at not in (*self.streams, self.tag_at)]
        self.channels = tuple(self._channel(look, quality, len(values)) for look in values)
        self._note_not_found()
        if not self.channels:
            raise RecordingError(f"{where}: no channel; expected at least one column beside timestamp" + self._why())

    def found(self, base: Layout) -> dict[str, Any]:
        """What is filled into a layout."""
        return {
            "channels": self.channels, "streams": tuple(self.streams), "tag_at": self.tag_at,
            "left_out": self.left_out, "notes": (*base.notes, *self.notes),
        }  # fmt: skip

    def _why(self) -> str:
        for look in self._looks:
            odd = next((place for place, cell in enumerate(look.cells) if look.is_word(cell)), None)
            if look.name in self.left_out and odd is not None:
                return f"; row {odd + 2}, column {look.name}: {look.cells[odd]!r:.80} is not a number"
        return ""

    def _is_asked_out(self, look: Look) -> bool:
        """Whether the user leaves a column out."""
        asked = bool(look.name) and look.name in self._options.leave_out
        if asked:
            self.left_out[look.name] = "as asked"
        return asked

    def _note_not_found(self) -> None:
        """Tell which columns that are to be left out are none; those of a long table stand in its cells."""
        absent = [name for name in self._options.leave_out if name not in self.left_out]
        if absent and self.tag_at is None:
            self.notes.append(f"nothing to leave out by the name {listed(absent)}")

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
        if "192" in seen and look.whole is not None:
            return True
        named = re.search("qual|qc|güte|guete|calid", look.name.lower()) is not None  # a machine has a status, too
        told = "good" in seen or named
        return bool(look.texts) and told and seen <= GOOD | POOR

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
        return column_called(self._where, self._looks, tag.strip()), column_called(
            self._where, self._looks, measured.strip()
        )

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
                if look.whole is not None and ID_NAME.fullmatch(plain_name(look.name))
                and (self._parts_times([look.at]) or self._options.every_us)
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


def _kind_of(look: Look) -> str:
    """What a column that has no numbers has, in a word."""
    if look.dates * 2 > look.known:
        return "times"
    formulas = sum(count for text, count in look.texts.items() if text.startswith("="))
    return "formulas: export values" if formulas * 2 > look.known else "words"


def _check_names(where: str, names: Sequence[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1 and name)
    if twice:
        raise RecordingError(f"{where}: column {listed(twice)} stands twice in the header; give each a name of its own")
