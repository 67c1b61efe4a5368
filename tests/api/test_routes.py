"""The service over HTTP, on a real Redis."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
import tracemalloc
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.service.app import create_app
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.settings import Settings
from tests.support.samples import CROWDED, START_MS, crowded, post, readings


def test_a_stream_warms_up_and_then_finds_the_anomaly_and_its_channel(client: TestClient) -> None:
    sent = readings("pump-7", 12)
    for reading in sent:
        reading["values"] = {"pressure": 3.0, "flow": 3.0 + reading["seq"] / 100}
    sent[-1]["values"] = {"pressure": 3.0, "flow": 80.0}
    results = post(client, sent)
    assert [r["status"] for r in results] == ["warming_up"] * 4 + ["normal"] * 7 + ["anomalous"]
    last = results[-1]
    assert last["score"] > 1
    assert last["reason"] == "event"
    assert last["attribution"]["flow"] > 0.99
    low, mid, high = last["expected"]["flow"]
    assert low < mid < high < 80
    assert "gatewatch_open_anomalies 1.0" in client.get("/metrics").text
    assert 'gatewatch_alerts_total{reason="event"} 1.0' in client.get("/metrics").text


def test_a_reading_sent_again_gets_its_first_answer(client: TestClient) -> None:
    sent = readings("r", 140)
    first = post(client, sent)
    again = post(client, sent)
    assert [r["status"] for r in again[:12]] == ["late"] * 12  # the history keeps 128
    assert again[12:] == [{**r, "replayed": True} for r in first[12:]]
    assert client.get("/v1/streams/r").json()["readings"] == 140
    twice_in_one = post(client, [*readings("r", 1, start=140), *readings("r", 1, start=140)])
    assert twice_in_one[1] == {**twice_in_one[0], "replayed": True}


def test_the_same_identity_with_other_values_is_a_conflict_and_older_is_late(client: TestClient) -> None:
    def reading(second: int, value: float) -> dict[str, object]:
        return {"stream": "c", "timestamp": START_MS / 1000 + second, "values": {"pressure": value}}

    post(client, [reading(0, 1), reading(10, 2)])
    results = post(client, [reading(10, 3), reading(5, 1), reading(10, 2)])
    assert [r["status"] for r in results] == ["conflict", "late", "warming_up"]
    assert results[2]["replayed"]
    assert client.get("/v1/streams/c").json()["readings"] == 2


def test_readings_of_a_batch_are_applied_in_order_of_seq(client: TestClient) -> None:
    sent = readings("o", 10)
    shuffled = [sent[i] for i in (3, 1, 0, 2, 9, 4, 8, 5, 7, 6)]
    results = post(client, shuffled)
    assert [r["seq"] for r in results] == [r["seq"] for r in shuffled]
    post(client, [{**reading, "stream": "p"} for reading in sent])
    assert client.get("/v1/streams/o").json()["tag"] == client.get("/v1/streams/p").json()["tag"]


def test_readings_without_time_or_seq_are_all_applied(client: TestClient) -> None:
    results = post(client, [{"stream": "n", "values": {"pressure": 1}} for _ in range(5)])
    assert {r["status"] for r in results} <= {"warming_up", "normal"}
    assert len({r["timestamp"] for r in results}) == 5


def test_a_stream_that_numbers_its_readings_keeps_to_it(client: TestClient) -> None:
    post(client, readings("q", 2))
    (result,) = post(client, [{"stream": "q", "values": {"pressure": 1}}])
    assert result["status"] == "rejected"
    assert "seq is absent" in result["error"]


def test_bad_neighbours_change_no_score(client: TestClient) -> None:
    alone = post(client, readings("alone", 6))
    sent = readings("beside", 6)
    mixed = [
        x for good in sent for x in (good, {"stream": "bad/name", "values": 1}, {"stream": "beside", "values": {}})
    ]
    results = post(client, mixed)
    assert [r["score"] for r in results[::3]] == [r["score"] for r in alone]
    assert {r["status"] for r in results[1::3] + results[2::3]} == {"rejected"}


def test_null_is_missing_and_a_missing_channel_is_not_judged(client: TestClient) -> None:
    sent = [{"stream": "m", "seq": n, "values": {"pressure": None, "flow": 3 + n / 10}} for n in range(6)]
    *calm, spike = post(client, [*sent, {"stream": "m", "seq": 6, "values": {"flow": 90.0}}])
    assert all(r["score"] < 1 for r in calm)
    assert spike["score"] > 1
    assert spike["attribution"] == {"pressure": 0.0, "flow": 1.0}


def test_silence_of_a_channel_is_reported_as_such(client: TestClient) -> None:
    sent = [{"stream": "s", "seq": n, "values": {"pressure": None, "flow": 3 + n / 100}} for n in range(30)]
    last = post(client, sent)[-1]
    assert last["status"] == "anomalous"
    assert last["reason"] == "absent"
    assert last["attribution"]["pressure"] == 1


def test_forms_of_a_request(client: TestClient) -> None:
    one, two = readings("f", 2)
    single = client.post("/v1/streams/f/readings", json={k: one[k] for k in ("seq", "values")})
    assert single.json()["stream"] == "f"
    lines = "\n".join(json.dumps(r) for r in (one, two))
    reply = client.post(
        "/v1/readings",
        content=gzip.compress(lines.encode()),
        headers={"content-type": "application/x-ndjson", "content-encoding": "gzip"},
    )
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["seq"] for line in reply.text.splitlines()] == [0, 1]
    assert client.post("/v1/readings", json=[]).json() == []
    other = client.post("/v1/streams/g/readings", json=[one]).json()
    assert "the path says 'g'" in other[0]["error"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"", {}, 400, "the body is empty"),
        (b"nope", {}, 400, "not JSON"),
        (b"[]", {"content-type": "text/xml"}, 415, "text/xml"),
        (b"[]", {"content-encoding": "br"}, 415, "'br'; expected gzip"),
        (b"plain", {"content-encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(b"[]" * 100, mtime=0)[:-9], {"content-encoding": "gzip"}, 400, "ends too early"),
        (b" " * 3000, {}, 413, "at most 2048"),
        (gzip.compress(b" " * 3000, mtime=0), {"content-encoding": "gzip"}, 413, "once decompressed"),
        (b"[" + b",".join([b"{}"] * 6) + b"]", {}, 413, "6 readings in one request; at most 5"),
    ],
)
def test_a_request_that_is_none_gets_a_problem_document(
    settings: Callable[..., Settings], content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    with TestClient(create_app(settings(request_bytes=2048, request_readings=5))) as client:
        reply = client.post("/v1/readings", content=content, headers={"content-type": "application/json", **headers})
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == status
    assert words in problem["detail"]


def test_unknown_paths_methods_and_streams_are_problems_too(client: TestClient) -> None:
    for reply in (client.get("/nowhere"), client.put("/v1/readings"), client.get("/v1/streams/none")):
        assert reply.status_code in (404, 405)
        assert reply.headers["content-type"] == "application/problem+json"
    assert client.get("/v1/streams/a%0Ab").status_code == 422


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/readings", "POST"),
        ("/v1/streams/a/readings", "POST"),
        ("/v1/streams/a", "DELETE, GET, HEAD, PUT"),
        ("/v1/streams/a/history", "GET, HEAD"),
        ("/livez", "GET, HEAD"),
    ],
)
def test_another_method_is_told_which_there_are(client: TestClient, path: str, allowed: str) -> None:
    for method in ("PATCH", "OPTIONS", "TRACE", "X" * 100):
        reply = client.request(method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, allowed)
        assert reply.json()["detail"] == f"{method[:64]} is not taken here; expected {allowed.replace(', ', ' or ')}"


def test_a_slash_too_many_is_another_path(client: TestClient) -> None:
    """A redirect would name the host that the request named."""
    reply = client.get("/livez/", headers={"host": "127.0.0.2"}, follow_redirects=False)
    assert reply.status_code == 404
    assert "location" not in reply.headers


def test_history_holds_the_last_readings_with_their_answers(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(history_readings=32))) as client:
        sent = readings("h", 50)
        answers = post(client, sent)
        kept = client.get("/v1/streams/h/history").json()
    assert [entry["n"] for entry in kept] == list(range(18, 50))
    assert [entry["values"] for entry in kept] == [reading["values"] for reading in sent[18:]]
    assert [{**entry["result"], "replayed": False} for entry in kept] == answers[18:]


def test_when_as_many_readings_wait_as_may_the_next_get_429_and_are_taken_later(
    settings: Callable[..., Settings], redis_url: str
) -> None:
    with TestClient(create_app(settings(**CROWDED))) as client:
        with crowded(client, redis_url):
            reply = client.post("/v1/readings", json=readings("w", 1))
            assert reply.status_code == 429
            assert reply.headers["retry-after"] == "1"
            assert "1 readings wait to be scored; at most 1 may wait" in reply.json()["detail"]
        assert post(client, readings("w", 1))[0]["status"] == "warming_up"
        assert client.get("/v1/streams").json()["total"] == 4  # three of the crowd


def test_redis_away_is_503_with_retry_after_and_the_process_stays_alive(settings: Callable[..., Settings]) -> None:
    app = create_app(settings(redis_url="redis://127.0.0.1:1/0"))
    with capture_logs() as logged, TestClient(app) as client:
        started = time.monotonic()
        for reply in (client.post("/v1/readings", json=readings("a", 1)), client.get("/readyz")):
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
            assert reply.json()["title"] == "Store unavailable"
            assert "Redis cannot be reached; nothing is lost, send the same request again" in reply.json()["detail"]
            assert not re.search("Error|errno|111|127", reply.text)
        assert time.monotonic() - started < 10
        assert client.get("/livez").status_code == 200
        assert "gatewatch_store_up 0.0" in client.get("/metrics").text
    causes = [line["cause"] for line in logged if "cause" in line]
    assert len(causes) == 4  # start, batch, readiness, metrics
    assert all("ConnectionError: " in cause and "127.0.0.1:1" in cause for cause in causes)


def test_the_document_describes_readings_and_results(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert {"SentReading", "Result", "Problem"} <= set(document["components"]["schemas"])


def test_the_page_of_the_document_shows_all_of_it_and_needs_no_other_host(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    reply = client.get("/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"(?:src|href|action|url)\s*[=(]\s*['\"]?\s*(?:\w+:)?//", reply.text) == []
    assert re.findall(r"https?:", reply.text) == []
    policy = reply.headers["content-security-policy"]
    for kind in ("style", "script"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", reply.text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f'data-method="{method}" data-path="{path}"' in reply.text
            assert all(f"<td>{status}</td>" in reply.text for status in operation["responses"])
    for name, schema in document["components"]["schemas"].items():
        assert f'<h3 id="{name}">' in reply.text
        assert all(f"<code>{field}</code>" in reply.text for field in schema["properties"])
    assert set(re.findall(r'href="#(\w+)"', reply.text)) <= set(re.findall(r'id="(\w+)"', reply.text))


def test_more_readings_than_may_wait_is_413_and_as_many_as_may_are_taken(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(waiting_readings=3))) as client:
        for _ in range(2):
            reply = client.post("/v1/readings", json=readings("w", 4))
            assert reply.status_code == 413
            assert "4 readings in one request; at most 3 may wait" in reply.json()["detail"]
        assert len(post(client, readings("w", 3))) == 3


def test_every_member_of_a_gzip_body_is_read(client: TestClient) -> None:
    lines = [json.dumps(reading).encode() for reading in readings("members", 6)]
    body = gzip.compress(lines[0]) + gzip.compress(b"\n" + b"\n".join(lines[1:4])) + gzip.compress(b"\n" + lines[4])
    headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip"}
    reply = client.post("/v1/readings", content=body, headers=headers)
    assert len(reply.text.splitlines()) == 5
    assert client.get("/v1/streams/members").json()["readings"] == 5
    spoilt = client.post("/v1/readings", content=body + b"rest", headers=headers)
    assert spoilt.status_code == 400


@pytest.mark.parametrize("lines", [True, False])
def test_too_many_items_are_refused_before_any_is_looked_at(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, lines: bool
) -> None:
    """A kilobyte of gzip held the event loop for six seconds."""
    monkeypatch.setattr(ReadingDecoder, "convert", lambda *_: pytest.fail("looked at an item"))
    count = 400_000
    body = b"1\n" * count if lines else b"[" + b",".join([b"1"] * count) + b"]"
    headers = {"content-type": "application/x-ndjson" if lines else "application/json", "content-encoding": "gzip"}
    reply = client.post("/v1/readings", content=gzip.compress(body), headers=headers)
    assert reply.status_code == 413
    assert "at most 10000 are taken" in reply.json()["detail"]


def test_a_number_of_thousands_of_digits_harms_no_neighbour(client: TestClient) -> None:
    good, other = readings("n", 2)
    text = json.dumps([good, {**other, "values": {"pressure": "DIGITS"}}]).replace('"DIGITS"', "9" * 5000)
    reply = client.post("/v1/readings", content=text, headers={"content-type": "application/json"})
    assert [r["status"] for r in reply.json()] == ["warming_up", "rejected"]
    assert "values.pressure is a number of 5000 digits" in reply.json()[1]["error"]


def test_an_incident_stays_counted_while_its_stream_sends(settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(settings(open_anomaly_s=0.5))) as client:
        sent = readings("open", 40)
        post(client, [*sent[:20], {**sent[20], "values": {"pressure": 900, "flow": 3}}])
        for reading in sent[21:27]:
            time.sleep(0.15)
            post(client, [reading])
        assert "gatewatch_open_anomalies 1.0" in client.get("/metrics").text
        time.sleep(0.6)
        assert "gatewatch_open_anomalies 0.0" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"", {}, 400, "not JSON"),
        (b"{", {}, 400, "not JSON"),
        (b"\xff", {}, 400, "not JSON"),
        (b'{"\\ud800": 1}', {}, 400, "not JSON"),
        (b"[" * 10_000, {}, 400, "not JSON"),
        (b'{"on_gap": "never"}', {}, 422, "on_gap: Input should be 'accept' or 'hold' (found 'never')"),
        (b'{"reorder_window_s": NaN}', {}, 422, "reorder_window_s"),
        (b'{"reorder_window_s": 1e400}', {}, 422, "reorder_window_s"),
        (b'{"reorder_window_s": true}', {}, 422, "reorder_window_s: Input should be a valid number"),
        (b'{"reorder_window_s": "5"}', {}, 422, "reorder_window_s: Input should be a valid number"),
        (b'{"gap": "hold"}', {}, 422, "gap: Extra inputs are not permitted"),
        (b'{"%s": 1}' % (b"g" * 5000), {}, 422, f"{64 * 'g'}: Extra inputs are not permitted"),
        (b"null", {}, 422, "body: Input should be an object"),
        (b"{}", {"content-type": "text/xml"}, 415, "text/xml"),
        (b"{}", {"content-type": "application/x-ndjson"}, 415, "expected application/json"),
        (b" " * 20_000 + b"{}", {}, 413, "at most 16384"),
        (gzip.compress(b" " * 20_000, mtime=0), {"content-encoding": "gzip"}, 413, "once decompressed"),
    ],
)
def test_settings_that_are_none_change_nothing(
    settings: Callable[..., Settings], content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    with TestClient(create_app(settings())) as client:
        reply = client.put("/v1/streams/s", content=content, headers={"content-type": "application/json", **headers})
        assert client.get("/v1/streams/s").status_code == 404
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert words in reply.json()["detail"]
    assert len(reply.content) < 500


def test_a_long_timestamp_is_rejected_alone_and_takes_no_memory(client: TestClient) -> None:
    """As an array of text it took the longest timestamp's length for each of its neighbours."""
    sent = first, *_ = readings("t", 1000)
    first["timestamp"] = "2" * 800_000
    tracemalloc.start()
    results = post(client, sent)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [r["status"] for r in results[:2]] == ["rejected", "warming_up"]
    assert peak < 64 * 2**20


def test_lines_end_at_newlines_alone(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carriage returns made more lines than were counted."""
    monkeypatch.setattr(ReadingDecoder, "convert", lambda *_: pytest.fail("looked at an item"))
    headers = {"content-type": "application/x-ndjson"}
    reply = client.post("/v1/readings", content=b"1\r" * 50_000, headers=headers)
    assert len(reply.text.splitlines()) == 1
    assert json.loads(reply.text)["status"] == "rejected"


def test_readings_newest_first_are_all_applied(client: TestClient) -> None:
    sent = readings("reversed", 100)
    results = post(client, sent[::-1])
    assert {r["status"] for r in results} <= {"warming_up", "normal", "anomalous"}
    assert [r["seq"] for r in results] == list(range(99, -1, -1))
    assert client.get("/v1/streams/reversed").json()["readings"] == 100


def test_a_reading_sent_before_the_numbers_began_is_answered_again(client: TestClient) -> None:
    numbered = readings("switch", 4)
    plain = [{name: value for name, value in reading.items() if name != "seq"} for reading in numbered[:2]]
    first = post(client, plain)
    post(client, numbered[2:3])
    again = post(client, [*plain, {**plain[0], "timestamp": plain[0]["timestamp"] + 1}])
    assert again[:2] == [{**r, "replayed": True} for r in first]
    assert again[2]["status"] == "rejected"
    assert "seq is absent" in again[2]["error"]
