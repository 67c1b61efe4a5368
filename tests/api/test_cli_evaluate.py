"""evaluate, compare, --tune and --report as a user runs them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli import app
from gatewatch.service.commands.compare import compare
from tests.support.samples import CHANNELS

FAULT = range(100, 120)


def gatewatch(*arguments: object) -> Result:
    """Run the command in this process; errors for the user come through as they are raised."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def recording(path: Path, label: str | None = "label", rows: int = 200, seed: int = 0) -> Path:
    """Noise around 3 with a fault of twenty rows, one row a minute."""
    values = np.random.default_rng(seed).normal(3, 0.3, (rows, len(CHANNELS)))
    values[FAULT] = 30
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("timestamp", *CHANNELS, *([label] if label else [])))
        for row in range(rows):
            cells = [1_700_000_000 + 60 * row, *map(float, values[row])]
            writer.writerow([*cells, int(row in FAULT)] if label else cells)
    return path


def intervals(path: Path, *streams: str) -> Path:
    begin, end = (1_700_000_000 + 60 * row for row in (FAULT.start, FAULT.stop - 1))
    path.write_text("stream,start,end\n" + "".join(f"{stream},{begin},{end}\n" for stream in streams))
    return path


def evaluated(out: Path, *arguments: object) -> dict[str, Any]:
    done = gatewatch("evaluate", *arguments, "--out", out, "--vus-window", "10")
    assert done.exit_code == 0, done.output
    assert "event F1" in done.output
    found: dict[str, Any] = json.loads(out.read_text())
    assert json.loads(gatewatch("evaluate", *arguments, "--vus-window", "10", "--json").stdout) == found
    return found


def test_labels_in_a_column_and_as_intervals_and_scores_made_before_give_the_same_figures(
    artefact: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        recording(tmp_path / "in" / f"{name}.csv", seed=seed)
        recording(tmp_path / "named" / f"{name}.csv", "fault", seed=seed)
        recording(tmp_path / "bare" / f"{name}.csv", None, seed=seed)
    labels = intervals(tmp_path / "labels.csv", "a", "b")
    assert gatewatch("scan", tmp_path / "bare", "--model", artefact, "--out", tmp_path / "scores").exit_code == 0
    column = evaluated(tmp_path / "1.json", tmp_path / "in", "--model", artefact)
    assert column == evaluated(tmp_path / "2.json", tmp_path / "named", "--model", artefact, "--label-column", "fault")
    assert column == evaluated(tmp_path / "3.json", tmp_path / "bare", "--model", artefact, "--labels", labels)
    assert column == evaluated(
        tmp_path / "4.json", tmp_path / "bare", "--scores", tmp_path / "scores", "--labels", labels
    )
    assert column["figures"]["event recall"] == {"value": 1.0, "low": None, "high": None}
    assert (column["events"], column["readings"], sorted(column["streams"])) == (2, 400, ["a", "b"])


def test_a_detector_is_trained_first_and_its_training_rows_are_not_judged(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv")
    found = evaluated(tmp_path / "e.json", path, "--train-rows", "90", "--epochs", "2")
    assert (found["readings"], found["judged"]) == (200, 110)
    assert found["streams"]["r"]["event recall"] == 1


def test_what_cannot_be_evaluated_is_refused(artefact: Path, tmp_path: Path) -> None:
    labelled, bare = recording(tmp_path / "r.csv"), recording(tmp_path / "bare.csv", None)

    def refused(message: str, *arguments: object) -> None:
        with pytest.raises(GatewatchError, match=message):
            gatewatch("evaluate", *arguments, "--model", artefact)

    refused("bare.csv: no labels; expected a column label or anomaly", labelled, bare)
    refused("no recordings are of a stream fan", bare, "--labels", intervals(tmp_path / "l.csv", "fan"))
    refused("labels given twice", labelled, "--labels", intervals(tmp_path / "l.csv", "r"))
    empty = tmp_path / "calm.csv"
    empty.write_text("timestamp,pressure,flow,label\n" + "".join(f"{n},1,2,0\n" for n in range(50)))
    refused("no event in 1 labelled recordings", empty)
    refused("--scores has the scores", labelled, "--scores", tmp_path)
    with pytest.raises(GatewatchError, match="bare.csv: not the scores of a scan"):
        gatewatch("evaluate", bare, "--scores", tmp_path / "none", "--labels", intervals(tmp_path / "l.csv", "bare"))
    gatewatch("scan", bare, "--model", artefact, "--out", tmp_path / "scores" / "bare.csv")
    other = recording(tmp_path / "long" / "bare.csv", None, rows=210)
    with pytest.raises(GatewatchError, match=r"200 rows that are not those of bare \(210\)"):
        gatewatch("evaluate", other, "--scores", tmp_path / "scores", "--labels", intervals(tmp_path / "l.csv", "bare"))


def test_compare_writes_a_table_a_page_and_plots(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv", rows=300)
    done = gatewatch(
        "compare", path, "--architectures", "gru", "--hidden", 4, "--layers", 1, "--epochs", 1, "--out",
        tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0
    assert "VUS-PR" in done.output
    assert "gru alone can score a running stream" in done.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"compare.html", "compare.csv", "figures.svg", "loss-and-cost.svg", "training.svg"}


def test_compare_refuses_what_it_does_not_know_before_it_trains(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv")
    with pytest.raises(GatewatchError, match=r"--architectures: 'elman' unknown; expected some of lstm"):
        gatewatch("compare", path, "--architectures", "lstm,elman", "--out", tmp_path / "out")
    with pytest.raises(GatewatchError, match="is a file; expected a folder"):
        gatewatch("compare", path, "--out", path)
    with pytest.raises(GatewatchError, match="--hidden is 0"):
        gatewatch("compare", path, "--hidden", 0, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_train_searches_reports_and_writes_the_artefact_of_the_best(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv", None)
    done = gatewatch(
        "train", path, "--out", tmp_path / "best", "--tune", 2, "--epochs", 1, "--hidden", 4, "--report",
        tmp_path / "report.html",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "best of the search in" in done.output
    assert (tmp_path / "best-study" / "study.journal").exists()
    settings = json.loads((tmp_path / "best" / "manifest.json").read_text())["architecture_settings"]
    assert f"hidden {settings['hidden']}" in done.output
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_what_evaluate_takes_for_labels_is_no_channel_for_the_others(artefact: Path, tmp_path: Path) -> None:
    folder, scores = tmp_path / "normal", tmp_path / "scores.csv"
    labelled, _ = recording(folder / "r.csv"), recording(folder / "n.csv", None)
    trained = gatewatch("train", folder, "--out", tmp_path / "out", "--epochs", 1, "--hidden", 4)
    assert trained.exit_code == 0, trained.output
    assert f"label: label: no channel; it marks {len(FAULT)} readings (r). Left out" in trained.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [channel["name"] for channel in manifest["channels"]] == list(CHANNELS)
    assert manifest["training"]["suitability"]["findings"][0]["kind"] == "label"
    for judge in (("--model", artefact), ("--train", labelled, "--epochs", 1), ()):
        done = gatewatch("scan", labelled, *judge, "--out", scores)
        assert "left out, since evaluate takes such columns for labels: label" in done.output
        assert "label.expected" not in scores.read_text()
    gatewatch("scan", labelled, "--channel", "label", "--out", scores)
    assert "label.expected" in scores.read_text()


def test_each_stream_is_searched_from_the_settings_given_and_has_a_study_of_its_own(tmp_path: Path) -> None:
    files = [recording(tmp_path / f"{name}.csv", None, seed=seed) for seed, name in enumerate("ab")]
    done = gatewatch(
        "train", *files, "--out", tmp_path / "out", "--one-model-per", "stream", "--tune", 2, "--epochs", 1,
        "--hidden", 4, "--layers", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    firsts = [line for line in done.output.splitlines() if line.startswith("1 of 2: held-out loss")]
    assert len(firsts) == 2
    assert all("layers 1, hidden 4," in line for line in firsts)
    bests = [line for line in done.output.splitlines() if line.startswith("best of the search in")]
    for name, best in zip("ab", bests, strict=True):
        assert str(tmp_path / "out-study" / name / "study.journal") in best
        settings = json.loads((tmp_path / "out" / name / "manifest.json").read_text())["architecture_settings"]
        assert f"layers {settings['layers']}, hidden {settings['hidden']}," in best


def test_train_refuses_before_it_trains_what_it_would_not_use_or_could_not_write(tmp_path: Path) -> None:
    path, out = recording(tmp_path / "r.csv", None), tmp_path / "out"
    before = path.read_bytes()
    for options, words in {
        ("--study", tmp_path): "expected --tune N beside it",
        ("--stream", "a"): "expected its URL beside it",
        ("--start", "1"): "are of --from-prometheus",
        ("--from", "general", "--checkpoint", tmp_path, "--unit", "flow=l"): "not go with --checkpoint, --unit",
        ("--from", "general", "--one-model-per", "stream"): "not go with --one-model-per",
        ("--from", "general", "--architecture", "lstm", "--hidden", 8): "not go with --architecture, --hidden$",
        ("--report", path): "its name ending in .html",
        ("--checkpoint", out): "which holds the artefact alone",
        ("--tune", 1, "--study", out / "study"): "which holds the artefact alone",
    }.items():
        with pytest.raises(GatewatchError, match=words):
            gatewatch("train", path, "--out", out, *options)
    with pytest.raises(GatewatchError, match=r"r\.csv exists and is not an artefact"):
        gatewatch("train", path, "--out", path)
    assert not out.exists()
    assert path.read_bytes() == before


def test_the_figures_are_never_written_over_what_is_read(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv", None)
    for read in (path, intervals(tmp_path / "l.csv", "r")):
        with pytest.raises(GatewatchError, match="is read here; name another file"):
            gatewatch("evaluate", path, "--labels", tmp_path / "l.csv", "--out", read)


def still(path: Path, rows: list[str]) -> Path:
    path.write_text("timestamp,a,b\n" + "".join(f"{60 * at},{row}\n" for at, row in enumerate(rows)))
    return path


@pytest.mark.parametrize("row", ["1,0", "1,", ","])
def test_no_model_is_trained_on_recordings_in_which_nothing_changes(tmp_path: Path, row: str) -> None:
    path = still(tmp_path / "still.csv", [row] * 100)
    with pytest.raises(GatewatchError, match=r"no channel ever changes in the recordings \(a, b\)"):
        gatewatch("train", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_that_change_are_no_channel_that_does_and_a_search_is_not_begun_first(tmp_path: Path) -> None:
    path = still(tmp_path / "still.csv", [f"1,{row % 2}" for row in range(100)])
    path.write_text(path.read_text().replace("timestamp,a,b", "timestamp,a,label"))
    for options in ((), ("--tune", "2")):
        with pytest.raises(GatewatchError, match=r"no channel ever changes in the recordings \(a\)"):
            gatewatch("train", path, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out-study").exists()


def test_recordings_without_a_value_are_refused_by_scan_too(tmp_path: Path) -> None:
    path = still(tmp_path / "empty.csv", [","] * 100)
    with pytest.raises(GatewatchError, match=r"no channel has a value in the recordings \(a, b\)"):
        gatewatch("scan", path, "--train", path, "--epochs", "1", "--out", tmp_path / "scores.csv")


def test_what_never_changed_in_training_is_strange_when_it_does(tmp_path: Path) -> None:
    train, path = still(tmp_path / "train.csv", ["1,0"] * 300), still(tmp_path / "r.csv", ["1,0"] * 100 + ["2,0"] * 5)
    gatewatch("scan", path, "--train", train, "--epochs", "1", "--out", tmp_path / "scores.csv")
    status = [row["status"] for row in csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())]
    assert status == ["normal"] * 100 + ["anomalous"] * 5


def test_a_recording_of_other_channels_than_the_one_trained_on_is_refused_before_training(tmp_path: Path) -> None:
    path, normal = recording(tmp_path / "r.csv", None), recording(tmp_path / "n.csv", None)
    path.write_text(path.read_text().replace("flow", "level"))
    with pytest.raises(GatewatchError, match=r"r\.csv has the channels pressure, level; found pressure, flow in the"):
        gatewatch("scan", path, "--train", normal, "--out", tmp_path / "s.csv")
    assert not (tmp_path / "s.csv").exists()


def test_a_comparison_that_cannot_be_written_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("")
    path = recording(tmp_path / "r.csv", None)
    with pytest.raises(GatewatchError, match="cannot be written"):
        compare([path], tmp_path / "taken" / "out", "rnn", hidden=4, layers=1, epochs=1)
    assert "rnn alone can score a running stream" in capsys.readouterr().out
