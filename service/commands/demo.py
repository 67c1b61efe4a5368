"""gatewatch demo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gatewatch.service.cli_support.settings import settings_of_environment


def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the table")] = False,
    write_recordings: Annotated[
        Path | None, typer.Option(help="only write the station's normal recordings into this folder, to train on")
    ] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on [GATEWATCH_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on [GATEWATCH_PORT]; 8000, or a free one")] = None,
) -> None:
    """Watch a simulated pump station: faults injected at known times against what was detected."""
    from gatewatch.service.demo import run, station

    if write_recordings is not None:
        station.write_recordings(write_recordings)
        return
    settings = settings_of_environment()
    asked = port if port is not None or "GATEWATCH_PORT" not in os.environ else settings.port
    raise typer.Exit(run.run_demo(once, host or settings.host, asked))
