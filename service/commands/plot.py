"""gatewatch plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.reading import Reader
from gatewatch.models.score_reading import read_scans
from gatewatch.service.cli_support.answers import Answer, console_of_tables
from gatewatch.service.cli_support.pictures import require_picture
from gatewatch.service.cli_support.reading import Announcer, reads_recordings
from gatewatch.service.cli_support.terminal import tell


@reads_recordings
def plot(
    file: Annotated[Path, typer.Argument(help="a recording")],
    scores: Annotated[Path, typer.Option(help="the CSV that scan wrote for it")],
    out: Annotated[
        Path | None, typer.Option(help="picture to write, FILE.html or FILE.png; in the terminal if not given")
    ] = None,
    *,
    how: ReadOptions,
) -> None:
    """Draw a recording with scores that `scan` wrote before: readings, band, score and incidents. Scores nothing."""
    if out is not None:
        require_picture(out)
    answer = Answer(pictured=True)
    say = Announcer()

    def note(reader: Reader) -> None:
        say(reader)
        answer.note(reader)

    answer.take(file, read_scans(file, scores, how, note))
    console = console_of_tables()
    tell(f"{file}: {answer.of(file)}")
    answer.show(console)
    answer.draw(out, console.width)
    if out is not None:
        tell(f"{out} has the picture.")
