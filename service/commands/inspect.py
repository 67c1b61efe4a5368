"""gatewatch inspect."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from gatewatch.models.findings import lasted
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.recordings.recording import read_parts
from gatewatch.models.recordings.survey import StreamLook, Survey
from gatewatch.models.scores import iso
from gatewatch.models.text import counted, one_line
from gatewatch.service.cli_support.answers import console_of_tables
from gatewatch.service.cli_support.oddities import by_value
from gatewatch.service.cli_support.reading import OPTION_NAMES, reads_recordings
from gatewatch.service.cli_support.terminal import tell, tell_json

FIRST_ROWS, MOST_COLUMNS, MOST_STREAMS, MOST_CHANNELS = 5, 7, 8, 40
ENOUGH_TO_TRAIN = 2000
"""Readings from which a model of one's own is worth its training."""


@reads_recordings
def inspect(
    file: Annotated[Path, typer.Argument(help="a recording: a table as .csv, .tsv, .parquet or .xlsx")],
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
    *,
    how: ReadOptions,
) -> None:
    """Show how a recording is understood: form, first rows, pace, gaps, channels; and the command to run next."""
    readers: list[Reader] = []
    survey = Survey()
    for part in read_parts(file, options=how, tell=readers.append):
        survey.take(part)
    reader = readers[0]
    command = _next(file, how, survey)
    if as_json:
        tell_json(_as_json(reader, survey, command))
        return
    console = console_of_tables()
    tell(f"{file.name}: {reader.layout.read_as()}\n  {reader.layout.holds()}")
    for remark in reader.remarks():
        tell(f"  {remark}")
    name, first = next(iter(survey.streams.items()))
    tell("" if len(survey.streams) == 1 else f"\n{one_line(name)}, its first readings:")
    console.print(_first_rows(first))
    tell("")
    for name, look in list(survey.streams.items())[:MOST_STREAMS]:
        tell(f"{one_line(name)}: {_pace(look)}")
    if len(survey.streams) > MOST_STREAMS:
        tell(f"and {len(survey.streams) - MOST_STREAMS} more streams")
    tell("")
    _show_channels(console, survey, reader)
    for line in _proposals(survey):
        tell(line)
    tell(f"\nNext: {command}")
    if (training := _training(command, survey)) is not None:
        tell(training)


def _first_rows(look: StreamLook) -> Table:
    channels = look.first.channels[:MOST_COLUMNS]
    table = Table(box=None, pad_edge=False)
    for name in ("time (UTC)", *channels):
        table.add_column(one_line(name).replace("[", r"\["), overflow="fold", no_wrap=name == "time (UTC)")
    for time_us, values in zip(look.first.times_us[:FIRST_ROWS].tolist(), look.first.values.tolist(), strict=False):
        table.add_row(iso(time_us), *(f"{value:.7g}" if np.isfinite(value) else "" for value in values[:MOST_COLUMNS]))
    return table


def _pace(look: StreamLook) -> str:
    """How a stream's readings come."""
    said = f"{look.readings} readings from {iso(look.first_us)} to {iso(look.last_us)}"
    if look.step_us is not None:
        uneven = f", {look.uneven:.0%} of the steps are others" if look.uneven > 0.01 else ""
        said += f", one every {lasted(look.step_us / 1e6)}{uneven}"
    if look.gaps:
        longest = f"the longest of {lasted(look.longest_us / 1e6)} before {iso(look.longest_at_us)}"
        said += f"; {counted(look.gaps, 'gap')}, {longest}"
    if look.back:
        said += f"; times step back {counted(look.back, 'time')}"
    if look.same:
        said += f"; {look.same} have the time of the one before"
    return said


def _show_channels(console: Console, survey: Survey, reader: Reader) -> None:
    """A row for each channel; of several streams, each stream's in turn, so that all of them are seen."""
    units = reader.layout.units
    streams = list(survey.streams.items())[:MOST_STREAMS]
    of_stream = ["stream"] if len(survey.streams) > 1 else []
    table = Table(*of_stream, "channel", "unit", "missing", "lowest", "median", "highest", "", box=None, pad_edge=False)
    for stream, look in streams:
        shown = look.channels[: MOST_CHANNELS // len(streams)]
        for one in shown:
            notes = (["marks readings, no channel for scan and train"] if one.name in look.labels else []) + one.notes()
            figures = [f"{one.low:.6g}", f"{np.median(one.sample):.6g}", f"{one.high:.6g}"] if one.sample else [""] * 3
            share = f"{one.missing / look.readings:.1%}" if one.missing else ""
            words = ([stream] if of_stream else []) + [one.name, units.get(one.name, "")]
            table.add_row(*(one_line(word).replace("[", r"\[") for word in words), share, *figures, "; ".join(notes))
        if len(look.channels) > len(shown):
            said = f"and {len(look.channels) - len(shown)} more channels"
            table.add_row(*([one_line(stream).replace("[", r"\[")] if of_stream else []), said)
    console.print(table)


def _proposals(survey: Survey) -> list[str]:
    found: dict[str, list[str]] = {}
    for look in survey.streams.values():
        for value, codes in by_value(look.codes).items():
            found.setdefault(value, []).extend(code.channel for code in codes)
    return [
        f"{value} stands far from all else in {len(set(channels))} channel{'s' * (len(set(channels)) > 1)} "
        f"({', '.join(map(one_line, list(dict.fromkeys(channels))[:4]))}): a code for missing?"
        for value, channels in found.items()
    ]


def _next(file: Path, how: ReadOptions, survey: Survey) -> str:
    """The command that scans the file, with what was said and what is proposed."""
    said = {name: getattr(how, name) for name in OPTION_NAMES if isinstance(getattr(how, name), str)}
    given = [f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in said.items()]
    codes = {value: None for look in survey.streams.values() for value in by_value(look.codes)}
    missing = dict.fromkeys([*how.missing, *codes])
    given += [f"--missing {shlex.quote(word)}" for word in missing]
    labels = next((label for look in survey.streams.values() for label in look.labels), None)
    if labels is not None and labels not in ("label", "anomaly") and how.label_column is None:
        given.append(f"--label-column {shlex.quote(labels)}")
    given += [f"--leave-out {shlex.quote(name)}" for name in _left_out(how, survey, labels)]
    return " ".join(["gatewatch scan", shlex.quote(str(file)), *given, "--plot scan.html"])


def _left_out(how: ReadOptions, survey: Survey, labels: str | None) -> list[str]:
    """What was left out, and what is proposed to be: counters, and further columns of labels; not all there is."""
    looks = list(survey.streams.values())
    odd = dict.fromkeys(name for look in looks for name in [*look.counters, *look.labels])
    proposed = [name for name in odd if name not in (labels, how.label_column, "label", "anomaly")]
    if set(proposed).issuperset(name for look in looks for name in look.first.channels if name != labels):
        proposed = []
    return list(dict.fromkeys([*how.leave_out, *proposed]))


def _training(scan: str, survey: Survey) -> str | None:
    """The command that trains on the file, where that is worth while and all its streams fit one model."""
    looks = list(survey.streams.values())
    alike = all(look.first.channels == looks[0].first.channels for look in looks)
    if not alike or min(look.readings for look in looks) < ENOUGH_TO_TRAIN:
        return None
    if len(looks) == 1:
        return f"Or, where its beginning was normal: {scan} --train-rows {looks[0].readings // 2}"
    train = scan.replace("gatewatch scan", "gatewatch train", 1).removesuffix("--plot scan.html")
    return f"Or, where all of it was normal: {train}--out model"


def _as_json(reader: Reader, survey: Survey, command: str) -> dict[str, Any]:
    layout = reader.layout
    return {
        "form": layout.read_as(),
        "columns": layout.holds(),
        "remarks": reader.remarks(),
        "streams": [
            {
                "stream": name, "readings": look.readings, "first": iso(look.first_us), "last": iso(look.last_us),
                "step_s": None if look.step_us is None else look.step_us / 1e6, "gaps": look.gaps,
                "longest_gap_s": look.longest_us / 1e6, "steps_back": look.back, "same_time": look.same,
                "channels": [
                    {
                        "channel": one.name, "unit": layout.units.get(one.name), "missing": one.missing,
                        "lowest": one.low if one.sample else None, "highest": one.high if one.sample else None,
                        "notes": one.notes(),
                    }
                    for one in look.channels
                ],
                "perhaps_missing": list(by_value(look.codes)), "labels": look.labels,
            }
            for name, look in survey.streams.items()
        ],
        "next": command,
    }  # fmt: skip
