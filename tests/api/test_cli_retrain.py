"""`gatewatch retrain` and `models promote --if-better`: what is left out, what decides, and what is left to read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import httpx2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gatewatch.models.artefact.gate_report import GateReport
from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli import app
from tests.support.samples import make_artefact
from tests.support.whole_path import serving

SMALL = ("--hidden", "4", "--layers", "1")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def waves(rows: int, start: int = 0, rise: float = 0.0) -> np.ndarray:
    """(N, 2) two channels that swing together, at a level that may have changed."""
    at = np.arange(start, start + rows)
    noise = np.random.default_rng(start).normal(0, 0.1, (rows, 2))
    return np.stack([3 + rise + np.sin(at / 5), 4 + np.cos(at / 5)], axis=1) + noise


def written(path: Path, values: np.ndarray, start: int = 0, fault: slice | None = None) -> Path:
    """A recording of one reading a minute, with a label column where it has a fault."""
    values = values.copy()
    label = np.zeros(len(values), int)
    if fault is not None:
        values[fault] += 9.0
        label[fault] = 1
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("timestamp", "pressure", "flow", *(["label"] if fault else [])))
        for row, (pair, mark) in enumerate(zip(values.tolist(), label.tolist(), strict=True)):
            writer.writerow((1_700_000_000 + 60 * (start + row), *pair, *([mark] if fault else [])))
    return path


def reports(models: Path, name: str = "pumps") -> dict[str, GateReport]:
    return {
        path.name: GateReport.model_validate_json(path.read_text())
        for path in sorted((models / "reports").glob(f"{name}.*.json"))
    }


def test_a_model_is_trained_anew_promoted_by_the_rules_and_rolled_back(tmp_path: Path) -> None:
    models = tmp_path / "models"
    june = written(tmp_path / "june.csv", waves(400), fault=slice(100, 110))
    first = run("retrain", "pumps", june, *SMALL, "--epochs", 30, "--models", models, "--by", "cron")
    assert first.exit_code == 0, first
    assert "left out 10 of 400 readings (2.5%): 10 that were labelled (1 faults), 0 that were judged" in first.stderr
    assert "310 readings of 2 recordings" in first.stderr  # of 320: the rest is not trained on
    (report,) = reports(models).values()
    assert (report.against, report.material.trained_on, report.material.newest) == (None, 310, 80)
    july = written(tmp_path / "july.csv", waves(400, 400, rise=6.0), 400, fault=slice(390, 400))
    second = run("retrain", "pumps", june, july, "--models", models, "--keep-judged", "--alias", "night")
    assert second.exit_code == 0, second
    run("models", "promote", "pumps@1", "--models", models)
    gate = ("models", "promote", "pumps@2", "--if-better", "--models", models)
    assert run(*gate).exit_code == 3  # its report holds it against the general model
    better = run(*gate, july)
    assert better.exit_code == 0, better
    assert "pumps@champion is version 2, before 1" in better.stdout
    last = reports(models)["pumps.2.0002.json"]
    assert (last.against, last.material.events, last.new.found) == (1, 1, 1)
    assert (last.new.loss or 9) < (last.before.loss or 0)
    worse = run("models", "promote", "pumps@1", "--if-better", july, "--models", models)
    assert worse.exit_code == 3
    assert "not promoted: pumps@1 is not better than version 2" in " ".join(worse.stderr.split())
    run("models", "rollback", "pumps", "--models", models)
    shown = run("models", "show", "pumps", "--models", models).stdout
    assert "better than version 1 on 358 readings: 358 readings; loss" in shown
    assert "rolled back champion from 2 to 1" in shown
    assert "[x] its forecasts are no worse" in run("models", "show", "pumps@2", "--models", models).stdout


def test_what_the_champion_judges_anomalous_is_left_out_unless_it_is_to_be_kept(tmp_path: Path) -> None:
    models = tmp_path / "models"
    calm = written(tmp_path / "calm.csv", waves(300))
    run("retrain", "pumps", calm, *SMALL, "--epochs", 20, "--models", models)
    run("models", "promote", "pumps@1", "--models", models)
    values = waves(300, 300)
    values[100:130] += 9.0
    strange = written(tmp_path / "strange.csv", values, 300)
    done = run("retrain", "pumps", calm, strange, "--epochs", 1, "--models", models, "--seed", 1)
    assert done.exit_code == 0, done
    judged = reports(models)["pumps.2.0001.json"].material.left_out["judged"]
    assert 30 <= judged <= 100
    kept = run("retrain", "pumps", calm, strange, "--epochs", 1, "--models", models, "--seed", 2, "--keep-judged")
    assert kept.exit_code == 0, kept
    assert reports(models)["pumps.3.0001.json"].material.left_out["judged"] == 0
    run("models", "promote", "pumps@1", "--models", models)  # whichever was better
    again = run("retrain", "pumps", calm, "--models", models)
    assert "the same readings and settings gave the same model" in again.stdout


def test_the_history_of_a_service_trains_without_its_open_fault(tmp_path: Path) -> None:
    models, artefact = tmp_path / "models", make_artefact(tmp_path / "artefact", level_threshold=8.0)
    run("models", "add", "pumps", artefact, "--models", models)
    run("models", "promote", "pumps@1", "--models", models)
    environment = {"GATEWATCH_MODELS": str(models), "GATEWATCH_HISTORY_READINGS": "400"}
    with serving(artefact, tmp_path / "data", **environment) as (url, _):
        for stream, count in (("pump-1", 300), ("pump-2", 300), ("other", 50)):
            values = waves(count)
            if stream == "pump-2":
                values[280:] += 40.0
            sent = [
                {"stream": stream, "timestamp": 1_700_000_000 + 60 * row, "values": {"pressure": a, "flow": b}}
                for row, (a, b) in enumerate(values.tolist())
            ]
            assert httpx2.post(f"{url}/v1/readings", content=json.dumps(sent)).status_code == 200
        done = run("retrain", "pumps", "--from-service", url, *SMALL, "--epochs", 2, "--models", models)
        only = ("--stream", "pump-?")
        gate = run("models", "promote", "pumps@1", "--if-better", "--from-service", url, *only, "--models", models)
        trained = run("train", "--from-service", url, *only, "--out", tmp_path / "out", *SMALL, "--epochs", 1)
    assert done.exit_code == 0, done
    held, report = reports(models).values()  # of versions 1 and 2
    assert report.material.left_out["judged"] >= 20
    assert (gate.exit_code, held.against) == (0 if held.better else 3, 2), gate
    assert report.material.streams == 3  # of all: the default model is a version of pumps
    assert trained.exit_code == 0, trained
    assert "that were judged anomalous" in trained.stderr
    assert "left out 20 of 600 readings" in trained.stderr


def test_what_cannot_be_retrained_or_held_against_the_champion_is_said_in_one_line(tmp_path: Path) -> None:
    models, nobody = tmp_path / "models", "http://127.0.0.1:9"
    path = written(tmp_path / "r.csv", waves(80))
    wrong = tmp_path / "labels.csv"
    wrong.write_text("stream,start,end\nr,2030-01-01T00:00:00Z,2030-01-02T00:00:00Z\n")
    run("models", "add", "fans", make_artefact(tmp_path / "fans", channels=("speed",)), "--models", models)
    for arguments, words in (
        (("retrain", "pumps", "--models", models), "expected one of: files, --from-service URL"),
        (("retrain", "Pumps", path, "--models", models), "no name of a model"),
        (("retrain", "pumps", path, "--stream", "x", "--models", models), "--stream is of --from-service"),
        (("retrain", "pumps", "--from-service", nobody, "--models", models), "does not answer"),
        (("retrain", "pumps", path, "--labels", wrong, "--models", models), "row 2: no reading of the files lies in"),
        (("retrain", "pumps", path, "--hidden", "0", "--models", models), "--hidden is 0"),
        (("models", "promote", "fans@1", path, "--models", models), "are of --if-better"),
        (("models", "promote", "fans@1", "--if-better", path, "--models", models), "fans@1 has the channels speed"),
    ):
        done = run(*arguments)
        assert isinstance(done.exception, GatewatchError), done
        assert words in str(done.exception)
    with pytest.raises(FileNotFoundError):
        (models / "reports").iterdir().__next__()
