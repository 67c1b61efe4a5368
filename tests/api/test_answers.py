"""What the commands say of a file: what was understood, what was found, and where to look next."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import polars
import pytest

from tests.support.cli import gatewatch, recording, refused, rows_of
from tests.support.layouts import FAULT, FAULT_ROWS, LAYOUTS, STEP, incidents_of, times, write_layout
from tests.support.waiting import until
from tests.support.whole_path import serving


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """All layouts in one folder, scanned with one command; its incidents, and what it said."""
    folder = tmp_path_factory.mktemp("layouts")
    for name in LAYOUTS:
        write_layout(folder, name)
    (folder / "german.toml").write_text('timezone = "Europe/Berlin"\n')
    (folder / "air_quality.toml").write_text('missing = ["-200"]\n')
    (folder / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = gatewatch("scan", folder, "--json", "--plot", folder / "scan.html", "--out", folder / "out")
    assert done.returncode == 1, done.stderr
    assert "left out: " in done.stderr
    assert "picture.csv: a picture by its first bytes" in done.stderr
    return folder, incidents_of(done.stdout), done.stderr


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_fault_is_found_in_every_layout(name: str, found: tuple[Path, list[dict[str, Any]], str]) -> None:
    folder, incidents, said = found
    streams = {"influx": "plc-1", "telegraf": "plc-1", "home_assistant": "sensor.level"}
    stamp = times()[FAULT].strftime("%Y-%m-%dT%H:%M:%SZ")
    (one,) = [one for one in incidents if one["stream"] == streams.get(name, name) and one["start"] == stamp][:1]
    assert one["direction"] == "above"
    assert one["actual"] - one["expected"] == pytest.approx(30, abs=2)
    assert one["seconds"] >= (FAULT_ROWS - 1) * STEP.total_seconds()
    assert f"{name}.csv: " in said or name in said
    assert f"<h2>{streams.get(name, name)}</h2>" in (folder / "scan.html").read_text() or len(LAYOUTS) > 12


def test_scores_are_in_the_order_of_the_file(found: tuple[Path, list[dict[str, Any]], str]) -> None:
    """Also of a file that has its newest reading first."""
    folder, _, _ = found
    newest_first, plain = rows_of(folder / "out" / "american.csv"), rows_of(folder / "out" / "plain.csv")
    assert "stream" not in newest_first[0]
    assert [row["score"] for row in reversed(newest_first)] == [row["score"] for row in plain]
    assert [row["timestamp"] for row in reversed(newest_first)] == [row["timestamp"] for row in plain]


def test_a_scan_ends_with_what_was_found_in_words(tmp_path: Path) -> None:
    path = write_layout(tmp_path, "campbell")
    done = gatewatch("scan", path)
    assert done.returncode == 0, done.stderr
    heads, *lines = done.stdout.splitlines()[1:]
    assert heads.split() == ["stream", "channel", "begins", "lasts", "expected", "actual", "score", "why"]
    (line,) = [line for line in lines if "2024-01-29 04:00:00" in line]
    assert re.search(r"campbell +level +2024-01-29 04:00:00 +10 h \d0 min +above +52\.\d+ m +82\.\d+ m +\d", line)
    assert re.search(r"700 readings, \d+ anomalous \(\d\.\d+%\), \d alerts \(\d\.\d+ a week of a stream\)", done.stdout)
    assert "UTF-8, cells parted by comma; time: TIMESTAMP (RFC 3339, no zone: taken for UTC" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["campbell.csv"]


def test_scores_say_reason_share_and_the_difference_in_the_channels_unit(tmp_path: Path) -> None:
    path = write_layout(tmp_path, "plain")
    for form in ("csv", "jsonl", "parquet"):
        done = gatewatch("scan", path, "--out", tmp_path / f"s.{form}", "--format", form)
        assert done.returncode == 0, done.stderr
    written, given = rows_of(tmp_path / "s.csv"), rows_of(path)
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    frame = polars.read_parquet(tmp_path / "s.parquet").to_dicts()
    assert list(frame[0]) == list(written[0])
    for at in (0, 300, FAULT):
        one, line, row = written[at], lines[at], frame[at]
        assert one["reason"] == line["reason"] == row["reason"]
        assert float(one["score"]) == line["score"] == row["score"]
        channel = line["channels"]["level"]
        assert float(one["level.attribution"]) == pytest.approx(row["level.attribution"], rel=1e-3)
        if at:
            difference = float(given[at]["level"]) - float(one["level.expected"])
            assert float(one["level.difference"]) == pytest.approx(difference, rel=1e-4)
            assert channel["difference"] == pytest.approx(difference, rel=1e-9)
            assert float(one["level.low"]) < float(one["level.expected"]) < float(one["level.high"])
        else:
            assert channel["difference"] is row["level.difference"] is None
    bad = gatewatch("scan", path, "--out", tmp_path / "s.xml", "--format", "xml")
    assert refused(bad, "--format xml: expected one of csv, jsonl, parquet")


def test_pictures_are_whole_in_themselves(tmp_path: Path) -> None:
    path = write_layout(tmp_path, "grafana")
    text = path.read_text().replace('"level"', '"<b onclick=1>$[level]"')
    path.write_text(text)
    done = gatewatch("scan", path, "--plot", tmp_path / "s.html", "--out", tmp_path / "s.csv")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "s.html").read_text()
    assert "<b onclick" not in page
    assert "&lt;b onclick=1&gt;$[level]" in page
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert page.count("<rect") == page.count("<tr><td>") > 0
    drawn = gatewatch("plot", path, "--scores", tmp_path / "s.csv", "--out", tmp_path / "again.html")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "again.html").read_text().count("<rect") == page.count("<rect")
    image = gatewatch("plot", path, "--scores", tmp_path / "s.csv", "--out", tmp_path / "s.png")
    assert image.returncode == 0, image.stderr
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    shown = gatewatch("plot", path, "--scores", tmp_path / "s.csv")
    assert "⣀" in shown.stdout or "⠉" in shown.stdout
    assert " incidents  " in shown.stdout
    assert "^" in shown.stdout
    assert refused(gatewatch("scan", path, "--plot", tmp_path / "s.pdf"), "its name ending in .html or .png")
    other = recording(tmp_path / "other.csv")
    assert refused(gatewatch("plot", other, "--scores", tmp_path / "s.csv"), "scores of a channel")


def test_a_large_file_is_scanned_in_parts_with_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gatewatch.models.recordings import tables
    from gatewatch.service.cli import app
    from gatewatch.service.cli_support import scan_files

    for name in ("telegraf", "milliseconds"):
        path = write_layout(tmp_path, name)
        app(["scan", str(path), "--out", str(tmp_path / "whole.csv")], standalone_mode=False)
        with monkeypatch.context() as patch:
            patch.setattr(scan_files, "LARGE_BYTES", 1)
            patch.setattr(tables, "BLOCK_CELLS", 500)
            app(["scan", str(path), "--out", str(tmp_path / "parts.csv")], standalone_mode=False)
        assert (tmp_path / "parts.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_inspect_shows_what_was_understood_and_what_to_run_next(tmp_path: Path) -> None:
    path = write_layout(tmp_path, "wind_turbine")
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(rows[:200] + rows[240:]))
    done = gatewatch("inspect", path)
    assert done.returncode == 0, done.stderr
    assert "Latin-1, cells parted by comma; time: Date/Time (day first, no zone" in done.stdout
    assert "one every 10 min; 1 gap, the longest of 6 h 50 min before 2024-01-26T15:50:00Z" in done.stdout
    assert "Wind Direction (°)   °" in done.stdout
    assert "an angle? 359 and 1 are near, and look far" in done.stdout
    assert f"Next: gatewatch scan {path} --plot scan.html" in done.stdout
    quality = write_layout(tmp_path, "air_quality")
    known = json.loads(gatewatch("inspect", quality, "--json").stdout)
    assert known["next"] == f"gatewatch scan {quality} --missing -200 --plot scan.html"
    assert known["streams"][0]["perhaps_missing"] == ["-200"]
    assert known["streams"][0]["step_s"] == 600


def test_inspect_shows_the_channels_of_every_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gatewatch.service.cli import app

    def inspect(rows: str) -> str:
        (tmp_path / "r.csv").write_text(rows)
        app(["inspect", str(tmp_path / "r.csv")], standalone_mode=False)
        return capsys.readouterr().out

    rows = [f"{60 * n},{s},{n % 7 + k},{n % 5}\n" for n in range(2000) for k, s in enumerate(("p-1", "p-2"))]
    said = inspect("time,device,flow [l/h],level\n" + "".join(rows))
    assert "p-1, its first readings:" in said
    assert re.search(r"p-1 +flow \[l/h\] +l/h +0 +3 +6 ", said)
    assert re.search(r"p-2 +flow \[l/h\] +l/h +1 +4 +7 ", said)
    assert f"Or, where all of it was normal: gatewatch train {tmp_path / 'r.csv'} --out model" in said
    long = [f"{n},a,x,1\n{n},a,y,2\n{n},b,y,{n % 3}\n{n},b,z,4\n" for n in range(2000)]
    said = inspect("time,device,tag,value\n" + "".join(long))
    assert re.search(r"b +y +0 +1 +2 ", said)
    assert re.search(r"b +z +4 +4 +4 +always 4", said)
    assert "--out model" not in said, "streams of other channels do not fit one model"


def test_counters_and_switches_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    energy = np.cumsum(rng.random(300)).round(3)
    lines = [f"{60 * n},{energy[n]},{int(n % 50 < 9)},5\n" for n in range(300)]
    (tmp_path / "r.csv").write_text("timestamp,energy,pump,const\n" + "".join(lines))
    said = gatewatch("inspect", tmp_path / "r.csv").stdout
    assert f"Next: gatewatch scan {tmp_path / 'r.csv'} --leave-out energy --plot scan.html" in said
    assert re.search(r"energy .*only rises: a counter\?", said)
    assert re.search(r"pump .*two values, 0 and 1: a switch\?", said)
    assert re.search(r"const .*always 5", said)


def test_what_is_wrong_with_the_options_is_one_line_with_the_way_to_help(tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv")
    for arguments, words in (
        (("scan", path, "--fo", "x"), "gatewatch: No such option: --fo"),
        (("scan",), "gatewatch: Missing argument"),
        (("scam",), "gatewatch: No such command 'scam'"),
        (("scan", path, "--seed", "x"), "gatewatch: Invalid value for '--seed'"),
        (("scan", path, "--time-column", "nope"), "no column nope; the header has timestamp, pressure, flow"),
        (("scan", path, "--time-format", "dayfirst"), "--time-format 'dayfirst': expected iso, s, ms, us, ns"),
        (("scan", path, "--delimiter", "xx"), "--delimiter 'xx': expected one character, or tab, comma"),
    ):
        done = gatewatch(*arguments)
        assert refused(done, words)
        assert len(done.stderr.splitlines()) == 1
    for help_option in ("-h", "--help"):
        assert "--time-column" in gatewatch("scan", help_option).stdout
    assert gatewatch().returncode == 2


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("timestamp,a\n" + "".join(f"{60 * n},{n % 7}\n" for n in range(400_000)))
    out = tmp_path / "s.csv"
    command = [sys.executable, "-m", "gatewatch", "scan", str(path), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # understood: it is being scanned
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"Stopped after [\d,]+ readings.*A scan begins anew", said), said
    assert "Traceback" not in said
    assert not out.exists()


def test_the_doctor_says_what_is_wrong(artefact: Path, redis_url: str, tmp_path: Path) -> None:
    nowhere = ("--url", "http://127.0.0.1:9")
    good = gatewatch("doctor", *nowhere, "--json", GATEWATCH_MODEL=str(artefact), GATEWATCH_REDIS_URL=redis_url)
    checks = {check["about"]: check for check in json.loads(good.stdout)}
    assert checks["model"]["words"].endswith("2 channels: pressure, flow")
    assert checks["Redis"]["verdict"] in ("ok", "note")
    assert checks["clock"]["verdict"] == "ok"
    assert checks["service"]["verdict"] == "note"
    bad = gatewatch(
        "doctor", *nowhere, "--prometheus", "http://127.0.0.1:9", GATEWATCH_MODEL="nowhere", GATEWATCH_CHANELS="a",
        GATEWATCH_REDIS_URL="redis://:hunter2@127.0.0.1:1",
    )  # fmt: skip
    assert bad.returncode == 1
    wrong = [line for line in bad.stdout.splitlines() if line.startswith("WRONG")]
    assert [line.split()[1] for line in wrong] == ["settings:", "model:", "Redis:", "Prometheus:"]
    assert "GATEWATCH_CHANELS is not a setting; GATEWATCH_CHANNELS is" in wrong[0]
    assert "hunter2" not in bad.stdout + bad.stderr
    assert refused(gatewatch("doctor", GATEWATCH_PORT="http"), "GATEWATCH_PORT is 'http'")


class _NewerService(BaseHTTPRequestHandler):
    """Answers as a service does that lists its streams with details, and incidents."""

    ANSWERS: ClassVar[dict[str, Any]] = {
        "/v1/streams": {
            "streams": [
                {"stream": "calm", "status": "normal", "score": 0.2, "readings": 9, "last_timestamp": "2024"},
                {"stream": "[red]hot", "status": "anomalous", "score": 3.5, "readings": 7, "last_timestamp": None},
            ],
            "next": None,
            "total": 2,
        },
        "/v1/incidents": {
            "incidents": [{"start": "2024-01-01T00:00:00Z", "stream": "[red]hot", "peak_score": 3.5,
                           "channels": [{"channel": "pressure"}]}]
        },
        "/readyz": {"status": "ready"},
    }  # fmt: skip

    def do_GET(self) -> None:
        body = json.dumps(self.ANSWERS[self.path.partition("?")[0]]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_watch_shows_the_anomalous_first_and_open_incidents() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NewerService)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        done = gatewatch("watch", "--url", f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][1:] == ["2", "streams,", "1", "anomalous"]
    assert [line[0] for line in lines[2:4]] == ["[red]hot", "calm"]
    assert ["2024-01-01T00:00:00Z", "[red]hot", "pressure", "3.5"] in lines


def test_watch_and_the_doctor_look_at_a_running_service(artefact: Path, tmp_path: Path) -> None:
    path = recording(tmp_path / "pump.csv")
    with serving(artefact, tmp_path / "data") as (url, _):
        assert "No stream yet" in gatewatch("watch", "--url", url, "--once").stdout
        assert gatewatch("replay", path, "--url", url).returncode == 0
        until(lambda: json.loads(gatewatch("watch", "--url", url, "--json").stdout)["shown"])  # listed by its score
        shown = json.loads(gatewatch("watch", "--url", url, "--json").stdout)
        checks = json.loads(gatewatch("doctor", "--url", url, "--json", GATEWATCH_MODEL=str(artefact)).stdout)
    assert (shown["streams"], shown["shown"][0]["stream"], shown["shown"][0]["readings"]) == (1, "pump", 60)
    assert shown["trouble"] == ""
    assert [check["verdict"] for check in checks if check["about"] == "service"] == ["ok"]
    away = gatewatch("watch", "--url", "http://127.0.0.1:9")
    assert refused(away, "http://127.0.0.1:9 does not answer")


def test_the_commands_import_no_torch_and_draw_nothing_unasked(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gatewatch.service.cli import app\n"
        f"app(['scan', {str(recording(tmp_path / 'r.csv'))!r}, '--plot', '-'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'matplotlib', 'fastapi', 'redis', 'httpx2') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_completion_knows_the_commands_and_options() -> None:
    environment = {
        **os.environ,
        "_GATEWATCH_COMPLETE": "complete_bash",
        "COMP_WORDS": "gatewatch ins",
        "COMP_CWORD": "1",
    }
    path = Path(sys.executable).parent / "gatewatch"
    done = subprocess.run([path], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["inspect"]


def test_a_recording_with_two_columns_of_one_name_or_too_many_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("timestamp,a,a\n1,2,3\n")
    assert refused(gatewatch("scan", tmp_path / "twice.csv"), "column a stands twice in the header; give each a name")
    with (tmp_path / "wide.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["timestamp", *(f"c{n}" for n in range(100_000))], [1] * 100_001])
    assert refused(gatewatch("scan", tmp_path / "wide.csv"), "100001 columns; at most 4096 channels are read")
