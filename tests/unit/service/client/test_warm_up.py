"""A recording becomes a stream's past, whatever version the service is of."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import numpy as np
import pytest

from gatewatch.models.recordings.recording import Recording
from gatewatch.service.client.warm_up import WORDS, warm_up_with


class Older(BaseHTTPRequestHandler):
    """A service from before it named the channels that are left out; it knows no stream."""

    def do_GET(self) -> None:
        self._answer(404, {})

    def do_POST(self) -> None:
        rows = self.rfile.read(int(self.headers["content-length"])).count(b"\n") + 1
        self._answer(200, {**dict.fromkeys(WORDS, 0), "sent": rows, "taken": rows, "first_refused": None})

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, content: dict[str, object]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_service_that_names_no_unknown_channels_is_warmed_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWATCH_KEY", raising=False)
    past = Recording("pump-1", ("flow",), 60_000 * np.arange(1, 6, dtype=np.int64), np.ones((5, 1)))
    with HTTPServer(("127.0.0.1", 0), Older) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            found = warm_up_with([past], f"http://127.0.0.1:{server.server_port}", 2, None, lambda _: None)
        finally:
            server.shutdown()
            thread.join()
    assert found.counts["pump-1"]["taken"] == 5
    assert (found.refused, found.unknown) == (0, set())
