"""gatewatch evaluate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gatewatch.models.errors import EvaluationError, GatewatchError
from gatewatch.models.evaluation.bootstrap import Figure
from gatewatch.models.evaluation.evaluate import VUS_WINDOW, Evaluation, Scored
from gatewatch.models.evaluation.evaluate import evaluate as hold_against_labels
from gatewatch.models.recordings.labels import Labelled, like_labels, read_intervals, with_labels
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import Recording, recording_files, stem
from gatewatch.models.score_reading import read_scores
from gatewatch.service.cli_support.reading import Announcer, reads_recordings
from gatewatch.service.cli_support.scanning import (
    AlertsPerWeek,
    Channel,
    Epochs,
    FalseAlarmRate,
    Judge,
    Model,
    Seed,
    TrainOn,
    TrainRows,
    below,
    one_stream,
)
from gatewatch.service.cli_support.terminal import AsJson, Files, finite, tell_json

Labels = Annotated[
    Path | None,
    typer.Option(help="CSV of events, stream,start,end, both times inside; without it the files have a label column"),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="column with 1 in events and else 0, no channel; `label` or `anomaly` if not given"),
]


@reads_recordings
def evaluate(
    files: Files,
    labels: Labels = None,
    label_column: LabelColumn = None,
    scores: Annotated[
        Path | None,
        typer.Option(help="folder with the scores of each file, as `scan --out` wrote them; scores nothing"),
    ] = None,
    model: Model = None,
    channel: Channel = None,
    train_on: TrainOn = None,
    train_rows: TrainRows = None,
    false_alarm_rate: FalseAlarmRate = 0.001,
    alerts_per_week: AlertsPerWeek = None,
    epochs: Epochs = 60,
    seed: Seed = 0,
    window: Annotated[int, typer.Option("--vus-window", help="tolerance of VUS-PR, in readings", min=0)] = VUS_WINDOW,
    out: Annotated[Path | None, typer.Option(help="JSON to write, also with the figures of each stream")] = None,
    as_json: AsJson = False,
    *,
    how: ReadOptions,
) -> None:
    """Hold a detector against labelled recordings: what it found, how late, and how often it was wrong."""
    judge = Judge(model, train_on, train_rows, false_alarm_rate, alerts_per_week, epochs, seed)
    if scores is not None and (model or train_on or train_rows):
        raise GatewatchError("--scores has the scores; expected no --model, --train or --train-rows beside it")
    paths = recording_files(files)
    if out is not None and out.resolve() in {path.resolve() for path in (*paths, *([labels] if labels else []))}:
        raise GatewatchError(f"--out {out} is read here; name another file for the figures")
    say = Announcer()
    recordings = [one_stream(path, how, say) for path in paths]
    given = dict(zip(paths, _labelled(paths, recordings, labels, label_column), strict=True))
    events = [one.events or [] for one in given.values()]
    if not any(events):
        raise EvaluationError(f"no event in {len(paths)} labelled recordings; at least one is needed to find")

    def read(path: Path) -> list[list[Recording]]:
        if path in given:
            recording = given[path].recording
        else:  # to train on
            recording = with_labels([one_stream(path, how, say)], None, None)[0].recording
        return [[recording.only(channel) if channel else recording]]

    if scores is None:
        scans = (found for _, (found,) in judge.scans(paths, files, read))
        scored = [Scored.of(*pair) for pair in zip(scans, events, strict=True)]
    else:
        scored = [_scored(path, files, scores, one) for path, one in given.items()]
    found = hold_against_labels(scored, window)
    if out is not None:
        _write(found, out)
    if as_json:
        tell_json(asdict(found))
    else:
        _show(found)


def _labelled(
    paths: Sequence[Path], recordings: Sequence[Recording], labels: Path | None, column: str | None
) -> list[Labelled]:
    """The recordings with their labels; each must have some."""
    intervals = None if labels is None else read_intervals(labels)
    given = with_labels(recordings, column, intervals)
    bare = [path for path, one in zip(paths, given, strict=True) if one.events is None]
    if bare:
        alike = [name for one in given for name in like_labels(one.recording)]
        raise EvaluationError(
            f"{bare[0]}: no labels; expected a column label or anomaly (or --label-column NAME"
            f"{f', as {alike[0]}' if alike else ''}), or --labels FILE"
        )
    return given


def _scored(path: Path, files: Sequence[Path], scores: Path, one: Labelled) -> Scored:
    """A recording with scores made before, from the file of its name."""
    recording = one.recording
    score, status = read_scores(scores / below(path, files).with_name(stem(path) + ".csv"), recording)
    times = recording.timestamps_ms if recording.micros is None else recording.times_us / 1000
    return Scored(recording.stream, times, score, status, one.events or [])


def _show(found: Evaluation) -> None:
    title = (
        f"{found.events_judged} events in {found.judged} readings of {len(found.streams)} "
        f"{'stream' if len(found.streams) == 1 else 'streams'}"
    )
    table = Table("", "value", "95 % interval", title=title, title_justify="left")
    for name, figure in found.figures.items():
        table.add_row(name, shown(figure.value), _interval(figure))
    console = Console()
    console.print(table)
    notes = [f"Intervals: a bootstrap over {found.parts}." if _has_intervals(found) else _too_few(found)]
    if found.readings > found.judged:
        unjudged = found.events - found.events_judged
        notes.append(f"Not judged, as warm-up: {found.readings - found.judged} readings, {unjudged} whole events.")
    console.print(" ".join(notes), highlight=False)


def shown(value: float) -> str:
    """A figure for people; a dash for none."""
    return "-" if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _interval(figure: Figure) -> str:
    return "-" if math.isnan(figure.low) else f"{shown(figure.low)} to {shown(figure.high)}"


def _has_intervals(found: Evaluation) -> bool:
    return any(math.isfinite(figure.low) for figure in found.figures.values())


def _too_few(found: Evaluation) -> str:
    return f"No intervals: {found.parts} are too few for a bootstrap."


def _write(found: Evaluation, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(finite(asdict(found)), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise GatewatchError(f"{out}: the figures cannot be written: {error.strerror}") from error
