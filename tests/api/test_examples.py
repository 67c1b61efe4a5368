"""The examples do what their pages say, over HTTP and against a real service."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from tests.support import forked
from tests.support.cli import gatewatch
from tests.support.whole_path import serving

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def service(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(artefact, tmp_path_factory.mktemp("data")) as (url, _):
        yield url


def run(example: str, *arguments: str | Path) -> str:
    done = forked.run([str(EXAMPLES / example), *map(str, arguments)], os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def troubled(service: str) -> Iterator[tuple[str, list[str]]]:
    """A way to the service on which two of three posts go wrong: not passed on, or passed on and the answer lost."""
    troubles = itertools.cycle(("refused", "answer lost", ""))
    seen: list[str] = []

    class Way(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(httpx2.get(f"{service}{self.path}"))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            trouble = next(troubles)
            if trouble != "refused":
                passed_on = httpx2.post(f"{service}{self.path}", content=body)
                seen.extend("replayed" if result["replayed"] else result["status"] for result in passed_on.json())
            if trouble:
                self.send_response(503)
                self.send_header("retry-after", "0")
                self.end_headers()
            else:
                self.answer(passed_on)

        def answer(self, reply: httpx2.Response) -> None:
            self.send_response(reply.status_code)
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Way) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


def test_a_device_has_every_reading_counted_once_though_answers_get_lost_and_it_reboots(service: str) -> None:
    with troubled(service) as (url, seen):
        for _ in range(2):
            run("device_loop.py", "--url", url, "--stream", "device", "--count", "30", "--interval-s", "0")
    known = httpx2.get(f"{service}/v1/streams/device").json()
    assert (known["readings"], known["last_seq"]) == (60, 59)
    assert "replayed" in seen  # answers did get lost
    assert seen.count("late") == seen.count("conflict") == 0


def test_incidents_are_listed_with_their_worst_channel_first(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000 + 60 * row},{row % 7},{500 if 150 <= row < 153 else row % 5}" for row in range(300)]
    (tmp_path / "pump.csv").write_text("\n".join(["timestamp,pressure,flow", *rows]))
    done = gatewatch("scan", tmp_path / "pump.csv", "--out", tmp_path / "scores.csv")
    assert done.returncode == 0, done.stderr
    listed = run("incidents.py", tmp_path / "scores.csv").splitlines()
    assert len(listed) == 1
    assert listed[0].startswith("2023-11-15T00:43:20Z to ")
    assert listed[0].endswith("flow, pressure")
