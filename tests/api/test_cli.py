"""The command as a user runs it: what it writes, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gatewatch.models.artefact.files import load_artefact
from tests.support.cli import gatewatch, recording, refused, rows_of
from tests.support.samples import CHANNELS


def test_scan_writes_one_row_of_scores_for_each_row(artefact: Path, tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv")
    done = gatewatch("scan", path, "--model", artefact, "--out", tmp_path / "s.csv")
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "s.csv")
    assert len(rows) == 60
    assert list(rows[0]) == [
        "timestamp", "score", "status", "alert",
        "pressure.expected", "pressure.residual", "flow.expected", "flow.residual", "reason",
        "pressure.difference", "pressure.attribution", "pressure.low", "pressure.high",
        "flow.difference", "flow.attribution", "flow.low", "flow.high",
    ]  # fmt: skip
    assert rows[0]["timestamp"] == "2023-11-14T22:13:20Z"
    assert [row["status"] for row in rows[:4]] == ["warming_up"] * 4


def test_scan_trains_on_a_paired_file_and_carries_the_state_on(tmp_path: Path) -> None:
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        recording(tmp_path / folder / "pump.csv", 80, seed=len(folder))
    done = gatewatch(
        "scan", tmp_path / "test", "--train", tmp_path / "train", "--out", tmp_path / "scores", "--epochs", "2"
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "scores" / "pump.csv")
    assert len(rows) == 80
    assert rows[0]["status"] != "warming_up"


def test_scan_on_its_own_first_rows_does_not_judge_them(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv", 80)
    done = gatewatch("scan", path, "--train-rows", "50", "--out", tmp_path / "s.csv", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    statuses = [row["status"] for row in rows_of(tmp_path / "s.csv")]
    assert statuses[:50] == ["warming_up"] * 50
    assert "warming_up" not in statuses[50:]


def test_the_same_seed_gives_the_same_artefact(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv")
    for name in ("a", "b"):
        done = gatewatch(
            "train", path, "--out", tmp_path / name, "--epochs", "2", "--hidden", "3", "--unit", "flow=l/min"
        )
        assert done.returncode == 0, done.stderr
    for file in ("model.onnx", "weights.safetensors", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert [channel["unit"] for channel in manifest["channels"]] == ["", "l/min"]


def test_what_cannot_be_trained_on_is_refused_in_one_line(tmp_path: Path) -> None:
    short, out = recording(tmp_path / "short.csv", 20), tmp_path / "out"
    assert refused(gatewatch("train", short, "--out", out), "20 readings in the longest of 1 recordings; at least 43")
    bad = tmp_path / "bad.csv"
    bad.write_text("timestamp,a\n1,on\n")
    assert refused(gatewatch("train", bad, "--out", out), "row 2, column a: 'on' is not a number")
    assert refused(gatewatch("train", tmp_path / "no.csv", "--out", out), "no such file or folder")
    good = recording(tmp_path / "good.csv")
    assert refused(gatewatch("train", good, "--out", out, "--hidden", "0"), "--hidden is 0")
    unknown = gatewatch("train", good, "--out", out, "--architecture", "elman")
    assert refused(unknown, "--architecture is 'elman': Input should be 'lstm', 'peephole', 'gru'")
    assert refused(gatewatch("train", good, "--out", out, "--unit", "bar"), "expected channel=unit")
    typo = gatewatch("train", good, "--out", out, "--unit", "presure=bar")
    assert refused(typo, "a unit is given for presure; the recordings have pressure, flow")
    other = tmp_path / "other.csv"
    other.write_text("timestamp,speed\n" + "".join(f"{n},{n}\n" for n in range(60)))
    assert refused(gatewatch("train", good, other, "--out", out), "its channels differ")
    assert not out.exists()


def test_a_recording_too_short_is_left_out_by_name(tmp_path: Path) -> None:
    files = (recording(tmp_path / "long.csv", 60), recording(tmp_path / "brief.csv", 20))
    done = gatewatch("train", *files, "--out", tmp_path / "out", "--epochs", "1", "--hidden", "3")
    assert done.returncode == 0, done.stderr
    assert "too short, left out: brief" in done.stderr
    assert "60 readings of 1 recording," in done.stdout


def test_a_constant_channel_can_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("timestamp,a,b\n" + "".join(f"{60 * n},5,{n % 7}\n" for n in range(80)))
    done = gatewatch("scan", path, "--train-rows", "60", "--out", tmp_path / "s.csv", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert all(float(row["score"]) < 1e6 for row in rows_of(tmp_path / "s.csv"))


def test_files_are_scanned_with_the_general_model_as_each_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name, channels, rows in (("a", "x,y", 70), ("b", "x,y", 50), ("c", "z", 60)):
        lines = [f"{1_700_000_000 + 60 * row}," + ",".join(map(str, rng.normal(size=len(channels.split(","))).round(3)))
                 for row in range(rows)]  # fmt: skip
        (tmp_path / f"{name}.csv").write_text(f"timestamp,{channels}\n" + "\n".join(lines) + "\n")
    files = [tmp_path / f"{name}.csv" for name in "abc"]
    done = gatewatch("scan", *files, "--out", tmp_path / "together")
    assert done.returncode == 0, done.stderr
    for file in files:
        alone = gatewatch("scan", file, "--out", tmp_path / "alone.csv")
        assert alone.returncode == 0, alone.stderr
        assert (tmp_path / "together" / file.name).read_text() == (tmp_path / "alone.csv").read_text()


def test_what_cannot_be_scanned_is_refused_in_one_line(artefact: Path, tmp_path: Path) -> None:
    good, out = recording(tmp_path / "good.csv"), tmp_path / "s.csv"
    both = gatewatch("scan", good, "--model", artefact, "--train-rows", "9", "--out", out)
    assert refused(both, "expected at most one of --model DIR, --train FILE, --train-rows N")
    assert refused(gatewatch("scan", good, "--channel", "speed", "--out", out), "good: no channel speed; it has")
    assert refused(gatewatch("scan", good, "--alerts-per-week", "0", "--out", out), "--alerts-per-week is 0.0")
    assert refused(gatewatch("scan", good, "--model", tmp_path, "--out", out), "manifest.json: cannot be read")
    assert refused(gatewatch("scan", good, "--train-rows", "60", "--out", out), "but the file has 60 rows")
    other = tmp_path / "other.csv"
    other.write_text("timestamp,speed\n1,2\n")
    assert refused(
        gatewatch("scan", other, "--model", artefact, "--out", out), "has the channels pressure, flow; found speed"
    )
    assert not out.exists()


def test_what_cannot_be_written_is_said_in_one_line(artefact: Path, tmp_path: Path) -> None:
    path, file = recording(tmp_path / "r.csv"), tmp_path / "file"
    file.write_text("")
    assert refused(gatewatch("scan", path, "--model", artefact, "--out", tmp_path), "is a folder; the scores of")
    assert refused(
        gatewatch("scan", path, "--model", artefact, "--out", file / "s.csv"), "the scores cannot be written"
    )
    assert refused(gatewatch("replay", path, "--out", tmp_path), "the answers cannot be written: Is a directory")
    assert refused(gatewatch("replay", path, "--url", "http://[::1"), "http://[::1: ")
    assert refused(gatewatch("demo", "--write-recordings", file), "the recordings cannot be written")


def test_scores_are_never_written_over_other_scores_or_a_recording(artefact: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        recording(tmp_path / folder / "x.csv", seed=len(folder))
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "scores"
    before = (a / "x.csv").read_bytes()
    model = ("--model", artefact, "--out")
    both = f"{a / 'x.csv'} and {b / 'x.csv'} would both be written to {out / 'x.csv'}"
    assert refused(gatewatch("scan", a / "x.csv", b / "x.csv", *model, out), both)
    assert refused(gatewatch("scan", a, b, *model, out), both)
    assert refused(gatewatch("scan", a, *model, a), "would be written over the recording")
    assert refused(gatewatch("scan", b, "--train", a, "--out", a), "would be written over the recording")
    assert not out.exists()
    assert (a / "x.csv").read_bytes() == before
    done = gatewatch("scan", tmp_path, *model, out)
    assert done.returncode == 0, done.stderr
    assert len(rows_of(out / "a" / "x.csv")) == len(rows_of(out / "b" / "x.csv")) == 60


def test_replay_takes_one_name_for_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("timestamp,stream,pressure,flow\n1,p,1,2\n1,q,1,2\n")
    assert refused(gatewatch("replay", path, "--stream", "live"), "--stream live names one stream, the file holds 2")
    assert refused(gatewatch("replay", path, "--out", path), "would be written over the recording")


def test_serve_says_which_setting_is_wrong(artefact: Path, tmp_path: Path) -> None:
    assert refused(gatewatch("serve", GATEWATCH_CHANNELS="a,,b"), "GATEWATCH_CHANNELS is 'a,,b': expected names")
    assert refused(gatewatch("serve", GATEWATCH_MODEL=str(artefact), GATEWATCH_PORT="http"), "GATEWATCH_PORT is 'http'")
    assert refused(gatewatch("serve", GATEWATCH_MODEL=str(tmp_path)), "made by gatewatch train\n")
    url = gatewatch("serve", "--show-settings", GATEWATCH_MODEL="demo", GATEWATCH_REDIS_URL="redis://:hunter2@[::1")
    assert refused(url, "GATEWATCH_REDIS_URL is 'redis://***': expected redis://")
    assert "hunter2" not in url.stderr
    future = gatewatch("serve", GATEWATCH_MODEL="demo", GATEWATCH_FUTURE_S="inf")
    assert refused(future, "GATEWATCH_FUTURE_S is 'inf': Input should be a finite number")


def test_settings_are_shown_without_the_password(artefact: Path) -> None:
    done = gatewatch(
        "serve", "--show-settings", "--port", "9000",
        GATEWATCH_MODEL=str(artefact), GATEWATCH_REDIS_URL="rediss://ops:hunter2@db.example:6380/1",
    )  # fmt: skip
    shown = json.loads(done.stdout)
    assert shown["GATEWATCH_REDIS_URL"] == "rediss://ops:***@db.example:6380/1"
    assert shown["GATEWATCH_PORT"] == 9000
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["serve", "train", "scan", "replay", "demo"])
def test_every_command_explains_itself(command: str) -> None:
    assert gatewatch(command, "--help").returncode == 0


def test_one_model_for_each_stream_or_folder_and_a_stream_too_short_stops_no_other(tmp_path: Path) -> None:
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        recording(tmp_path / folder / f"{folder}-pump.csv", 60)
    recording(tmp_path / "south" / "brief.csv", 20)
    small = ("--epochs", "1", "--hidden", "3")
    per_stream = gatewatch("train", tmp_path, "--out", tmp_path / "out", "--one-model-per", "stream", *small)
    assert per_stream.returncode == 2
    assert "1 of 3 models could not be trained: brief: 20 readings in the longest" in per_stream.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["north-pump", "south-pump"]
    per_channel = gatewatch(
        "train", tmp_path / "north", "--out", tmp_path / "each", "--one-model-per", "channel",
        "--unit", "flow=l", *small,
    )  # fmt: skip
    assert per_channel.returncode == 0, per_channel.stderr
    made = [load_artefact(tmp_path / "each" / name).manifest for name in CHANNELS]
    assert [[(channel.name, channel.unit) for channel in one.channels] for one in made] == [  # type: ignore[union-attr]
        [("pressure", "")], [("flow", "l")],
    ]  # fmt: skip
    per_folder = gatewatch("train", tmp_path, "--check", "--one-model-per", "folder")
    assert [line for line in per_folder.stdout.splitlines() if line.endswith(":")] == ["north:", "south:"]


def test_options_of_train_that_do_not_go_together_are_refused(artefact: Path, tmp_path: Path) -> None:
    path, out = recording(tmp_path / "r.csv"), ("--out", tmp_path / "out")
    assert refused(gatewatch("train", path), "expected one of: --out FOLDER or --into MODEL")
    assert refused(gatewatch("train", *out), "expected one of: files, --from-service URL, --from-prometheus URL")
    assert refused(gatewatch("train", *out, "--from-prometheus", "http://x"), "needs --query, --start and --end")
    assert refused(
        gatewatch("train", path, *out, "--one-model-per", "week"), "expected one of all, stream, folder, channel"
    )
    several = gatewatch("train", path, "--out", artefact, "--one-model-per", "stream")
    assert refused(several, "is an artefact; --one-model-per stream needs a folder for several")


def test_without_the_extra_train_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from gatewatch.service.cli import main; main()"
    arguments = ("train", recording(tmp_path / "r.csv"), "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert refused(done, "train needs the extra `train`: pip install 'gatewatch[train]'")
