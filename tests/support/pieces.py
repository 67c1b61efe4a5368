"""Pieces of work for other processes, which find them by their module."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from gatewatch.models.errors import TrainingError


@dataclass(frozen=True)
class Piece:
    """A number to be squared, and how often the process dies of it before."""

    number: int
    deaths: int = 0
    folder: Path = Path()


def square(piece: Piece) -> int:
    if piece.number < 0:
        raise TrainingError(f"{piece.number} is below 0")
    died = len(list(piece.folder.glob(f"{piece.number}-*"))) if piece.deaths else 0
    if died < piece.deaths:
        (piece.folder / f"{piece.number}-{died}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return piece.number**2


def threads(_: Piece) -> str:
    return os.environ["OMP_NUM_THREADS"]
