"""The report of a training: what it learned, how far off its forecasts are, and what its thresholds let through.

All but the loss curves is of the held-out parts, which the network was not fitted to; its thresholds were, however.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact
from gatewatch.models.detectors.detector import WARMING_UP
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Source
from gatewatch.models.scan import Scan, scan_together
from gatewatch.models.training.page import COLOURS, PLOT_STYLE, label, paragraph, svg, table, write_page
from gatewatch.models.training.trained.sample import splits_to_calibrate
from gatewatch.models.training.trained.train import Trained, same_channels
from gatewatch.models.training.trained.windows import usable

SECTION = 300
"""Readings in a section of forecasts."""

CHANNELS = 5
"""Most channels in a plot of forecasts and of residuals: those that are forecast worst, in spreads."""

QUANTILES, LARGEST = 400, 6.0
"""Points of a QQ plot, and error scales beyond which a residual is drawn at the edge."""

Floats = NDArray[np.float64]


def write_report(trained: Trained, recordings: Sequence[Source], path: Path) -> None:
    """Write the report as one HTML file that needs no other.

    Args:
        recordings: those that `trained` was trained on.

    Raises:
        GatewatchError: the file cannot be written.
    """
    manifest = trained.manifest
    held_out = float(manifest.architecture_settings["held_out"])
    splits = splits_to_calibrate(usable(same_channels(recordings), held_out), held_out)
    detector = TrainedDetector(Artefact(manifest, trained.graph, bytes(8)))
    scans = scan_together(detector, [split.recording for split in splits])
    rows = [split.held_out_from for split in splits]
    errors = _errors(scans, rows)
    shown = [int(at) for at in np.argsort(-errors[:, 0] / detector.scaling.spread)[:CHANNELS]]
    with matplotlib.rc_context(PLOT_STYLE):
        parts = [
            ("Summary", _summary(trained)),
            ("Loss", svg(_losses(trained))),
            ("Forecast against reading", _forecasts(scans, rows, sorted(shown))),
            ("Residuals", svg(_residuals(scans, rows, detector.channels, shown))),
            ("Threshold and false alarms", svg(_false_alarms(scans, rows, manifest.calibration.false_alarm_rate))),
            ("Errors by channel", _errors_by_channel(detector.channels, errors)),
        ]
    write_page(path, "Training report", parts)


def _summary(trained: Trained) -> str:
    manifest, fitted = trained.manifest, trained.fitted
    calibration, settings = manifest.calibration, manifest.architecture_settings
    lines = [
        ["architecture", f"{manifest.architecture}, {settings['layers']} layers of {settings['hidden']} units"],
        ["parameters", f"{sum(parameter.numel() for parameter in fitted.network.parameters()):,}"],
        ["readings", f"{manifest.training['readings']:,} of {manifest.training['recordings']} recordings"],
        ["held-out loss", f"{manifest.training['held_out_loss']:.4f} nats a value, epoch {fitted.best_epoch}"],
        ["training", f"{fitted.seconds:.0f} s; {fitted.stopped_because}"],
        ["false-alarm rate asked", f"{calibration.false_alarm_rate:g}, {calibration.confidence} confidence"],
    ]
    return table(["", ""], lines)


def _losses(trained: Trained) -> Figure:
    """Both losses over the epochs, and which epoch was kept."""
    history = trained.fitted.history
    epochs = [report.epoch for report in history]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.plot(epochs, [one.train_loss for one in history], color=COLOURS[5], marker=".", label="training part")
    axis.plot(epochs, [one.held_out_loss for one in history], color=COLOURS[0], marker=".", label="held-out part")
    axis.axvline(trained.fitted.best_epoch, color=COLOURS[1], linestyle="--", linewidth=1, label="weights kept")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="epoch", ylabel="nats a value")
    axis.legend()
    return figure


def _forecasts(scans: Sequence[Scan], rows: Sequence[int], channels: Sequence[int]) -> str:
    """A section from the middle of the longest held-out part, and the one around its highest score."""
    found, row = max(zip(scans, rows, strict=True), key=lambda pair: len(pair[0].recording) - pair[1])
    length = len(found.recording)
    highest = row + int(found.score[row:].argmax())
    sections = {"from the middle": (row + length) // 2, "around the highest score": highest}
    starts = {name: max(row, min(middle - SECTION // 2, length - SECTION)) for name, middle in sections.items()}
    if length - row <= SECTION:
        starts = {"the whole held-out part": row}
    parts = []
    for name, start in starts.items():
        parts.append(paragraph(f"{found.recording.stream}, {name}:"))
        parts.append(svg(_section(found, slice(start, min(start + SECTION, length)), channels)))
    return "".join(parts)


def _section(found: Scan, rows: slice, channels: Sequence[int]) -> Figure:
    """Readings and forecasts of some channels; below them the score."""
    figure = Figure(figsize=(11, 1.25 * len(channels) + 1.5), layout="constrained")
    panels: Any = figure.subplots(len(channels) + 1, 1, sharex=True, squeeze=False)[:, 0]
    at = np.arange(rows.start, rows.stop)
    for axis, channel in zip(panels, channels, strict=False):
        mid, values = found.expected[rows, channel, 1], found.recording.values[rows, channel]
        axis.plot(at, values, color="black", linewidth=0.9, label="reading")
        axis.plot(at, mid, color=COLOURS[0], linewidth=0.9, label="forecast")
        axis.set_ylim(*_around(np.concatenate([values, mid])))
        axis.set_ylabel(label(found.recording.channels[channel]), fontsize=8)
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8)
    panels[-1].plot(at, found.score[rows], color=COLOURS[1])
    panels[-1].axhline(1.0, color=COLOURS[5], linestyle="--", linewidth=1)
    panels[-1].set(ylabel="score", xlabel="reading", xlim=(at[0], at[-1]), ylim=(0, None))
    figure.align_ylabels()
    return figure


def _residuals(scans: Sequence[Scan], rows: Sequence[int], names: Sequence[str], channels: Sequence[int]) -> Figure:
    """How residuals are distributed, and against the Student-t of the likelihood and the normal distribution."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    share = (np.arange(QUANTILES) + 0.5) / QUANTILES
    expected = student_quantile(share) / np.sqrt(2)  # of variance 1
    for number, channel in enumerate(channels):
        residual = _pooled(scans, rows, channel)
        if not len(residual):
            continue
        colour, name = COLOURS[number % len(COLOURS)], label(names[channel])
        residual = np.clip(residual, -LARGEST, LARGEST)
        left.hist(
            residual, bins=np.linspace(-LARGEST, LARGEST, 41), density=True, histtype="step", color=colour, label=name
        )
        right.plot(expected, np.quantile(residual, share), ".", markersize=3, color=colour, label=name)
    right.plot(expected, expected, color=COLOURS[5], linewidth=1, label="Student-t, 4 degrees")
    left.set(xlabel="residual, in error scales (beyond ±6 at the edge)", ylabel="density", yscale="log")
    right.set(xlabel="quantile of a Student-t of variance 1", ylabel="quantile of the residuals")
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure


def student_quantile(share: Floats) -> Floats:
    """Quantiles of Student's t with 4 degrees of freedom, in closed form (Shaw 2006)."""
    alpha = np.sqrt(4 * share * (1 - share))
    return np.asarray(np.sign(share - 0.5) * 2 * np.sqrt(np.cos(np.arccos(alpha) / 3) / alpha - 1))


def _false_alarms(scans: Sequence[Scan], rows: Sequence[int], asked: float) -> Figure:
    """The share of judged held-out readings above each score."""
    judged = [found.score[row:][found.status[row:] != WARMING_UP] for found, row in zip(scans, rows, strict=True)]
    score = np.sort(np.concatenate(judged))
    share = 1 - np.arange(len(score)) / max(len(score), 1)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.step(score, share, where="pre", color=COLOURS[0])
    axis.axvline(1.0, color=COLOURS[1], linestyle="--", linewidth=1)
    axis.axhline(asked, color=COLOURS[5], linestyle="--", linewidth=1)
    axis.annotate("threshold", (1.0, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    axis.annotate("asked", (1, asked), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=8)
    wide = len(score) > 0 and score[-1] > 20
    axis.set(xlabel="score", ylabel="share of readings above", xscale="log" if wide else "linear", yscale="log")
    above = float((score > 1).mean()) if len(score) else float("nan")
    axis.set_title(f"{above:.5f} of {len(score):,} held-out readings above the threshold", fontsize=9, pad=16)
    return figure


def _errors_by_channel(names: Sequence[str], errors: Floats) -> str:
    """A plot of the ratios of all channels, and the figures."""
    ratio = np.divide(errors[:, 0], errors[:, 1], out=np.full(len(errors), np.nan), where=errors[:, 1] > 0)
    figure = Figure(figsize=(9, 0.8 + 0.22 * len(names)), layout="constrained")
    axis = figure.subplots()
    colours = [COLOURS[0] if value <= 1 else COLOURS[1] for value in ratio]
    axis.barh(range(len(names)), ratio, color=colours, height=0.6)
    axis.set_yticks(range(len(names)), [label(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.axvline(1.0, color=COLOURS[5], linestyle="--", linewidth=1)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("root mean square error, forecast by last value: below 1 the network is better")
    lines = [
        [name, f"{own:.4g}", f"{last:.4g}", "-" if np.isnan(one) else f"{one:.3f}"]
        for name, (own, last), one in zip(names, errors, ratio, strict=True)
    ]
    return svg(figure) + table(["channel", "forecast", "last value", "ratio"], lines)


def _errors(scans: Sequence[Scan], rows: Sequence[int]) -> Floats:
    """(C, 2) root mean square error of the forecast and of the last value, physical units, of the same readings."""
    squares, counts = np.zeros((len(scans[0].recording.channels), 2)), np.zeros((len(scans[0].recording.channels), 1))
    for found, row in zip(scans, rows, strict=True):
        values = found.recording.values.astype(np.float64)
        missed = values[row:] - found.expected[row:, :, 1]
        changed = values[row:] - values[row - 1 : -1]
        there = np.isfinite(missed) & np.isfinite(changed)
        squares += np.stack([np.where(there, one**2, 0.0).sum(axis=0) for one in (missed, changed)], axis=1)
        counts += there.sum(axis=0)[:, None]
    return np.asarray(np.sqrt(squares / np.maximum(counts, 1)))


def _pooled(scans: Sequence[Scan], rows: Sequence[int], channel: int) -> Floats:
    """(N,) residuals of a channel in error scales, of what was observed."""
    pairs = zip(scans, rows, strict=True)
    return np.concatenate(
        [one.residual[row:, channel][np.isfinite(one.recording.values[row:, channel])] for one, row in pairs]
    ).astype(np.float64)


def _around(values: NDArray[np.float32]) -> tuple[float, float]:
    """Limits that hold the values, with some room."""
    seen = values[np.isfinite(values)]
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    room = 0.08 * (high - low) or 0.5
    return low - room, high + room
