"""The repository of models from the command line: what is shown, and what cannot be done in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner, Result

from gatewatch.models.artefact.files import GRAPH, load_artefact
from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli import app
from tests.support.cli import gatewatch, recording
from tests.support.samples import make_artefact
from tests.support.whole_path import serving


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


def run(*arguments: str | Path) -> Result:
    """The command in this process, which is sooner; what it refuses is the result's exception."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_what_cannot_be_done_with_models_is_said_in_one_line(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWATCH_MODELS", raising=False)
    monkeypatch.setenv("GATEWATCH_DATA_DIR", str(tmp_path / "none"))
    folder, half = tmp_path / "models", Path(shutil.copytree(made[0], tmp_path / "half"))
    (half / GRAPH).unlink()
    assert run("models", "add", "pumps", made[0], "--models", folder).exit_code == 0
    path, nobody = recording(tmp_path / "r.csv", 80), "http://127.0.0.1:9"
    for arguments, words in (
        (("models", "list"), "which repository? Expected --models FOLDER, GATEWATCH_MODELS"),
        (("models", "list", "--models", "s3://nowhere/x"), "Install s3fs"),
        (("models", "promote", "pumps", "--models", folder), "which version of pumps? Expected one as pumps@3"),
        (("models", "promote", "pumps@night", "--models", folder), "the model pumps has no alias night"),
        (("models", "promote", "fans@1", "--models", folder), "there is no model fans"),
        (("models", "promote", "pumps@1", "--url", nobody, "--by", "me"), "--models and --by are of the command"),
        (("models", "rollback", "pumps", "--models", folder), "the model pumps has no alias champion"),
        (("models", "add", "pumps", half, "--models", folder), "model.onnx: cannot be read"),
        (("models", "verify", "--models", folder), "no word points to a version"),
        (("models", "assign", "p*", "pumps", "--url", nobody), "does not answer"),
        (("train", path, "--into", "pumps"), "which repository?"),
        (("train", path, "--into", "Pumps", "--models", folder), "no name of a model"),
        (("train", path, "--into", "pumps", "--out", "x", "--models", folder), "expected one of: --out"),
        (("train", path, "--out", "x", "--note", "why"), "are of --into"),
        (
            ("train", path, "--into", "a", "--one-model-per", "stream", "--models", folder),
            "each is called after its stream; write {}",
        ),
    ):
        done = run(*arguments)
        assert isinstance(done.exception, GatewatchError), done.output
        assert words in str(done.exception)
        assert "\n" not in str(done.exception)


def test_a_version_that_fails_is_named_and_the_others_are_verified(made: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for number, artefact in enumerate(made, 1):
        run("models", "add", "pumps", artefact, "--models", folder)
        run("models", "promote", f"pumps@{number}", "--alias", f"a{number}", "--models", folder)
    digest = load_artefact(made[1]).digest.hex()
    (damaged,) = (folder / "artefacts").glob(f"{digest}*")
    (damaged / GRAPH).write_bytes(b"")
    done = run("models", "verify", "--models", folder)
    assert done.exit_code == 1
    assert "pumps@a1: has no canary" in done.stdout
    assert "pumps@a2: " in done.stderr
    assert "model.onnx" in done.stderr


def test_rules_of_a_running_service_are_changed_one_by_one(made: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for name in ("pumps", "fans"):
        run("models", "add", name, made[0], "--models", folder)
        run("models", "promote", f"{name}@1", "--models", folder)
    with serving(made[1], tmp_path / "data", GATEWATCH_MODELS=str(folder)) as (url, _):
        pumps, fans, test = "pump-* pumps@champion version 1", "* fans@champion version 1", "pump-1? default"
        pinned, other = "pump-7 (pin) pumps@champion version 1", "pump-* fans@1 version 1"
        for arguments, told in (
            (("assign", "pump-*", "pumps"), [pumps]),
            (("assign", "*", "fans"), [pumps, fans]),
            (("assign", "pump-1?", "default", "--first"), [test, pumps, fans]),
            (("assign", "pump-*", "fans@1"), [test, other, fans]),
            (("unassign", "pump-1?"), [other, fans]),
            (("assign", "pump-7", "pumps", "--pin"), [pinned, other, fans]),
            (("unassign", "*"), [pinned, other]),
        ):
            done = run("models", *arguments, "--url", url)
            assert done.exit_code == 0, done
            rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
            assert rows == ["streams model now", *told, "* default"]
        promoted = run("models", "promote", "pumps@1", "--alias", "night", "--url", url)
        assert promoted.stdout.strip() == "pumps@night is version 1 (revision 3)"
        for arguments, words in (
            (("unassign", "x"), "there is no rule for x"),
            (("assign", "x", "nothing"), "there is no model nothing"),
            (("promote", "pumps@9"), "has no version 9"),
        ):
            refusal = run("models", *arguments, "--url", url).exception
            assert isinstance(refusal, GatewatchError)
            assert words in str(refusal)


def test_a_shadow_begins_is_looked_at_and_ends_by_command(made: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for artefact in made[:2]:
        run("models", "add", "pumps", artefact, "--models", folder)
    run("models", "promote", "pumps@1", "--models", folder)
    with serving(made[1], tmp_path / "data", GATEWATCH_MODELS=str(folder)) as (url, _):
        run("models", "assign", "pump-*", "pumps", "--url", url)
        for arguments, told in (
            (("pumps@2", "--share", "0.25"), "pumps@2 scores 0.25 of the streams of pumps beside it"),
            (("pumps",), "pumps@2 scores 0.25 of the streams of pumps beside it"),
            (("pumps", "--end"), "pumps@2 no longer scores 0.25 of the streams of pumps beside it"),
        ):
            done = run("models", "shadow", *arguments, "--url", url)
            assert done.exit_code == 0, done
            lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
            assert lines[:2] == [told, "readings that both judged: 0; dropped: 0"]
            assert [line.split()[0] for line in lines[-2:]] == ["champion", "shadow"]
        for arguments, words in (
            (("pumps",), "the model pumps has no shadow"),
            (("pumps", "--share", "0.5"), "which version of pumps?"),
            (("pumps@2", "--end"), "--end goes with the model alone"),
            (("pumps@1",), "there is nothing to compare it with"),
        ):
            refusal = run("models", "shadow", *arguments, "--url", url).exception
            assert isinstance(refusal, GatewatchError)
            assert words in str(refusal)


def test_a_service_with_nothing_set_is_given_models_without_a_restart(
    made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four lists of channels, a channel more, then three models for three patterns, a rule each."""
    monkeypatch.delenv("GATEWATCH_MODELS", raising=False)
    monkeypatch.delenv("GATEWATCH_REDIS_URL", raising=False)
    monkeypatch.setenv("GATEWATCH_DATA_DIR", str(tmp_path / "data"))
    values = {"pressure": 4.0, "flow": 120.0}
    lists: dict[str, dict[str, float] | float] = {
        "pump-1": values, "fan-1": {"speed": 1480.0}, "press-1": {"oil": 63.0, "outlet": 7.9}, "meter-1": 17.5,
    }  # fmt: skip

    with serving(None, tmp_path / "data") as (url, process):

        def model_of(stream: str, sent: dict[str, float] | float) -> str:
            result = httpx2.post(f"{url}/v1/streams/{stream}/readings", json={"values": sent}).json()
            assert result["status"] == "warming_up", result
            assert result["score"] is not None
            return str(result["model"])

        (general,) = {model_of(stream, sent) for stream, sent in lists.items()}
        assert model_of("fan-1", {"speed": 1481.0, "bearing": 38.5}) == general
        for number, kind in enumerate(("pump", "valve", "drum")):
            commands = (("add", f"{kind}s", made[number % 2]), ("promote", f"{kind}s@1"))
            for command in (*commands, ("assign", f"{kind}-*", f"{kind}s", "--url", url)):
                done = run("models", *command)
                assert done.exit_code == 0, done.exception
        digests = [load_artefact(folder).digest.hex() for folder in made]
        assert [model_of(f"{kind}-1", values) for kind in ("pump", "valve", "drum")] == [*digests, digests[0]]
        assert model_of("meter-1", 17.4) == general
        assert process.poll() is None
    assert sorted(path.name for path in (tmp_path / "data/models/log").iterdir())[0] == "drums.00000001.json"


def test_commands_take_no_folder_for_a_repository_that_no_service_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWATCH_MODELS", raising=False)
    monkeypatch.setenv("GATEWATCH_DATA_DIR", str(tmp_path))
    assert run("models", "list").exit_code == 0
    for name, value in (("GATEWATCH_DATA_DIR", str(tmp_path / "other")), ("GATEWATCH_REDIS_URL", "redis://elsewhere")):
        monkeypatch.setenv(name, value)
        assert "which repository?" in str(run("models", "list").exception)
    assert not list(tmp_path.iterdir())
