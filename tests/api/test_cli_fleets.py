"""Many models and many files by one command: the same whoever makes them, and nothing is made again."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.models.errors import GatewatchError
from gatewatch.models.recordings.recording import read_recordings
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.fleet import Member, make
from gatewatch.service.cli import app
from tests.support.cli import gatewatch, recording

SMALL = ("--epochs", 1, "--hidden", 3, "--layers", 1, "--one-model-per", "stream")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def contents(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content for name, content in found.items() if not name.startswith(".")}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for seed, name in enumerate(("Pump-1", "Pump-2", "fan.9")):
        recording(folder / f"{name}.csv", 80, seed)
    return folder


def test_a_fleet_is_the_same_from_one_process_and_from_two_and_goes_on(recordings: Path, tmp_path: Path) -> None:
    alone = run("train", recordings, "--out", tmp_path / "alone", *SMALL, "--processes", 1)
    assert alone.exit_code == 0, alone
    assert "3 models: 3 trained, 0 were there already, 0 could not be trained" in alone.stderr
    some = gatewatch("train", recordings, "--out", tmp_path / "two", *map(str, SMALL), "--processes", "2")
    assert some.returncode == 0, some
    assert contents(tmp_path / "alone") == contents(tmp_path / "two")
    recording(recordings / "fan.9.csv", 80, seed=7)
    again = run("train", recordings, "--out", tmp_path / "two", *SMALL, "--processes", 1)
    assert "3 models: 1 trained, 2 were there already, 0 could not be trained" in again.stderr
    other = run("train", recordings, "--out", tmp_path / "two", *SMALL, "--processes", 1, "--seed", 1)
    assert "3 models: 3 trained, 0 were there already" in other.stderr


def test_a_fleet_goes_into_the_repository_by_the_names_of_its_streams(recordings: Path, tmp_path: Path) -> None:
    models, short = tmp_path / "models", recording(tmp_path / "short.csv", 20)
    into = ("--into", "line-{}", "--models", models, "--processes", 1, "--by", "ann")
    done = run("train", recordings, short, *into, *SMALL)
    assert isinstance(done.exception, GatewatchError)
    assert "1 of 4 models could not be trained: short: 20 readings in the longest" in str(done.exception)
    repository = Repository(str(models), verify)
    assert list(repository.log.revisions()) == ["line-fan-9", "line-pump-1", "line-pump-2"]
    again = run("train", recordings, *into, *SMALL)
    assert "3 models: 0 trained, 3 were there already" in again.stderr
    assert set(repository.log.revisions().values()) == {1}
    recording(tmp_path / "pump-1.csv", 80)
    for arguments, words in (
        ((recordings, tmp_path / "pump-1.csv", *into), "Pump-1 and pump-1 would both be the model line-pump-1"),
        ((recordings, "--into", "line", "--models", models), "write {} where that name goes"),
        ((recordings, "--into", "{}" * 2, "--models", models), "write {} where that name goes"),
        ((recordings, *into, "--tune", 2), "are of --one-model-per, without --tune"),
        ((recordings, "--out", tmp_path / "x", "--dask", "tcp://a:1", "--checkpoint", tmp_path / "c"), "trains on oth"),
    ):
        refused = run("train", *arguments, *SMALL)
        assert isinstance(refused.exception, GatewatchError), refused
        assert words in str(refused.exception)
    one = run("train", recordings, "--out", tmp_path / "x", "--processes", 2)
    assert "--processes and --dask are of --one-model-per" in str(one.exception)


def test_what_another_process_is_sent_makes_the_same_model(recordings: Path) -> None:
    config = TrainConfig(layers=1, hidden=3, epochs=1)
    member = Member("pump", read_recordings(recordings / "Pump-1.csv"), config, {"flow": "m3/h"})
    sent = pickle.loads(pickle.dumps(member.in_memory()))  # noqa: S301 - our own
    assert sent.made_of() == member.made_of()
    assert pickle.loads(pickle.dumps(make(sent))).manifest == make(member).manifest  # noqa: S301
    others = [
        Member("pump", member.recordings, config, {}),
        Member("pump", member.recordings, config.model_copy(update={"false_alarm_rate": 0.01}), member.units),
        Member("pump", [member.recordings[0].rows(1)], config, member.units),
        Member("pump", member.recordings, config, member.units, gatewatch="0.0.1"),
    ]
    assert len({one.made_of() for one in [member, *others]}) == 5
    with pytest.raises(GatewatchError, match=r"who asks has 0\.0\.1; expected the same"):
        make(others[-1])


def split(path: Path, folder: Path) -> None:
    """The readings of a file as those of one stream in two files."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    for name, part in (("june", rows[:40]), ("july", rows[40:])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["stream", *header], *(["pump", *row] for row in part)])


def test_files_are_scanned_by_two_processes_as_by_one(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    split(recordings / "Pump-1.csv", folder)
    for seed in range(3):
        recording(folder / f"other-{seed}.csv", 60, seed)
    (folder / "broken.csv").write_text("not,a\nrecording,1\n")
    one = run("scan", folder, "--out", tmp_path / "scores")
    expected = contents(tmp_path / "scores")
    two = run("scan", folder, "--out", tmp_path / "scores", "--processes", 2)
    assert (one.exit_code, two.exit_code) == (1, 1)  # one file cannot be read
    assert two.stdout == one.stdout
    assert contents(tmp_path / "scores") == expected
    assert len(expected) == 5
    again = run("scan", folder, "--out", tmp_path / "scores", "--processes", 1)
    assert "5 of 6 files were scanned before" in again.stderr
    with (folder / "july.csv").open("a") as file:
        file.write("pump,1800000000,3,4\n")
    changed = run("scan", folder, "--out", tmp_path / "scores", "--processes", 1)
    assert "3 of 6 files were scanned before" in changed.stderr  # and june, which july goes on from, was not left out
    run("scan", folder, "--out", tmp_path / "anew")
    assert contents(tmp_path / "scores") == contents(tmp_path / "anew")
    rate = run("scan", folder, "--out", tmp_path / "scores", "--processes", 1, "--alerts-per-week", 2, "--json")
    assert json.loads(rate.stdout)["readings"] == 261
    refused = run("scan", folder, "--processes", 2, "--stream", "x")
    assert "each file is for itself" in str(refused.exception)
