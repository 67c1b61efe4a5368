"""What several tests share."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np

from tests.support import forked
from tests.support.samples import CHANNELS


def without_settings() -> dict[str, str]:
    """The environment of this process but for settings of gatewatch."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GATEWATCH_")}


def gatewatch(*arguments: str | Path, **environment: str) -> CompletedProcess[str]:
    """Run a command in a process of its own, with settings of its own."""
    return forked.run(["-m", "gatewatch", *map(str, arguments)], without_settings() | environment)


def refused(done: CompletedProcess[str], words: str) -> bool:
    """Status 2 and one line on standard error; no traceback, nothing on standard output."""
    assert done.returncode == 2, done
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    return not done.stdout


def recording(path: Path, rows: int = 60, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(3, 1, (rows, len(CHANNELS)))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("timestamp", *CHANNELS))
        writer.writerows((1_700_000_000 + 60 * row, *map(float, values[row])) for row in range(rows))
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
