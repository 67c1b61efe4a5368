"""All sets in two tables, a row a detector: how much is found, and what false alarms it takes; what ships and what was
chosen without each set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks.quality.measures import MAIN, Counts, figures, interval, resamples
from benchmarks.quality.variants import CHANGES, VARIANTS, chosen_without

SHORT = {"smap_msl": "SMAP/MSL", "tep": "TEP"}
ABOUT = "Event F1; of NAB standard points by alert, of SKAB F1 of rows."
FALSE = "False alerts a week; of all but NAB, normal rows flagged, %."
LEFT_OUT = (
    "`left out`: of each set the figure of that version which is the best on all other sets, of what ships and the "
    "variants that were run on all of them; in brackets which, if not what ships."
)

Rows = list[list[str]]
Cell = Callable[[str, Counts], str]


def overview(measured: Mapping[str, Mapping[str, Counts]]) -> Iterator[tuple[str, str, list[str], Rows]]:
    """Title, what it says, header and rows of each table.

    Args:
        measured: counts by set, then by detector.
    """
    found = {detector: dict.fromkeys(measured, detector) for detector in _plain(measured)}
    for base in CHANGES:
        chosen = {name: which for name in measured if (which := chosen_without(name, measured, base)) is not None}
        if chosen:
            found[f"{base}, left out"] = chosen
    header = ["detector", *(SHORT.get(name, name.upper() if len(name) < 5 else name) for name in measured)]
    for title, about, cell in (("All sets: found", ABOUT, _found), ("All sets: false alarms", FALSE, _false)):
        rows = [
            [title_of, *(_cell(measured[name], title_of, which.get(name), cell, name) for name in measured)]
            for title_of, which in found.items()
        ]
        yield title, f"{about} {LEFT_OUT}", header, rows


def _plain(measured: Mapping[str, Mapping[str, Counts]]) -> list[str]:
    return list({detector: None for of in measured.values() for detector in of if detector not in VARIANTS})


def _cell(of: Mapping[str, Counts], row: str, which: str | None, cell: Cell, name: str) -> str:
    if which is None or which not in of:
        return ""
    variant = which.partition("@")[2]
    return cell(name, of[which]) + (f" [{variant}]" if variant and row != which else "")


def _found(name: str, counts: Counts) -> str:
    column, places = MAIN[name][0], 1 if name == "nab" else 3
    value = float(figures(name, counts)[column][0])
    if len(counts) == 1:
        return f"{value:.{places}f}"
    low, high = interval(figures(name, counts, resamples(len(counts)))[column])
    return f"{value:.{places}f} ({low:.{places}f} to {high:.{places}f})"


def _false(name: str, counts: Counts) -> str:
    value = {column: float(of[0]) for column, of in figures(name, counts).items()}
    shown = f"{value['false/week']:.2f}"
    return shown if "FAR %" not in value else f"{shown}; {value['FAR %']:.2f} %"
