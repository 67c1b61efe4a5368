"""--json: one object on standard output, and nothing else there, of commands whose answer a script reads."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2

from gatewatch.models.artefact.files import load_artefact
from tests.support.cli import gatewatch, recording
from tests.support.whole_path import serving

SMALL = ("--epochs", "1", "--hidden", "3", "--json")


def test_trainings_tell_of_each_model_and_of_what_failed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    recording(tmp_path / "in" / "pump.csv", 60)
    recording(tmp_path / "in" / "brief.csv", 20)
    done = gatewatch("train", tmp_path / "in", "--out", tmp_path / "out", "--one-model-per", "stream", *SMALL)
    assert done.returncode == 2
    told = json.loads(done.stdout)
    (model,) = told["models"]
    assert (model["name"], model["readings"], model["confidence"]) == ("pump", 60, "low")
    assert load_artefact(Path(model["artefact"])).manifest.training["held_out_loss"] == model["held_out_loss"]
    assert model["channels"] == ["pressure", "flow"]
    assert "20 readings" in told["failed"]["brief"]


def test_a_training_into_the_repository_tells_the_version(tmp_path: Path) -> None:
    path, models = recording(tmp_path / "pump.csv"), tmp_path / "models"
    models.mkdir()
    done = gatewatch("train", path, "--into", "pumps", "--models", models, *SMALL)
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert (model["model"], model["version"], model["artefact"], len(model["digest"])) == ("pumps", 1, None, 16)


def test_a_replay_tells_what_became_of_the_readings(artefact: Path, tmp_path: Path) -> None:
    path = recording(tmp_path / "pump.csv")
    with serving(artefact, tmp_path / "data") as (url, _):
        httpx2.post(f"{url}/v1/readings", json={"stream": "pump", "seq": 3, "values": {"pressure": 1.0}})
        done = gatewatch("replay", path, "--url", url, "--start-seq", "3", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["streams"]["pump"]["conflict"] == told["refused"] == 1
    assert sum(told["streams"]["pump"].values()) == 60
    assert "pump" in told["first_refused"]


def test_a_comparison_tells_the_figures_of_its_table(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv", 400)
    out = tmp_path / "out"
    done = gatewatch("compare", path, "--architectures", "gru", "--layers", "1", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["recommended"], told["page"], told["failed"]) == ("gru", str(out / "compare.html"), {})
    header, row = (out / "compare.csv").read_text().splitlines()
    figures = told["architectures"]["gru"]
    assert float(row.split(",")[header.split(",").index("loss")]) == float(f"{figures['loss']:.7g}")
