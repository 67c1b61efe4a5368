"""Readings that are rejected make a line in the log and a count, whoever reads the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.service.app import create_app
from gatewatch.service.core.outcomes import rejected as rejection
from gatewatch.service.observability.metrics import REJECTIONS, Metrics
from gatewatch.service.observability.rejections import SILENCE_S, Rejected
from gatewatch.service.settings import Settings
from tests.support.clock import Hands
from tests.support.samples import post, readings
from tests.support.whole_path import serving

BAD: dict[str, list[Any]] = {
    "form": [5, {"stream": "s"} | {"values": 1, "extra": 2}],
    "stream": [{"stream": "a b", "values": {"flow": 1}}, {"stream": 5, "values": {"flow": 1}}],
    "timestamp": [{"stream": "s", "timestamp": "noon", "values": {"flow": 1}}],
    "clock": [{"stream": "s", "timestamp": 4e9, "values": {"flow": 1}}],
    "seq": [{"stream": "s", "seq": -1, "values": {"flow": 1}}],
    "channel": [{"stream": "s", "values": {"temp": 1}}, {"stream": "s", "values": 1}],
    "value": [{"stream": "s", "values": {"flow": "high"}}, {"stream": "s", "values": {"flow": 1e39}}, {"stream": "s"}],
}


def rejected(client: TestClient, reason: str) -> float:
    line = next(
        line for line in client.get("/metrics").text.splitlines() if f'rejected_total{{reason="{reason}"' in line
    )
    return float(line.split()[1])


@pytest.mark.parametrize("reason", BAD)
def test_a_rejection_is_counted_by_its_reason(client: TestClient, reason: str) -> None:
    results = post(client, [*BAD[reason], *readings("good", 1)])
    assert [result["status"] for result in results[:-1]] == ["rejected"] * len(BAD[reason])
    assert {name: rejected(client, name) for name in REJECTIONS} == dict.fromkeys(REJECTIONS, 0.0) | {
        reason: len(BAD[reason])
    }


def test_what_the_stream_or_their_number_forbids_has_a_reason(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(streams=1))) as client:
        first, second, *_, last = readings("s", 5)
        client.put("/v1/streams/s", json={"on_gap": "hold"})
        post(client, [first, second, last, {**first, "stream": "t"}])
        assert (rejected(client, "gap"), rejected(client, "room")) == (1, 1)


def test_lines_of_text_that_are_no_json_are_counted(client: TestClient) -> None:
    client.post("/v1/readings", content=b"{\n{", headers={"content-type": "application/x-ndjson"})
    assert rejected(client, "form") == 2


def test_the_log_has_the_first_rejection_of_each_reason_and_then_one_a_minute() -> None:
    clock = Hands()
    looking = Rejected(Metrics(), clock)
    channel, form = (
        rejection("s", None, None, error)
        for error in ("values.temp is not a channel of this model", "a reading is an object; this is null")
    )
    with capture_logs() as lines:
        looking.look([channel, channel], 2)
        looking.look([channel, form], 2)
        clock.seconds = SILENCE_S
        looking.look([channel], 1)
    assert [(line["reason"], line["readings"], line["stream"]) for line in lines] == [
        ("channel", 1, "s"), ("form", 1, "s"), ("channel", 3, "s"),
    ]  # fmt: skip
    assert lines[0]["error"] == "values.temp is not a channel of this model"


def test_what_a_sender_wrote_cannot_harm_who_reads_the_log(artefact: Path, tmp_path: Path) -> None:
    name = '\x1b[31m\nred "status":"rejected"' + "x" * 10_000
    with serving(artefact, tmp_path / "data") as (url, process):
        httpx2.post(f"{url}/v1/readings", json=[{"stream": name, "values": {name: 1}}])
        process.terminate()
        log = (process.stderr.read() if process.stderr else b"").decode()
    (line,) = (line for line in log.splitlines() if '"readings rejected"' in line)
    assert "\x1b" not in line
    assert len(line) < 1000


REJECTED = b'[{"stream": "s", "values": {"temp": 1}}, {"stream": "s", "values": {"temp": 1}}]'
PARTLY = b'[{"stream": "s", "values": {"temp": 1}}, {"stream": "s", "values": {"flow": 1}}]'


@pytest.mark.parametrize("path", ["/v1/readings", "/v1/streams/s/readings"])
@pytest.mark.parametrize("usual", [True, False])
def test_a_setting_makes_it_a_422_where_all_were_rejected(
    artefact: Path, tmp_path: Path, path: str, usual: bool
) -> None:
    """By the short way of usual requests, and by that of others."""
    more = {} if usual else {"expect": "100-continue"}
    for status, setting in ((200, {}), (422, {"GATEWATCH_ALL_REJECTED_IS_422": "true"})):
        with serving(artefact, tmp_path / str(status), **setting) as (url, _):
            reply = httpx2.post(url + path, content=REJECTED, headers=more)
            assert reply.status_code == status
            assert httpx2.post(url + path, content=PARTLY, headers=more).status_code == 200
            assert httpx2.post(url + path, content=b"[]", headers=more).status_code == 200
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["detail"].startswith("all readings were rejected (2); the first: values.temp is not a channel")
