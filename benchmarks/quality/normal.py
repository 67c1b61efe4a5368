"""False alarms on the normal parts of the real sets: what was asked, and what was kept.

    python -m benchmarks.quality.normal OUT DATA [--sets nab,smd] [--detectors general,gatewatch] [--plot FILE.png]

OUT is what `benchmarks.quality` wrote. Normal are the rows that no label covers, behind those to learn from. The
general model is asked for one alert a week, and never more than one in 400 readings; trained models for a thousandth of
the normal rows. Rows right after an event count as normal, and so do anomalies that nobody labelled.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.quality.plots import load_scores
from benchmarks.quality.report import NAMES
from benchmarks.quality.series import SETS, Series, read_set

READINGS_AN_ALERT = 400
"""models.detectors.general.alert_budget: the general model alerts no more often, for each alert a week that is
allowed."""


@dataclass(frozen=True)
class Kept:
    """The normal part of one series, by what a detector said of it.

    Attributes:
        weeks: how long it is.
        allowed: alerts of the general model in it, with its budget of one a week.
        alerts: raised.
        flagged: share of its rows judged anomalous.
    """

    weeks: float
    allowed: float
    alerts: int
    flagged: float


def kept(one: Series, scored: pd.DataFrame) -> Kept:
    """Count the false alarms of one series."""
    normal = ~one.labels()
    normal[: one.probation] = False
    weeks = one.weeks * float(normal.sum()) / (one.rows - one.probation)
    return Kept(
        weeks,
        min(weeks, float(normal.sum()) / READINGS_AN_ALERT),
        int(scored["alert"].to_numpy(bool)[normal].sum()),
        float(scored["flag"].to_numpy(bool)[normal].mean()),
    )


def main() -> None:
    """Print asked and kept by set and detector; plot how the streams differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--detectors", default="general,general-target,gatewatch")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    table = Table(title="normal parts")
    for column in (
        "set",
        "detector",
        "streams",
        "weeks",
        "alerts",
        "a week",
        "allowed",
        "flagged rows",
        "median stream",
    ):
        table.add_column(column, justify="right")
    found = {}
    for name in options.sets.split(","):
        series = read_set(options.data, name, options.out)
        for detector in options.detectors.split(","):
            if (options.out / detector / name / "measured.json").exists():
                ours = [kept(one, load_scores(options.out, detector, name, one)) for one in series]
                found[f"{NAMES[name]}, {detector}"] = ours
                table.add_row(NAMES[name], detector, *_cells(ours))
    Console(width=130).print(table)
    if options.plot:
        _plot(options.plot, found)


def _cells(ours: list[Kept]) -> list[str]:
    weeks, alerts = sum(one.weeks for one in ours), sum(one.alerts for one in ours)
    flagged = np.array([one.flagged for one in ours])
    return [
        f"{len(ours)}",
        f"{weeks:.2f}",
        f"{alerts}",
        f"{alerts / weeks:.2f}",
        f"{sum(one.allowed for one in ours):.2f}",
        f"{flagged.mean():.2%}",
        f"{np.median(flagged):.2%}",
    ]


def _plot(path: Path, found: dict[str, list[Kept]]) -> None:
    """Streams by the share of their normal rows judged anomalous; alerts of the general model, asked and kept."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, ours in found.items():
        shares = np.sort([max(one.flagged, 1e-5) for one in ours])
        left.step((np.arange(len(shares)) + 1) / len(shares), shares, where="pre", label=label, linewidth=1)
        if "general" not in label:
            continue
        allowed, alerts = sum(one.allowed for one in ours), sum(one.alerts for one in ours)
        right.errorbar([allowed], [max(alerts, 0.5)], [[min(alerts, alerts**0.5)], [alerts**0.5]], fmt="o", label=label)
    left.axhline(1e-3, color="grey", linestyle=":")
    left.set(yscale="log", xlabel="share of the streams", ylabel="normal rows judged anomalous (dotted: 0.001)")
    ends = np.array([0.01, 300.0])
    right.plot(ends, ends, color="black", linewidth=0.8)
    right.fill_between(ends, ends / 1.5, ends * 1.5, color="0.9")
    right.set(xscale="log", yscale="log", xlabel="alerts allowed (one a week)", ylabel="alerts raised, ± their root")
    for axes in (left, right):
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
