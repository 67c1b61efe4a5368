"""Pictures of what a detector said: values, score, flags, alerts and labels of a series in one PNG.

    python -m benchmarks.quality.plots OUT DATA [--sets nab] [--detector lstm] [--series realTweets/Twitter_volume_FB]

OUT is the folder that `benchmarks.quality` wrote. Without --series, the ten clearest detections and ten misses or false
alarms of each set are listed, and drawn with the rows around them. PNGs go to OUT/plots/<detector>/<set>/.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.peers import standardise
from benchmarks.quality.series import SETS, Series, Span, read_set

LISTED = 10
CHANNELS = 5
"""Most channels in a picture: those whose labelled rows differ most from the others."""

JOIN = 200
"""Flagged rows with fewer than so many rows between them are listed as one alarm."""


@dataclass(frozen=True)
class Finding:
    """Something to look at: a labelled event, found or missed, or a false alarm.

    Attributes:
        clearness: highest score in these rows over the highest of the series' unlabelled rows, or over the threshold
            of 1.0 if that is more; for a false alarm, the highest score itself.
    """

    kind: str
    series: Series
    rows: Span
    clearness: float


def load_scores(out: Path, detector: str, set_name: str, one: Series) -> pd.DataFrame:
    """Score, flag and alert of each row of a series, as `benchmarks.quality` keeps them."""
    return pd.read_csv(out / detector / set_name / f"{one.name}.csv")


def findings(one: Series, scored: pd.DataFrame) -> list[Finding]:
    """All labelled events and false alarms of a series."""
    score, flag, label = scored["score"].to_numpy(float), scored["flag"].to_numpy(bool), one.labels()
    calm = score[one.probation :][~label[one.probation :]]
    highest = max(float(calm.max(initial=0.0)), 1.0)
    found = []
    for first, last in one.events:
        rows = slice(first, last + 1)
        kind = "detection" if flag[rows].any() else "miss"
        found.append(Finding(kind, one, (first, last), float(score[rows].max()) / highest))
    flagged = np.flatnonzero(flag)
    alarms = np.split(flagged, 1 + np.flatnonzero(np.diff(flagged) > JOIN)) if flag.any() else []
    false = [alarm for alarm in alarms if not label[alarm].any()]
    found += [Finding("false alarm", one, (int(at[0]), int(at[-1])), float(score[at].max())) for at in false]
    return found


def clearest(found: list[Finding]) -> list[Finding]:
    """The ten clearest detections, then ten misses and false alarms, half of each if there are enough.

    Of a series' false alarms only the clearest is taken, or one noisy series would fill the list.
    """

    def of(kind: str) -> list[Finding]:
        return sorted((one for one in found if one.kind == kind), key=lambda one: -one.clearness)

    alarms = list({one.series.name: one for one in reversed(of("false alarm"))}.values())
    alarms.sort(key=lambda one: -one.clearness)
    misses = of("miss")[::-1][: max(LISTED // 2, LISTED - len(alarms))]
    return of("detection")[:LISTED] + misses + alarms[: LISTED - len(misses)]


def draw(one: Series, scored: pd.DataFrame, path: Path, title: str, around: Span | None = None) -> None:
    """Write the PNG of a series: all its rows, or those around a span, three times as wide and 300 rows at least."""
    start, stop = (0, one.rows) if around is None else _around(one, around)
    shown = np.sort(_telling(one, one.labels() if around is None else _span(one.rows, around))[:CHANNELS])
    figure = Figure(figsize=(12, 1.4 * len(shown) + 2.6), layout="constrained")
    panels = figure.subplots(len(shown) + 1, 1, sharex=True, squeeze=False)
    rows, axes = np.arange(start, stop), list(panels[:, 0])
    for axis, channel in zip(axes, shown, strict=False):
        axis.plot(rows, one.values[-one.rows :][start:stop, channel], linewidth=0.7, color="black")
        axis.set_ylabel(one.targets[channel], fontsize=7)
    axes[-1].plot(rows, np.clip(scored["score"].to_numpy(float)[start:stop], 1e-3, 1e4), linewidth=0.7, color="C0")
    axes[-1].axhline(1.0, color="grey", linestyle=":", linewidth=0.8)
    axes[-1].set(yscale="log", ylabel="score", xlabel="row")
    for axis in axes:
        _mark(axis, one, scored, (start, stop), flags=axis is axes[-1])
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def draw_panel(axes: Any, one: Series, scored: pd.DataFrame, around: Span) -> None:
    """The channel that tells most of the rows around a span, and the score above it, into one panel."""
    start, stop = _around(one, around)
    channel = int(_telling(one, _span(one.rows, around))[0])
    axes.plot(np.arange(start, stop), one.values[-one.rows :][start:stop, channel], linewidth=0.7, color="black")
    axes.set_ylabel(one.targets[channel], fontsize=6)
    above = axes.twinx()
    above.plot(np.arange(start, stop), np.clip(scored["score"].iloc[start:stop], 1e-2, 1e3), linewidth=0.6, color="C0")
    above.set(yscale="log")
    _mark(above, one, scored, (start, stop), flags=True)


def _around(one: Series, span: Span) -> Span:
    """Three times as wide, 300 rows at least."""
    margin = max(span[1] - span[0] + 1, 150)
    return max(span[0] - margin, 0), min(span[1] + margin, one.rows)


def _mark(axis: Any, one: Series, scored: pd.DataFrame, shown: Span, *, flags: bool) -> None:
    """Labels as red bands, alerts as blue lines, flagged rows as orange ticks, what may be learned from in grey."""
    for first, last in one.events:
        if last >= shown[0] and first < shown[1]:
            axis.axvspan(first - 0.5, last + 0.5, color="red", alpha=0.15, linewidth=0)
    if one.probation > shown[0]:
        axis.axvspan(shown[0], one.probation, color="grey", alpha=0.15, linewidth=0)
    for row in np.flatnonzero(scored["alert"]):
        if shown[0] <= row < shown[1]:
            axis.axvline(row, color="blue", linewidth=0.8, alpha=0.7)
    if flags:
        at = np.flatnonzero(scored["flag"])
        at = at[(at >= shown[0]) & (at < shown[1])]
        axis.plot(at, np.ones(len(at)), "|", color="orange", markersize=9)
    axis.set_xlim(shown[0], shown[1] - 1)


def _telling(one: Series, inside: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Channels in order of how far the rows inside lie from the others, in the others' spreads."""
    values = standardise(one.values, one.train_rows)[-one.rows :]
    if inside.all() or not inside.any():
        return np.arange(values.shape[1])
    others = values[~inside]
    distance = np.abs(values[inside] - others.mean(0)).mean(0) / np.maximum(others.std(0), 1e-3)
    return np.argsort(-distance)


def _span(rows: int, span: Span) -> NDArray[np.bool_]:
    inside = np.zeros(rows, bool)
    inside[span[0] : span[1] + 1] = True
    return inside


def main() -> None:
    """Draw the series asked for, or list and draw what stands out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--detector", default="gatewatch")
    parser.add_argument("--series", help="names, comma separated; all their rows are drawn")
    options = parser.parse_args()
    for name in options.sets.split(","):
        if not (options.out / options.detector / name / "measured.json").exists():
            continue
        series = {one.name: one for one in read_set(options.data, name, options.out)}
        folder = options.out / "plots" / options.detector / name
        if options.series:
            for one in (series[wanted] for wanted in options.series.split(",") if wanted in series):
                scored = load_scores(options.out, options.detector, name, one)
                draw(one, scored, folder / f"{one.name}.png", f"{options.detector}: {name}, {one.name}")
            continue
        scored_series = {key: load_scores(options.out, options.detector, name, one) for key, one in series.items()}
        listed = clearest([found for key, one in series.items() for found in findings(one, scored_series[key])])
        table = Table("", "what", "series", "rows", "clearness", title=f"{name}, {options.detector}")
        for number, found in enumerate(listed, 1):
            one, (first, last) = found.series, found.rows
            table.add_row(str(number), found.kind, one.name, f"{first} to {last}", f"{found.clearness:.3g}")
            title = f"{options.detector}: {found.kind} in {name}, {one.name}, rows {first} to {last}"
            path = folder / f"{number:02d}-{found.kind.replace(' ', '-')}.png"
            draw(one, scored_series[one.name], path, title, found.rows)
        Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
