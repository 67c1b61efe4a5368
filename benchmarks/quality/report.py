"""Tables of what was measured: Markdown for a file, rich for the terminal, from the same cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.quality.measures import MAIN, Counts, figures, interval, resamples
from benchmarks.quality.overview import overview

NAMES = {
    "nab": "NAB",
    "skab": "SKAB",
    "smap_msl": "SMAP / MSL",
    "smd": "SMD",
    "asd": "ASD, servers",
    "gecco": "GECCO, drinking water",
    "tep": "Tennessee Eastman",
    "motes": "Wireless motes",
    "hvac": "Air handler",
    "injected": "Injected anomalies",
    "cycles": "Cycles",
}

ALERTS = ("alert R", "alert F1", "false/week")
EVENTS = ("event P", "event R", "event F1", "FAR %", *ALERTS, "composite", "AUC-PR", "VUS-PR")
COLUMNS = dict.fromkeys(NAMES, EVENTS) | {
    "nab": (
        *("standard", "low FP", "low FN", "hit", "false alerts", "by flag", "best threshold"),
        *(*ALERTS, "AUC-PR", "VUS-PR"),
    ),
    "skab": ("F1", "FAR %", "MAR %", *ALERTS, "AUC-PR", "VUS-PR"),
    "cycles": ("top", *EVENTS),
}
MEANING = (
    "Flags at most 60 rows apart are one event; FAR: share of normal rows flagged; composite: harmonic mean of the "
    "precision of rows and the recall of events. `alert`: an event is found if an alert goes out in it."
)
NOTES = dict.fromkeys(NAMES, MEANING) | {
    "nab": "`standard`, `low FP`, `low FN`: points by alert as shipped, nothing optimised; `hit` windows and "
    "`false alerts` by alert; `by flag`: every anomalous row counts; `best threshold`: standard points by score, with "
    "the one threshold for all series that is best on these labels. AUC-PR and VUS-PR: mean over series with windows.",
    "skab": "F1, FAR, MAR: all test rows together. AUC-PR and VUS-PR: mean over series.",
    "smap_msl": f"{MEANING.replace('60', '100')} Peers and `-target` see `value` only, others all.",
    "smd": f"{MEANING} Four series: intervals say little.",
    "tep": f"{MEANING} Chance has an event F1 of 0.59.",
    "cycles": f"{MEANING} `top`: streams whose highest score is in their one event, or right after.",
    "hvac": f"{MEANING} Chance has an event F1 of 0.68.",
}


WIDTH = 150
"""Columns at least: the widest table."""


@dataclass(frozen=True)
class Measured:
    """One detector on one set."""

    seconds: float
    state_bytes: int | None
    counts: Counts


def report(measured: Mapping[str, Mapping[str, Measured]], pairs: list[tuple[str, str]], out: Path) -> None:
    """Print the tables of every set and write them to `out`.

    Args:
        measured: by set, then by detector.
        pairs: detectors to compare series by series, the second subtracted from the first.
    """
    console, text = Console(width=max(Console().width, WIDTH)), []
    for title, about, header, rows in overview({name: _counts(of) for name, of in measured.items()}):
        text.append(f"## {title}\n\n{about}\n\n{markdown(header, rows)}")
        _print(console, title, header, rows)
    for name, detectors in measured.items():
        title = f"{NAMES[name]}, {len(next(iter(detectors.values())).counts)} series"
        header = ["detector", *COLUMNS[name], "seconds", "state, bytes"]
        rows = [[detector, *_cells(name, found)] for detector, found in detectors.items()]
        text.append(f"## {title}\n\n{NOTES[name]}\n\n{markdown(header, rows)}")
        _print(console, title, header, rows)
        compared = [pair for pair in pairs if set(pair) <= set(detectors)]
        header = ["difference", *MAIN[name]]
        rows = [[f"{a} - {b}", *_differences(name, detectors[a], detectors[b])] for a, b in compared]
        if rows:
            text.append(markdown(header, rows))
            _print(console, f"{NAMES[name]}, paired differences", header, rows)
    about = "In brackets: 95 % of a bootstrap over series.\n"
    out.write_text(f"# Detection quality\n\n{about}\n" + "\n".join(text))


def _counts(detectors: Mapping[str, Measured]) -> dict[str, Counts]:
    return {detector: found.counts for detector, found in detectors.items()}


def _cells(name: str, found: Measured) -> list[str]:
    value = figures(name, found.counts)
    drawn = figures(name, found.counts, resamples(len(found.counts)))
    cells = []
    for column in COLUMNS[name]:
        shown = _shown(column, float(value[column][0]), name)
        if column in MAIN[name]:
            low, high = interval(drawn[column])
            shown += f" ({_shown(column, low, name)} to {_shown(column, high, name)})"
        cells.append(shown)
    return [
        *cells,
        f"{found.seconds:.{1 if found.seconds < 10 else 0}f}",
        "" if found.state_bytes is None else f"{found.state_bytes:,}",
    ]


def _differences(name: str, first: Measured, second: Measured) -> list[str]:
    weights = resamples(len(first.counts))
    other = {series: second.counts[series] for series in first.counts}  # the same order of series
    value, drawn = (
        {column: figures(name, first.counts, w)[column] - figures(name, other, w)[column] for column in MAIN[name]}
        for w in (None, weights)
    )
    cells = []
    for column in MAIN[name]:
        low, high = interval(drawn[column])
        places = _places(column, name)
        cells.append(f"{value[column][0]:+.{places}f} ({low:+.{places}f} to {high:+.{places}f})")
    return cells


def _places(column: str, name: str) -> int:
    if column in ("hit", "false alerts"):
        return 0
    if column in ALERTS:
        return 3
    return 1 if "%" in column or (name == "nab" and "PR" not in column) else 3


def _shown(column: str, value: float, name: str) -> str:
    return f"{value:.{_places(column, name)}f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _print(console: Console, title: str, header: list[str], rows: list[list[str]]) -> None:
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
