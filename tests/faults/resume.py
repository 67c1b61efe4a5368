"""Kill a training with SIGKILL at random moments and run the same command again each time: nothing is lost.

    python -m tests.faults.resume --times 20 --seed 0

After each kill the checkpoint must be absent or whole, and the artefact too; in the end every file of the artefact must
be, byte for byte, that of a training which nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from gatewatch.models.artefact.files import CARD, GRAPH, MANIFEST, WEIGHTS, load_artefact
from gatewatch.models.training.checkpoint import CHECKPOINT
from tests.support.forked import start

START_UP_S = 0.5
"""A quarter of the kills come so early; the others once this start has saved something, or so much later."""


@dataclass(frozen=True)
class Kill:
    """Where a training stood when it was killed; epoch 0 is before its first checkpoint."""

    seconds: float
    epoch: int
    windows: int
    artefact: bool


def write_recordings(folder: Path, rows: int) -> None:
    """Two streams of two channels with missing values."""
    folder.mkdir()
    for seed in range(2):
        rng = np.random.default_rng(seed)
        t = np.arange(rows)
        values = np.stack([np.sin(t / 7), np.sin(t / 19)], axis=1) + rng.normal(0, 0.1, (rows, 2))
        values[rng.random(values.shape) < 0.01] = np.nan
        cells = np.where(np.isfinite(values), values.round(4).astype(str), "")
        lines = [f"{1_700_000_000 + 60 * row},{a},{b}" for row, (a, b) in enumerate(cells)]
        (folder / f"s{seed}.csv").write_text("\n".join(["timestamp,a,b", *lines]) + "\n")


def command(recordings: Path, out: Path, checkpoint: Path, epochs: int) -> list[str]:
    """The training, as arguments of Python: small, with dropout, saving all the time."""
    return [
        "-m", "gatewatch", "train", str(recordings), "--out", str(out),
        "--checkpoint", str(checkpoint), "--checkpoint-every-s", "0.05", "--epochs", str(epochs), "--hidden", "24",
    ]  # fmt: skip


def kill_and_resume(recordings: Path, folder: Path, epochs: int, kills: int, chance: random.Random) -> Iterator[Kill]:
    """Run one training to its end, through at most so many kills. Raises RuntimeError where something is broken."""
    out, checkpoint = folder / "out", folder / "run"
    killed = 0
    while True:
        before = _stamp(checkpoint)
        began = time.monotonic()
        with open(os.devnull, "w") as nowhere:
            process = start(
                command(recordings, out, checkpoint, epochs), os.environ, None, nowhere.fileno(), subprocess.PIPE
            )
        if killed == kills:
            _, complaint = process.communicate()
        else:
            longest_s = START_UP_S
            if chance.random() >= 0.25:
                longest_s = 1.5
                while process.poll() is None and _stamp(checkpoint) == before:
                    time.sleep(0.005)
            until = time.monotonic() + chance.uniform(0, longest_s)
            while time.monotonic() < until and not (out / MANIFEST).exists():  # else a fast machine is done before
                time.sleep(0.005)
            process.kill()
            _, complaint = process.communicate()
        if process.returncode == 0:
            return
        if process.returncode != -9:
            raise RuntimeError(f"ended with {process.returncode}: {complaint.decode()}")
        killed += 1
        yield _look(time.monotonic() - began, out, checkpoint)


def _stamp(checkpoint: Path) -> int:
    try:
        return (checkpoint / CHECKPOINT).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _look(seconds: float, out: Path, checkpoint: Path) -> Kill:
    """What a kill has left; raises if any of it is half."""
    if out.exists():
        load_artefact(out)
    if not (checkpoint / CHECKPOINT).exists():
        return Kill(seconds, 0, 0, out.exists())
    with safe_open(checkpoint / CHECKPOINT, "pt") as file:
        described = file.metadata()
    epoch = len(json.loads(described["history"])) + 1
    return Kill(seconds, epoch, json.loads(described["progress"])["windows"], out.exists())


def differing_files(one: Path, other: Path) -> list[str]:
    """The artefacts' files that are not the same, byte for byte."""
    return [
        name for name in (GRAPH, WEIGHTS, MANIFEST, CARD) if (one / name).read_bytes() != (other / name).read_bytes()
    ]


def main() -> None:
    """Kill and compare until there were so many kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=6000, help="readings of each of two recordings")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recordings(folder / "recordings", arguments.rows)
        list(kill_and_resume(folder / "recordings", folder / "unbroken", arguments.epochs, 0, chance))
        killed = trainings = 0
        while killed < arguments.times:
            trainings += 1
            own = folder / f"killed-{trainings}"
            left = arguments.times - killed
            for kill in kill_and_resume(folder / "recordings", own, arguments.epochs, left, chance):
                killed += 1
                print(
                    f"kill {killed:2d} after {kill.seconds:5.2f} s: in epoch {kill.epoch}, {kill.windows} windows into "
                    f"it, {'an' if kill.artefact else 'no'} artefact",
                    flush=True,
                )
            differing = differing_files(folder / "unbroken" / "out", own / "out")
            if differing:
                sys.exit(f"training {trainings} ended with other files: {', '.join(differing)}")
        print(f"{killed} kills in {trainings} trainings; every file of every artefact equals the unbroken one's")


if __name__ == "__main__":
    main()
