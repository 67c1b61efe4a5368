"""Train a tiny model, save it, serve it as a user would, post to it, stop it in the middle, go on."""

from __future__ import annotations

import csv
import signal
import threading
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from starlette.testclient import TestClient

from gatewatch.models.detectors.detector import STATUSES
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ArtefactError
from gatewatch.models.recordings.recording import read_recordings
from gatewatch.models.scan import scan
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.trained.train import train
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.cli import gatewatch, recording, refused, rows_of
from tests.support.samples import CHANNELS
from tests.support.whole_path import serving


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    normal = recording(folder / "normal.csv", 300)
    done = gatewatch("train", normal, "--out", folder / "artefact", "--hidden", "4", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    return folder / "artefact"


def test_scan_and_service_agree_through_a_restart(trained: Path, tmp_path: Path) -> None:
    """Contracts 2 and 5: the same scores by file and by HTTP, though the service and its Redis stop in the middle."""
    path = recording(tmp_path / "live.csv", 120, seed=5)
    with path.open() as file:
        lines = list(csv.reader(file))
    lines[100][1] = "60"
    for name, rows in {"live": lines, "a": lines[:61], "b": [lines[0], *lines[61:]]}.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    assert gatewatch("scan", path, "--model", trained, "--out", tmp_path / "scan.csv").returncode == 0
    scanned = rows_of(tmp_path / "scan.csv")
    replayed: list[dict[str, str]] = []
    for part, start in (("a", 0), ("b", 60)):
        with serving(trained, tmp_path / "data") as (url, _):
            out = tmp_path / f"{part}-scores.csv"
            done = gatewatch(
                "replay", tmp_path / f"{part}.csv", "--url", url, "--stream", "live", "--start-seq", str(start),
                "--batch", "7", "--out", out,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            replayed += rows_of(out)
    assert [row["score"] for row in replayed] == [row["score"] for row in scanned]
    assert [row["status"] for row in replayed] == [row["status"] for row in scanned]
    assert scanned[99]["status"] == "anomalous"


@pytest.mark.parametrize("architecture", [name for name in get_args(Architecture) if name != "bilstm"])
def test_each_architecture_scores_through_a_kill_as_in_a_scan(
    architecture: Architecture, redis_url: str, tenant: str, tmp_path: Path
) -> None:
    """Served with not a line of its own; kill -9 in mid-stream, and what was sent last is sent again."""
    (normal,) = read_recordings(recording(tmp_path / "normal.csv", 200))
    config = TrainConfig(architecture=architecture, hidden=4, memory=8, window=32, epochs=2)
    train([normal], config).save(tmp_path / "artefact")
    (live,) = read_recordings(recording(tmp_path / "live.csv", 90, seed=5))
    live.values[70, 0] = 60
    scanned = scan(TrainedDetector.load(tmp_path / "artefact"), live)
    sent = [
        {
            "seq": row,
            "timestamp": int(live.timestamps_ms[row]) / 1000,
            "values": dict(zip(CHANNELS, values, strict=True)),
        }
        for row, values in enumerate(live.values.astype(float).tolist())
    ]
    served = {"model": str(tmp_path / "artefact"), "redis_url": redis_url, "tenant": tenant, "store_timeout_ms": 10_000}
    environment = {f"GATEWATCH_{name.upper()}": str(value) for name, value in served.items()}
    with (
        serving(tmp_path / "artefact", tmp_path / "data", **environment) as (url, process),
        httpx2.Client(base_url=url, timeout=30) as client,
    ):
        results = [reply for at in range(0, 50, 7) for reply in posted(client, sent[at : at + 7])]
        process.kill()
    with TestClient(create_app(Settings.model_validate(served))) as restarted:
        again = [reply for at in range(42, 90, 16) for reply in posted(restarted, sent[at : at + 16])]
    assert [result["replayed"] for result in again] == [True] * (len(results) - 42) + [False] * (90 - len(results))
    results = results[:42] + again
    assert [result["score"] for result in results] == scanned.score.tolist()
    assert [result["status"] for result in results] == [STATUSES[status] for status in scanned.status]
    assert results[70]["status"] == "anomalous"


def posted(client: httpx2.Client, sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    reply = client.post("/v1/streams/live/readings", json=sent)
    assert reply.status_code == 200, reply.text
    results: list[dict[str, Any]] = reply.json()
    return results


def test_a_model_that_reads_both_ways_is_scanned_and_not_served(tmp_path: Path) -> None:
    normal = recording(tmp_path / "normal.csv", 120)
    size = ("--architecture", "bilstm", "--hidden", "3", "--epochs", "1")
    assert gatewatch("train", normal, "--out", tmp_path / "artefact", *size).returncode == 0
    done = gatewatch("scan", normal, "--model", tmp_path / "artefact", "--out", tmp_path / "scores.csv")
    assert done.returncode == 0, done.stderr
    assert len(rows_of(tmp_path / "scores.csv")) == 120
    data = tmp_path / "data"
    done = gatewatch("serve", GATEWATCH_MODEL=str(tmp_path / "artefact"), GATEWATCH_DATA_DIR=str(data))
    assert refused(done, "needs the readings after a reading, which a live stream does not have yet: score finished")
    assert not data.exists()
    with pytest.raises(ArtefactError, match="a bilstm model needs the readings after a reading"):
        create_app(Settings(model=str(tmp_path / "artefact"), redis_url="redis://127.0.0.1:1"))


def test_two_processes_share_one_stream(trained: Path, tmp_path: Path) -> None:
    path = recording(tmp_path / "live.csv", 60, seed=6)
    assert gatewatch("scan", path, "--model", trained, "--out", tmp_path / "scan.csv").returncode == 0
    with serving(trained, tmp_path / "data", "--workers", "2") as (url, _):
        done = gatewatch("replay", path, "--url", url, "--batch", "1", "--out", tmp_path / "out.csv")
        assert done.returncode == 0, done.stderr
        metrics = httpx2.get(f"{url}/metrics").text
        with httpx2.Client(base_url=url) as scraper:  # one connection, so one worker: what the other knows counts too
            assert all("gatewatch_store_up 1.0" in scraper.get("/metrics").text for _ in range(3))
    assert [r["score"] for r in rows_of(tmp_path / "out.csv")] == [r["score"] for r in rows_of(tmp_path / "scan.csv")]
    counted = sum(
        float(line.split()[-1]) for line in metrics.splitlines() if line.startswith("gatewatch_readings_total")
    )
    assert counted == 60


def test_a_stop_finishes_what_was_taken(trained: Path, tmp_path: Path) -> None:
    sent = [{"stream": "s", "seq": n, "values": {"pressure": 3.0, "flow": 3.0}} for n in range(2000)]
    with serving(trained, tmp_path / "data") as (url, process), httpx2.Client(base_url=url, timeout=30) as client:
        stopper = threading.Timer(0.1, process.send_signal, [signal.SIGTERM])
        stopper.start()
        reply = client.post("/v1/readings", json=sent)
        stopper.join()
    assert reply.status_code == 200
    assert len(reply.json()) == 2000
    with serving(trained, tmp_path / "data") as (url, _):
        assert httpx2.get(f"{url}/v1/streams/s").json()["readings"] == 2000


def test_replay_keeps_every_stream_apart_and_says_what_was_refused(artefact: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "two.csv", tmp_path / "out.csv"
    rows = [(1_700_000_000 + 60 * at // 2, "pq"[at % 2], 3 + at % 5, 3 - at % 3) for at in range(300)]
    path.write_text("timestamp,stream,pressure,flow\n" + "".join(f"{t},{s},{a},{b}\n" for t, s, a, b in rows))
    odd = tmp_path / "p.csv"
    odd.write_text("timestamp,pressure,flow\n" + "".join(f"{1_700_000_000 + 60 * n},7,7\n" for n in range(140, 160)))
    with serving(artefact, tmp_path / "data") as (url, _):
        done = gatewatch("replay", path, "--url", url, "--out", out)
        assert done.returncode == 0, done.stderr
        assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["p", "q"]
        again = gatewatch("replay", odd, "--url", url, "--start-seq", "140")
    assert [row["stream"] for row in rows_of(out)] == ["p"] * 150 + ["q"] * 150
    assert list(rows_of(out)[0]) == ["stream", "timestamp", "score", "status"]
    assert again.returncode == 1
    assert "10 conflict" in again.stdout
    assert "10 readings were rejected or in conflict; the first: p, seq 140: conflict: " in again.stderr
