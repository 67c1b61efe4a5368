"""Killed and resumed, or out of room, a training loses nothing and leaves nothing half done."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gatewatch.models.artefact.files import load_artefact
from gatewatch.models.training.checkpoint import CHECKPOINT
from tests.faults.resume import command, differing_files, kill_and_resume, write_recordings
from tests.support import forked


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "recordings"
    write_recordings(folder, 600)
    return folder


@pytest.fixture(scope="module")
def unbroken(recordings: Path) -> Path:
    """The folder of a training of three epochs that nobody killed: its artefact `out` and its checkpoint `run`."""
    assert list(kill_and_resume(recordings, recordings.parent / "unbroken", 3, 0, random.Random(0))) == []
    return recordings.parent / "unbroken"


@pytest.fixture
def one_epoch(recordings: Path, unbroken: Path, tmp_path: Path) -> Path:
    """The checkpoint `run` of the same training, ended after its first epoch."""
    first = _first_epoch(recordings, unbroken.parent / "first")
    shutil.copytree(first, tmp_path / "run")
    return tmp_path / "run"


@cache
def _first_epoch(recordings: Path, folder: Path) -> Path:
    limited = [*command(recordings, folder / "out", folder / "run", 3), "--time-limit-s", "0.001"]
    assert forked.run(limited, os.environ).returncode == 0
    return folder / "run"


def test_a_training_killed_and_resumed_ends_with_the_same_artefact(
    recordings: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Twice; `python -m tests.faults.resume --times 20` does it longer."""
    kills = list(kill_and_resume(recordings, tmp_path, 3, 2, random.Random(2)))
    assert kills
    assert differing_files(unbroken / "out", tmp_path / "out") == []


SHORT_OF_ROOM = """
import resource, runpy, sys
largest = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def short_of_room(arguments: list[str], largest_file: int) -> subprocess.CompletedProcess[str]:
    """Run a command that can write no file longer than so many bytes: the system refuses, as on a full disk."""
    return forked.run(["-c", SHORT_OF_ROOM, str(largest_file), *arguments[1:]], os.environ)


def test_no_room_for_a_checkpoint_is_one_line_and_the_one_before_stays(
    recordings: Path, unbroken: Path, one_epoch: Path, tmp_path: Path
) -> None:
    run, out = one_epoch, tmp_path / "out"
    three = command(recordings, out, run, 3)
    kept = (run / CHECKPOINT).read_bytes()
    room = (recordings / "s0.csv").stat().st_size * 3  # enough for the recordings, not for a checkpoint
    assert room < len(kept)
    done = short_of_room(three, room)
    assert done.returncode == 2
    assert "the checkpoint cannot be written: File too large; the one before is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in run.iterdir()} == {CHECKPOINT: kept}
    assert not out.exists()
    assert forked.run(three, os.environ).returncode == 0
    assert differing_files(unbroken / "out", out) == []


def test_no_room_for_the_artefact_leaves_the_one_before(recordings: Path, unbroken: Path, tmp_path: Path) -> None:
    """Its training has ended, so that only the artefact is to be written."""
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(unbroken / "run", run)
    shutil.copytree(unbroken / "out", out)
    before = load_artefact(out).digest
    largest = max(path.stat().st_size for path in out.iterdir())
    done = short_of_room(command(recordings, out, run, 3), largest - 1)
    assert done.returncode == 2
    assert "the artefact cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert load_artefact(out).digest == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_no_room_for_the_recordings_names_the_folder_and_the_variable(recordings: Path, tmp_path: Path) -> None:
    done = short_of_room(command(recordings, tmp_path / "out", tmp_path / "run", 1), 1000)
    assert done.returncode == 2
    assert "the recordings do not fit into the temporary file in" in done.stderr
    assert "TMPDIR" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_a_number_ends_the_command_and_writes_nothing(
    recordings: Path, one_epoch: Path, tmp_path: Path
) -> None:
    """The weights of its checkpoint have gone astray."""
    run, out = one_epoch, tmp_path / "out"
    three = command(recordings, out, run, 3)
    with safe_open(run / CHECKPOINT, "pt") as file:
        described = file.metadata()
    tensors = load_file(run / CHECKPOINT)
    tensors["network.head.weight"] = torch.full_like(tensors["network.head.weight"], torch.nan)
    save_file(tensors, run / CHECKPOINT, described)
    done = forked.run(three, os.environ)
    assert done.returncode == 2
    assert "the loss is nan in epoch 2, window 1 of" in done.stderr
    assert "lower the learning rate (now 0.004)" in done.stderr
    assert not out.exists()
