"""gatewatch compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.labels import read_intervals, with_labels
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import read_recordings, recording_files
from gatewatch.service.cli_support.reading import Announcer, reads_recordings
from gatewatch.service.cli_support.terminal import AsJson, Files, tell, tell_json, training_progress
from gatewatch.service.cli_support.trainings import extra_needed, train_config
from gatewatch.service.commands.evaluate import LabelColumn, Labels

WIDTH = 140
"""Characters that the table of all architectures needs."""


@reads_recordings
def compare(
    files: Files,
    out: Annotated[Path, typer.Option(help="folder for compare.html, compare.csv and the plots")],
    architectures: Annotated[str | None, typer.Option(help="names with commas between; all if not given")] = None,
    labels: Labels = None,
    label_column: LabelColumn = None,
    time_limit_s: Annotated[float | None, typer.Option(help="end each training after so many seconds")] = None,
    layers: Annotated[int, typer.Option(help="layers of each network")] = 2,
    hidden: Annotated[int, typer.Option(help="units a layer")] = 64,
    memory: Annotated[int, typer.Option(help="readings that attention, window and transformer look back")] = 64,
    epochs: Annotated[int, typer.Option(help="most passes over the recordings")] = 60,
    false_alarm_rate: Annotated[
        float, typer.Option(help="share of normal readings that may be judged anomalous")
    ] = 0.001,
    seed: Annotated[int, typer.Option(help="of each training")] = 0,
    as_json: AsJson = False,
    *,
    how: ReadOptions,
) -> None:
    """Train architectures alike on your recordings, show them side by side, and recommend one. Needs the extra `train`.

    The end of each recording is kept unseen. With events, those of the second half of each recording are to be found,
    and nothing from the first of them on is trained on; earlier ones are cut out.
    """
    config = train_config(
        layers=layers, hidden=hidden, memory=memory, epochs=epochs, time_limit_s=time_limit_s,
        false_alarm_rate=false_alarm_rate, seed=seed,
    )  # fmt: skip
    with extra_needed("compare"):
        from gatewatch.models.training.compare import ARCHITECTURES
        from gatewatch.models.training.compare import compare as train_and_measure
        from gatewatch.models.training.comparison_page import PAGE, as_object, header, lines, notes, write_comparison
    named = ARCHITECTURES if architectures is None else architectures.split(",")
    chosen = list(dict.fromkeys(name.strip() for name in named))
    unknown = [name for name in chosen if name not in ARCHITECTURES]
    if unknown:
        raise GatewatchError(
            f"--architectures: {', '.join(map(repr, unknown))} unknown; expected some of {', '.join(ARCHITECTURES)}"
        )
    if out.exists() and not out.is_dir():
        raise GatewatchError(f"--out {out} is a file; expected a folder")
    say = Announcer()
    recordings = [one for path in recording_files(files) for one in read_recordings(path, how, say)]
    labelled = with_labels(recordings, label_column, None if labels is None else read_intervals(labels))
    with training_progress(config.epochs) as show:
        comparison = train_and_measure(
            labelled, chosen, config, on_epoch=lambda name, report: show.on_epoch(report, name)
        )
    if as_json:
        tell_json(as_object(comparison) | {"page": str(out / PAGE)})
    else:
        table = Table(*header(comparison))
        for line in lines(comparison):
            table.add_row(*line)
        console = Console(width=max(Console().width, WIDTH))
        console.print(table)
        tell("\n".join([*notes(comparison), comparison.reason]))
    write_comparison(comparison, out)
    if not as_json:
        tell(f"{out / PAGE} has the plots.")
