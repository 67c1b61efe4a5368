"""The repository of models from the command line: what is shown, and what cannot be done in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gatewatch.models.artefact.files import GRAPH, load_artefact
from tests.support.cli import gatewatch, recording, refused
from tests.support.samples import make_artefact


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    return [make_artefact(folder / str(seed), seed=seed) for seed in range(2)]


def test_a_model_is_trained_into_the_repository_promoted_and_rolled_back(made: list[Path], tmp_path: Path) -> None:
    models = {"GATEWATCH_MODELS": str(tmp_path / "models")}
    path = recording(tmp_path / "r.csv", 80)
    done = gatewatch("train", path, "--into", "pumps", "--epochs", "1", "--hidden", "3", "--by", "ann", **models)
    assert done.returncode == 0, done.stderr
    assert "pumps@1 is " in done.stdout
    done = gatewatch("models", "add", "pumps", made[0], "--note", "by hand", "--by", "bob", **models)
    assert done.stdout.startswith("pumps@2 is "), done
    for command, told in (
        (("promote", "pumps@1"), "pumps@champion is version 1 (revision 3)"),
        (("promote", "pumps@2", "--by", "cem"), "pumps@champion is version 2, before 1 (revision 4)"),
        (("rollback", "pumps", "--note", "too many alarms"), "pumps@champion is version 1, before 2 (revision 5)"),
        (("verify", "pumps@1"), "pumps@1: scores its canary as it did"),
        (("verify", "pumps@2"), "pumps@2: has no canary; its files are whole"),
    ):
        done = gatewatch("models", *command, **models)
        assert done.stdout.strip() == told, done
    listing = gatewatch("models", "list", **models).stdout.splitlines()
    assert listing[1].split()[:4] == ["pumps", "2", "champion", "1"]
    shown = gatewatch("models", "show", "pumps", **models).stdout
    assert "rolled back champion from 2 to 1" in shown
    assert "too many alarms" in shown
    assert "by hand" in shown
    assert "channels: pressure, flow" in gatewatch("models", "show", "pumps@champion", **models).stdout


def test_what_cannot_be_done_with_models_is_said_in_one_line(made: list[Path], tmp_path: Path) -> None:
    folder, half = tmp_path / "models", Path(shutil.copytree(made[0], tmp_path / "half"))
    (half / GRAPH).unlink()
    assert gatewatch("models", "add", "pumps", made[0], "--models", folder).returncode == 0
    for arguments, words in (
        (("list",), "which repository? Expected --models FOLDER, or GATEWATCH_MODELS"),
        (("list", "--models", "s3://nowhere/x"), "Install s3fs"),
        (("promote", "pumps", "--models", folder), "which version of pumps? Expected one as pumps@3"),
        (("promote", "pumps@challenger", "--models", folder), "the model pumps has no alias challenger"),
        (("promote", "fans@1", "--models", folder), "there is no model fans"),
        (("rollback", "pumps", "--models", folder), "the model pumps has no alias champion"),
        (("add", "pumps", half, "--models", folder), "model.onnx: cannot be read"),
        (("verify", "--models", folder), "no word points to a version"),
    ):
        done = gatewatch("models", *arguments)
        assert refused(done, words)
        assert done.stderr.count("\n") == 1
    path = recording(tmp_path / "r.csv", 80)
    for options, words in (
        (("--into", "pumps"), "which repository?"),
        (("--into", "Pumps", "--models", str(folder)), "no name of a model"),
        (("--into", "pumps", "--out", "x", "--models", str(folder)), "expected one of: --out"),
        (("--out", "x", "--note", "why"), "are of --into"),
        (("--into", "pumps", "--one-model-per", "stream", "--models", str(folder)), "--into is of one model"),
    ):
        assert refused(gatewatch("train", path, *options), words)


def test_a_version_that_fails_is_named_and_the_others_are_verified(made: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for number, artefact in enumerate(made, 1):
        gatewatch("models", "add", "pumps", artefact, "--models", folder)
        gatewatch("models", "promote", f"pumps@{number}", "--alias", f"a{number}", "--models", folder)
    digest = load_artefact(made[1]).digest.hex()
    (damaged,) = (folder / "artefacts").glob(f"{digest}*")
    (damaged / GRAPH).write_bytes(b"")
    done = gatewatch("models", "verify", "--models", folder)
    assert done.returncode == 1
    assert "pumps@a1: has no canary" in done.stdout
    assert "pumps@a2: " in done.stderr
    assert "model.onnx" in done.stderr
