"""A comparison for people: one table, and its plots, as HTML, CSV and SVG."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from gatewatch.models.training.compare import STEPPED, Compared, Comparison
from gatewatch.models.training.page import COLOURS, PLOT_STYLE, paragraph, svg, table, write, write_page

PAGE, TABLE = "compare.html", "compare.csv"

NAN = float("nan")

Number = Callable[[Compared], float]

COLUMNS: dict[str, tuple[str, Number]] = {
    "loss": (".4f", lambda one: one.loss),
    "standard error": (".4f", lambda one: one.standard_error),
    "calibration error": (".4f", lambda one: one.calibration_error),
    "false alarms kept": (".5f", lambda one: one.false_alarm_rate),
    "parameters": (",.0f", lambda one: one.parameters),
    "epochs": (".0f", lambda one: len(one.trained.fitted.history)),
    "training s": (".0f", lambda one: one.trained.fitted.seconds),
    "step µs": (".0f", lambda one: one.step_us[0] if one.step_us else NAN),
    f"µs in {STEPPED:,}": (".2f", lambda one: one.step_us[1] if one.step_us else NAN),
    "state bytes": (",.0f", lambda one: NAN if one.state_bytes is None else one.state_bytes),
}
"""Title to format and value of what every comparison has."""

DETECTION = {
    "precision": ".3f", "recall": ".3f", "F1": ".3f", "event precision": ".3f", "event recall": ".3f",
    "event F1": ".3f", "VUS-PR": ".3f", "delay (readings)": ".0f", "false alarms per stream and week": ".2f",
}  # fmt: skip
"""Figures of models.evaluation.evaluate that stand in the table where there are labels, and their formats."""

WITHOUT_PANEL = ("standard error", "epochs")
SHARES = ("precision", "recall", "F1", "event precision", "event recall", "event F1", "VUS-PR")


def columns(comparison: Comparison) -> dict[str, tuple[str, Number]]:
    """Title to format and value of every column after the architecture's name."""
    if comparison.compared[0].evaluation is None:
        return COLUMNS
    return COLUMNS | {name: (form, _figure(name)) for name, form in DETECTION.items()}


def lines(comparison: Comparison) -> list[list[str]]:
    """The table as texts: a line for each quantity, a cell for each architecture; a dash where there is no number."""
    found = []
    for name, (form, value) in columns(comparison).items():
        values = [value(one) for one in comparison.compared]
        found.append([name, *("-" if math.isnan(value) else format(value, form) for value in values)])
    return found


def as_object(comparison: Comparison) -> dict[str, Any]:
    """The figures for a script: by architecture, each under its name in the table; NaN where there is none."""
    figures = columns(comparison)
    return {
        "recommended": comparison.recommended or None,
        "reason": comparison.reason,
        "architectures": {
            one.architecture: {"live": one.live, **{name: value(one) for name, (_, value) in figures.items()}}
            for one in comparison.compared
        },
        "failed": comparison.failed,
    }


def header(comparison: Comparison) -> list[str]:
    """What stands above those lines; a star behind what cannot score a running stream."""
    return ["", *(_name(one) for one in comparison.compared)]


def notes(comparison: Comparison) -> list[str]:
    """What a reader of the table has to know."""
    first = comparison.compared[0]
    said = [
        "Loss: minus the log-likelihood of unseen normal readings, in nats a value, up to a constant that all share; "
        "less is better. Its standard error is that of one loss, not of the difference between two, and of the "
        "readings, not of the training: another seed may come to another loss.",
        "Calibration error: how far the shares of unseen values below the forecast's 5 %, 10 %, ... 95 % quantiles are "
        "from those, on average; 0 is best.",
        f"False alarms: asked for {comparison.asked:g} of normal readings, so {comparison.asked * first.judged:.1f} of "
        f"the {first.judged} unseen ones.",
    ]
    stopped = {one.architecture: one.trained.fitted.stopped_because for one in comparison.compared}
    limited = [name for name, reason in stopped.items() if "limit" in reason]
    if limited:
        said.append(f"Ended by the time limit, and not necessarily trained to the end: {', '.join(limited)}.")
    if not all(one.live for one in comparison.compared):
        said.append(
            "* knows the readings after the one it forecasts: for finished recordings only. Its loss is not to be held "
            "against the others', and it is never recommended."
        )
    if first.evaluation is not None:
        said.append(f"Detection: {first.evaluation.events_judged} events in {first.evaluation.judged} readings.")
    return said + [f"{name} could not be trained: {reason}." for name, reason in comparison.failed.items()]


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write compare.html, compare.csv and the plots as SVG into a folder.

    Raises:
        GatewatchError: a file cannot be written.
    """
    with matplotlib.rc_context(PLOT_STYLE):
        plots = {
            "Figures": svg(_bars(comparison)),
            "Loss and cost": svg(_cost(comparison)),
            "Training": svg(_curves(comparison)),
        }
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["architecture", *columns(comparison), "recommended"])
    for one in comparison.compared:
        values = [value(one) for _, value in columns(comparison).values()]
        numbers = ["" if math.isnan(value) else f"{value:.7g}" for value in values]
        rows.writerow([one.architecture, *numbers, int(one.architecture == comparison.recommended)])
    write(folder / TABLE, text.getvalue())
    for name, plot in plots.items():
        write(folder / f"{name.lower().replace(' ', '-')}.svg", plot)
    names = [one.architecture for one in comparison.compared]
    chosen = 1 + names.index(comparison.recommended) if comparison.recommended else None
    summary = table(header(comparison), lines(comparison), chosen)
    said = "".join(paragraph(note, "note") for note in notes(comparison))
    parts = [("Recommended", paragraph(comparison.reason)), ("Table", summary + said), *plots.items()]
    write_page(folder / PAGE, "Architectures compared", parts)


def _name(one: Compared) -> str:
    return one.architecture if one.live else f"{one.architecture} *"


def _figure(name: str) -> Number:
    return lambda one: NAN if one.evaluation is None else one.evaluation.figures[name].value


def _bars(comparison: Comparison) -> Figure:
    """A panel for each column, a line for each architecture; the recommended one stands out."""
    shown = {name: value for name, (_, value) in columns(comparison).items() if name not in WITHOUT_PANEL}
    rows = -(-len(shown) // 4)
    names = [_name(one) for one in comparison.compared]
    figure = Figure(figsize=(12, rows * (0.7 + 0.24 * len(names))), layout="constrained")
    panels = figure.subplots(rows, 4, sharey=True, squeeze=False).ravel()
    for axis, (name, value) in zip(panels, shown.items(), strict=False):
        _panel(axis, comparison, name, value)
    for axis in panels[len(shown) :]:
        axis.set_visible(False)
    return figure


def _panel(axis: Any, comparison: Comparison, name: str, value: Number) -> None:
    compared = comparison.compared
    places, values = range(len(compared)), [value(one) for one in compared]
    colours = [COLOURS[1] if one.architecture == comparison.recommended else COLOURS[0] for one in compared]
    axis.set_title(name, fontsize=9)
    axis.set_yticks(places, [_name(one) for one in compared])
    axis.set_ylim(len(compared) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    if name == "loss":
        errors = [one.standard_error for one in compared]
        axis.errorbar(values, places, xerr=errors, fmt="none", ecolor=COLOURS[5], zorder=1)
        axis.scatter(values, places, c=colours, s=24, zorder=2)
        return
    axis.barh(places, values, color=colours, height=0.62)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    if name == "false alarms kept":
        axis.axvline(comparison.asked, color="black", linestyle="--", linewidth=1)
        axis.set_title(f"{name} (line: asked)", fontsize=9)
        axis.set_xlim(0, 1.3 * np.nanmax([*values, comparison.asked]))
    evaluation = compared[0].evaluation
    if evaluation is not None and name in evaluation.figures:
        _intervals(axis, compared, name, values)
    if name in SHARES:
        axis.set_xlim(0, 1.02)
    elif axis.dataLim.x1 <= 0 or not any(np.isfinite(values)):  # nothing but zeros, or nothing
        axis.set_xlim(0, 1)


def _intervals(axis: Any, compared: list[Compared], name: str, values: list[float]) -> None:
    """The bootstrap's intervals as lines over the bars, where there are some."""
    for place, (one, value) in enumerate(zip(compared, values, strict=True)):
        figure = one.evaluation.figures[name] if one.evaluation else None
        if figure is not None and not math.isnan(figure.low) and not math.isnan(value):
            axis.plot([figure.low, figure.high], [place, place], color="black", linewidth=0.9)


def _cost(comparison: Comparison) -> Figure:
    """Loss against what a reading costs; down and left is better."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for one in comparison.compared:
        if one.step_us is None:
            continue
        colour = COLOURS[1] if one.architecture == comparison.recommended else COLOURS[0]
        axis.errorbar(
            one.step_us[1], one.loss, yerr=one.standard_error, fmt="o", color=colour, markersize=5, elinewidth=0.8
        )
        axis.annotate(one.architecture, (one.step_us[1], one.loss), textcoords="offset points", xytext=(6, 4))
    axis.set(xlabel=f"µs a reading, in a batch of {STEPPED:,}", ylabel="loss of unseen readings, nats a value")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.15)
    return figure


def _curves(comparison: Comparison) -> Figure:
    """Held-out loss over the seconds of each training."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axis = figure.subplots()
    ends = []
    for number, one in enumerate(comparison.compared):
        history, passed = one.trained.fitted.history, 0.0
        seconds = [passed := passed + report.seconds for report in history]
        losses = [report.held_out_loss for report in history]
        style = "--" if number >= len(COLOURS) else "-"
        axis.plot(
            seconds, losses, style, color=COLOURS[number % len(COLOURS)], marker=".", markersize=3, label=_name(one)
        )
        ends += losses[len(losses) // 4 :]
    low, high = min(ends), max(ends)
    axis.set_ylim(low - 0.05 * (high - low) - 1e-6, high + 0.15 * (high - low) + 1e-6)
    axis.set(xlabel="seconds of training", ylabel="held-out loss, nats a value")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
