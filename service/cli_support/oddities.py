"""What a command says of a recording before it is scored, and what it may be told about its values."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from gatewatch.models.recordings.codes import find_codes
from gatewatch.models.recordings.recording import Recording
from gatewatch.service.cli_support.terminal import warn

Missing = Annotated[
    list[float] | None,
    typer.Option("--missing", help="a value that stands for a missing one, as -9999; may be repeated"),
]


def say_what_is_odd(recording: Recording) -> None:
    """Say on standard error what would be scored otherwise than its owner may think."""
    for code in find_codes([recording]):
        warn(
            f"{recording.stream}, {code.channel}: {code}, far from all else: a code for missing? "
            f"--missing {code.value:.10g}"
        )
    if recording.micros is not None:
        shared = int((np.diff(recording.timestamps_ms) == 0).sum())
        order = (
            f"; {shared} of {len(recording)} readings share one with the reading before, and are taken in their order"
        )
        warn(
            f"{recording.stream}: times finer than a millisecond: written as they are, scored by the millisecond"
            + (order if shared else "")
        )
