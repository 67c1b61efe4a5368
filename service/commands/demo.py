"""gatewatch demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the table")] = False,
    write_recordings: Annotated[
        Path | None, typer.Option(help="only write the station's normal recordings into this folder, to train on")
    ] = None,
) -> None:
    """Watch a simulated pump station: faults injected at known times against what was detected."""
    from gatewatch.service.demo import run, station

    if write_recordings is not None:
        station.write_recordings(write_recordings)
        return
    raise typer.Exit(run.run_demo(once=once))
