"""Two processes that train one network end where one ends, and one of them writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gatewatch.models.artefact.files import WEIGHTS, load_artefact
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import recording_files
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.processes import Processes
from gatewatch.models.training.stored import store_files
from gatewatch.models.training.trained.loop import fit
from gatewatch.models.training.trained.train import train
from gatewatch.models.training.trained.windows import train_windows
from tests.faults.resume import write_recordings
from tests.support.windows import UNSCALED, counting, lanes

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

SHORT_OF_ROOM = """
import os, resource, sys
from gatewatch.service.cli import main
if os.environ["RANK"] == "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
main()
"""
"""The command; no checkpoint fits on the disk of its leader, the recordings do."""


def trained_by_two(program: tuple[str, ...], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *TORCHRUN, *program, "train", *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        timeout=250, check=False,
    )  # fmt: skip


def test_the_processes_share_the_lanes_and_have_as_many_windows() -> None:
    recordings = [counting(400, 1), counting(60, 1001), counting(50, 2001)]
    shares = [train_windows(recordings, UNSCALED, 0.25, 16, 4, Processes(rank, 2)) for rank in range(2)]
    alone = train_windows(recordings, UNSCALED, 0.25, 16, 4)
    assert [len(share) for share in shares] == [len(alone)] * 2
    together = [lane for share in shares for lane in lanes(list(share)) if lane]
    assert sorted(together) == sorted(lanes(list(alone)))


def test_more_processes_than_lanes_leave_some_with_nothing_to_count() -> None:
    windows = train_windows([counting(60, 1)], UNSCALED, 0.25, 16, 4, Processes(3, 4))
    assert len(windows) == 3
    assert not any(bool(window.counted.any()) for window in windows)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Without dropout, whose units each process draws for itself: the same weights but for the order of sums."""
    write_recordings(tmp_path / "recordings", 300)
    arguments = (tmp_path / "recordings", "--out", tmp_path / "two", "--checkpoint", tmp_path / "run")
    done = trained_by_two(("-m", "gatewatch"), *arguments, "--epochs", 2, "--hidden", 8, "--dropout", 0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("thresholds for a false-alarm rate") == 1

    config = TrainConfig(epochs=2, hidden=8, dropout=0)
    recordings = store_files(recording_files([tmp_path / "recordings"]))
    alone = train(recordings, config).fitted
    together = load_file(tmp_path / "two" / WEIGHTS)
    for name, weight in alone.network.state_dict().items():
        torch.testing.assert_close(together[name], weight, rtol=1e-4, atol=1e-5)
    training = load_artefact(tmp_path / "two").manifest.training
    assert training["held_out_loss"] == pytest.approx(alone.history[alone.best_epoch - 1].held_out_loss, rel=1e-5)
    with pytest.raises(TrainingError, match="was saved by 2 processes, these are 1; start as many"):
        fit(recordings, Scaling.fit(recordings), config, checkpoint=tmp_path / "run")


def test_a_disk_that_is_full_for_the_leader_alone_ends_both_with_one_line(tmp_path: Path) -> None:
    write_recordings(tmp_path / "recordings", 300)
    (tmp_path / "short.py").write_text(SHORT_OF_ROOM)
    arguments = (tmp_path / "recordings", "--out", tmp_path / "two", "--checkpoint", tmp_path / "run")
    done = trained_by_two((str(tmp_path / "short.py"),), *arguments, "--epochs", 50)
    assert done.returncode != 0
    assert done.stderr.count("gatewatch: ") == 1
    assert "the checkpoint cannot be written: File too large; the one before is kept" in done.stderr
    assert "RuntimeError" not in done.stderr
    assert not (tmp_path / "two").exists()
