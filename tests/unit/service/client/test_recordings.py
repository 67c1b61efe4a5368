"""Recordings from a running service, and from what a Prometheus server answered."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlparse

import httpx2
import numpy as np
import pytest

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.service.client import prometheus as sources
from gatewatch.service.client import remote
from gatewatch.service.client.history import reviewed_histories
from gatewatch.service.client.prometheus import prometheus_recordings
from tests.support.samples import CHANNELS, START_MS, readings
from tests.support.whole_path import serving

ANSWER = """{"status":"success","data":{"resultType":"matrix","result":[
{"metric":{"__name__":"pump_flow","instance":"a:9100","job":"pumps"},
 "values":[[1700000000,"120"],[1700000060,"123.3265"],[1700000120,"126.6119"],[1700000180,"129.8158"]]},
{"metric":{"__name__":"pump_flow","instance":"b:9100","job":"pumps"},
 "values":[[1700000000,"120"],[1700000120,"126.6119"],[1700000180,"+Inf"]]},
{"metric":{"__name__":"pump_pressure_bar","instance":"a:9100","job":"pumps"},
 "values":[[1700000000,"4"],[1700000060,"4.1109"],[1700000120,"NaN"],[1700000180,"4.3272"]]}]}}"""
"""What Prometheus 2.42 answered, shortened, and with a gap and an infinity put in."""


@contextmanager
def answering(status: int, body: str) -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """A server that answers all requests alike: its URL, and the queries that came."""
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(parse_qs(urlparse(self.path).query))
            self.send_response(status)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def pumps(url: str, label: str = "instance", end: str = "1700000180") -> list[Recording]:
    return prometheus_recordings(url, ['{job="pumps"}'], "1700000000", end, 60, label)


def histories(url: str, *streams: str) -> list[Recording]:
    return [one.source.rows(0) for one in reviewed_histories(url, streams)]


def test_series_become_streams_by_a_label_and_channels_by_their_name() -> None:
    with answering(200, ANSWER) as (url, _):
        a, b = pumps(url)
    assert (a.stream, b.stream) == ("a:9100", "b:9100")
    assert a.channels == b.channels == ("pump_flow", "pump_pressure_bar")
    assert a.timestamps_ms.tolist() == [1_700_000_000_000 + 60_000 * row for row in range(4)]
    np.testing.assert_array_equal(
        a.values, np.array([[120, 4], [123.3265, 4.1109], [126.6119, math.nan], [129.8158, 4.3272]])
    )
    assert b.timestamps_ms.tolist() == [1_700_000_000_000, 1_700_000_120_000]  # none where it has no value
    assert np.isnan(b.values[:, 1]).all()


def test_a_series_of_histograms_alone_is_no_channel() -> None:
    histograms = '{"metric":{"__name__":"spread","instance":"a:9100"},"histograms":[[1700000000,{"count":"1"}]]}'
    with answering(200, ANSWER.replace('"result":[', f'"result":[{histograms},')) as (url, _):
        found = pumps(url)
    assert found[0].channels == ("pump_flow", "pump_pressure_bar")


def test_a_long_time_is_asked_for_in_stretches_that_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "POINTS", 3)
    with answering(200, ANSWER) as (url, asked):
        pumps(url, end="2023-11-14T22:19:20Z")  # seven readings
    assert [(one["start"][0], one["end"][0]) for one in asked] == [
        ("1700000000.000", "1700000120.000"),
        ("1700000180.000", "1700000300.000"),
        ("1700000360.000", "1700000360.000"),
    ]


def test_two_series_that_would_be_one_channel_are_refused() -> None:
    with (
        answering(200, ANSWER) as (url, _),
        pytest.raises(RecordingError, match="are channel pump_flow of stream pumps"),
    ):
        pumps(url, label="job")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, '{"error":"parse error"}', "answered 400 to /api/v1/query_range: .*parse error"),
        (200, "<html>", "with what is no JSON"),
        (200, '{"status":"success","data":{"resultType":"matrix","result":[]}}', "gave no value from 1700000000"),
    ],
)
def test_an_answer_that_holds_no_readings_is_refused(status: int, body: str, words: str) -> None:
    with answering(status, body) as (url, _), pytest.raises(RecordingError, match=words):
        pumps(url)


def test_a_server_that_is_not_there_and_a_time_that_is_none() -> None:
    with answering(200, ANSWER) as (url, _):
        pass
    with pytest.raises(RecordingError, match="does not answer"):
        pumps(url)
    for moment in ("tomorrow", "inf"):
        with pytest.raises(RecordingError, match=f"'{moment}' is not a time"):
            pumps(url, end=moment)
    with pytest.raises(RecordingError, match="expected a start before the end"):
        pumps(url, end="1")


def test_the_history_of_a_service_is_a_recording(artefact: Path, tmp_path: Path) -> None:
    sent = readings("pump-1", 40)
    with serving(artefact, tmp_path / "data") as (url, _):
        for one in (sent, readings("pump-2", 3)):
            assert httpx2.post(f"{url}/v1/readings", content=json.dumps(one)).status_code == 200
        assert httpx2.put(f"{url}/v1/streams/pump-3", json={"on_gap": "hold"}).status_code == 200  # and no reading
        (found,) = histories(url, "pump-1")
        both = histories(url)
        for absent in ("pump-3", "pump-9"):
            with pytest.raises(RecordingError, match="answered 404"):
                histories(url, absent)
    assert [recording.stream for recording in both] == ["pump-1", "pump-2"]
    assert found.channels == CHANNELS
    assert found.timestamps_ms.tolist() == [START_MS + 60_000 * row for row in range(40)]
    expected = [[math.nan if value is None else value for value in one["values"].values()] for one in sent]
    np.testing.assert_allclose(found.values, np.array(expected), rtol=1e-6)


def faulty(stream: str) -> list[dict[str, Any]]:
    """A fault of three readings that is over, and one that is not; both beyond any threshold."""
    sent = readings(stream, 120)
    for one in [*sent[20:23], *sent[100:]]:
        one["values"] = {"pressure": 60.0, "flow": 60.0}
    return sent


def test_what_was_judged_or_labelled_in_a_history_is_known(artefact: Path, tmp_path: Path) -> None:
    with serving(artefact, tmp_path / "data") as (url, _):
        for stream in ("pump-1", "pump-2", "pump-3", "pump-4", "fan-1"):
            sent = faulty(stream) if stream != "fan-1" else readings(stream, 40)
            assert httpx2.post(f"{url}/v1/readings", json=sent).status_code == 200
        for stream, label in (("pump-2", "true"), ("pump-3", "false_alarm"), ("pump-4", "expected")):
            listed = httpx2.get(f"{url}/v1/incidents", params={"stream": stream}).json()["incidents"]
            first = min(listed, key=lambda one: one["start"])
            assert httpx2.post(f"{url}/v1/incidents/{first['id']}/label", json={"label": label}).status_code == 200
        unlabelled, fault, false_alarm, expected = reviewed_histories(url, ["pump-*"])
        assert [one.source.stream for one in reviewed_histories(url, ["fan-1", "pump-?"])] == [
            "fan-1", "pump-1", "pump-2", "pump-3", "pump-4",
        ]  # fmt: skip
        digest = httpx2.get(f"{url}/v1/streams/fan-1").json()["model"]
        assert len(reviewed_histories(url, [], [digest])) == 5
        for nobody in ([], ["x-*"]):
            with pytest.raises(RecordingError, match="has no reading of any stream that"):
                reviewed_histories(url, nobody, [] if nobody else ["0" * 16])
    begun, running = slice(20, 23), slice(100, None)
    for one in (unlabelled, fault, expected):  # the service joins them to one incident
        assert one.left_out[begun].all()
        assert one.left_out[running].all()
        assert not one.left_out[40:90].any()
    assert not unlabelled.labelled.any()
    assert fault.labelled[begun].all()
    assert fault.labelled[running].all()
    (begin, end), (_, last) = fault.events
    assert begin <= 20 < 22 <= end < 40
    assert last == 119
    assert not false_alarm.left_out.any()
    assert expected.labelled[begun].all()
    assert expected.events == []


def test_what_a_label_made_quiet_is_as_good_as_what_was_labelled(artefact: Path, tmp_path: Path) -> None:
    sent = readings("pump-1", 83)
    for row in (*range(20, 23), *range(80, 83)):
        sent[row]["values"] = dict.fromkeys(CHANNELS, 40.0)
    with serving(artefact, tmp_path / "data") as (url, _):
        assert httpx2.post(f"{url}/v1/readings", json=sent[:75]).status_code == 200
        (incident,) = httpx2.get(f"{url}/v1/incidents").json()["incidents"]
        httpx2.post(f"{url}/v1/incidents/{incident['id']}/label", json={"label": "false_alarm"}).raise_for_status()
        answers = httpx2.post(f"{url}/v1/readings", json=sent[75:]).json()
        (reviewed,) = reviewed_histories(url)
    assert {one.get("gate") for one in answers if one["status"] == "anomalous"} == {"label"}
    assert not reviewed.left_out.any()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"streams":["x"],"next":"x"}', "the list of its streams .*after 'x' comes 'x'"),
        ('{"streams":["..","-rf"],"next":null}', "are no names of streams"),
        ("[]", "the list of its streams"),
        ('{"streams":' + "[" * 100_000, "with what is no JSON"),
    ],
)
def test_a_service_that_lists_in_a_circle_or_anything_else_is_refused(body: str, words: str) -> None:
    with answering(200, body) as (url, asked), pytest.raises(RecordingError, match=words):
        histories(url)
    assert len(asked) <= 2


@pytest.mark.parametrize(
    "body",
    [
        '[{"values":{"a":"x"},"result":{"timestamp":"2026-01-01T00:00:00Z"}}]',
        '[{"values":{"a":1},"result":{"timestamp":"1e300"}}]',
        '[{"values":[1],"result":{"timestamp":"2026-01-01T00:00:00Z"}}]',
        "[]",
        "7",
    ],
)
def test_a_history_that_is_none_is_refused(body: str) -> None:
    with answering(200, body) as (url, _), pytest.raises(RecordingError):
        histories(url, "pump-1")


def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGEST_ANSWER", 100)
    with answering(200, ANSWER) as (url, _), pytest.raises(RecordingError, match="with more than 100 bytes"):
        pumps(url)
