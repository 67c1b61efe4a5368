"""What the commands share of the terminal: files given, lines printed, the progress of a training."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gatewatch.models.recordings.labels import label_columns, like_labels, without_labels
from gatewatch.models.recordings.recording import AnySource
from gatewatch.models.recordings.review import LeftOut
from gatewatch.models.text import listed, one_line, visible

if TYPE_CHECKING:
    from gatewatch.models.training.checkpoint import EpochReport

AsJson = Annotated[bool, typer.Option("--json", help="print what came of it as JSON, for a script")]
"""One object on standard output; all else goes to standard error."""

TABLES = "tables (.csv, .tsv, .txt, also .gz; .parquet; .xlsx), or folders of them"

Files = Annotated[list[Path], typer.Argument(help=TABLES)]

_errors = Console(stderr=True, soft_wrap=True, highlight=False)

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

MUCH = 0.2
"""Share of the readings; who leaves out more is told what to do if that is wrong."""

LONGEST_LINE = 4000
"""Characters of a message; what says more than that is cut."""


def tell(text: str) -> None:
    """Print what was asked for."""
    print(visible(text))


def tell_json(what: Any) -> None:
    """Print what was asked for as JSON; a number that is not finite as null."""
    tell(json.dumps(finite(what), indent=1, ensure_ascii=False, allow_nan=False))


def finite(value: Any) -> Any:
    """The same with null for what is not a number."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def tell_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of texts below a header, in columns as wide as what stands in them."""
    shown = [[one_line(text) for text in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def warn(text: str) -> None:
    """Print what is to be known beside it, on standard error."""
    _errors.print(visible(text), markup=False)


def warn_in_one_line(text: str) -> None:
    """Print a message that may quote anything as one line on standard error."""
    line = one_line(text)
    warn(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…")


def say_left_out(left_out: LeftOut, remedy: str) -> None:
    """Say on standard error how much is left out; of much, also what to do if that is how things are now."""
    warn(left_out.line())
    if left_out.share > MUCH:
        warn(f"  if that is how things are now, {remedy}")


def stopped(said: str) -> NoReturn:
    """End after Ctrl-C: `Stopped`, and behind it what is kept and how to go on."""
    warn(f"Stopped{said}.")
    raise SystemExit(INTERRUPTED)


def sensors(recordings: Sequence[AnySource], *, quiet: bool = False) -> list[AnySource]:
    """The recordings without label columns; standard error says what was left out. Raises RecordingError."""
    if quiet:
        return [without_labels(recording) for recording in recordings]
    left_out = {name: None for recording in recordings for name in label_columns(recording)}
    if left_out:
        warn(f"left out, since evaluate takes such columns for labels: {', '.join(left_out)}")
    doubtful = {name: None for recording in recordings for name in like_labels(recording)}
    if doubtful:
        warn(
            f"taken for a sensor, though it looks like labels: {listed(doubtful)}; if it marks what was wrong, say "
            f"--label-column {next(iter(doubtful))!r}"
        )
    return [without_labels(recording) for recording in recordings]


class Epochs:
    """A bar that moves with each epoch."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=total, losses="")

    def on_epoch(self, report: EpochReport, what: str = "training") -> None:
        """Take a finished epoch in, of the training that is called so."""
        losses = f"loss {report.train_loss:.4f}, held out {report.held_out_loss:.4f}"
        self._progress.update(self._task, description=what, completed=report.epoch, losses=losses)

    def on_pass(self, number: int, loss: float) -> None:
        """Take a finished pass of the general network in."""
        self._progress.update(self._task, completed=number, losses=f"held out {loss:.4f}")


@contextlib.contextmanager
def training_progress(total: int) -> Iterator[Epochs]:
    """Show the progress of a training of so many epochs, on a terminal only."""
    console = Console(stderr=True)
    what, losses = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[losses]}")
    with Progress(
        what, BarColumn(), MofNCompleteColumn(), losses, TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        yield Epochs(progress, total)
