"""What a stream stands at as a user's good: exported, taken in, kept, gone back to, begun anew, copied."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.service.app import create_app
from gatewatch.service.core import history, records, state_file
from gatewatch.service.settings import Settings
from tests.support.access import add_to_file, bearer
from tests.support.samples import make_artefact, post, readings
from tests.support.scorer import state_key

Make = Callable[..., Settings]
WITH_FAULT = 60
"""Readings before one that opens an incident."""


@pytest.fixture(params=["trained", "any channels"])
def make(request: pytest.FixtureRequest, settings: Make) -> Make:
    """Settings of a service with a model of its own channels, and of one that takes any."""
    return settings if request.param == "trained" else lambda **given: settings(**{"model": "general", **given})


@pytest.fixture
def client(make: Make) -> Iterator[TestClient]:
    with TestClient(create_app(make())) as client:
        yield client


def known(client: TestClient, stream: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/streams/{stream}").json()
    return {name: value for name, value in found.items() if name != "stream"}


def answers(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in result.items() if name != "stream"} for result in results]


def put(client: TestClient, stream: str, content: bytes, **params: str) -> Any:
    return client.put(f"/v1/streams/{stream}/state", content=content, params=params)


def exported(client: TestClient, stream: str) -> bytes:
    reply = client.get(f"/v1/streams/{stream}/state")
    assert reply.status_code == 200, reply.text
    return reply.content


def same_state(one: bytes, other: bytes) -> bool:
    """Whether two files hold the same record, to the bit, and the same history."""
    (_, a), (_, b) = state_file.read(one), state_file.read(other)
    return a.record == b.record and a.kept.tobytes() == b.kept.tobytes() and a.earlier == b.earlier


def fault(stream: str, count: int) -> list[dict[str, Any]]:
    sent = readings(stream, count)
    for one in sent[WITH_FAULT : WITH_FAULT + 3]:
        one["values"] = {"pressure": 900.0, "flow": 3.0}
    return sent


@pytest.mark.parametrize("window", [0, 600])
def test_a_stream_goes_on_elsewhere_as_it_would_have_here(client: TestClient, window: float) -> None:
    sent = readings("pump", 300)
    for stream in ("pump", "twin"):
        client.put(f"/v1/streams/{stream}", json={"reorder_window_s": window, "on_gap": "accept"})
    post(client, sent[:200])
    file = exported(client, "pump")
    assert put(client, "copy", file, **{"as": "new"}).status_code == 200
    assert known(client, "copy") == known(client, "pump")
    assert same_state(exported(client, "copy"), file)
    expected = answers(post(client, sent[200:]))
    late = [{**one, "stream": "copy"} for one in sent[200:]]
    if window:
        late = [*late[:50], *late[51:60], late[50], *late[60:]]
        expected = [*expected[:50], *expected[51:60], expected[50], *expected[60:]]
    assert [one["score"] for one in post(client, late)][60:] == [one["score"] for one in expected][60:]
    assert known(client, "copy")["tag"] == known(client, "pump")["tag"]
    again = post(client, [{**one, "stream": "copy"} for one in sent[295:]])
    assert all(one["replayed"] for one in again)


def test_a_state_is_taken_in_by_another_service_with_a_shorter_history(
    client: TestClient, make: Make, tenant: str
) -> None:
    post(client, readings("pump", 200))
    file = exported(client, "pump")
    with TestClient(create_app(make(tenant=f"{tenant}-other", history_readings=64))) as other:
        assert put(other, "pump", file).status_code == 200
        assert len(other.get("/v1/streams/pump/history").json()) == 64
        rest = readings("pump", 220)[200:]
        assert answers(post(other, rest)) == answers(post(client, rest))


def test_a_file_says_itself_what_is_in_it(client: TestClient) -> None:
    post(client, readings("pump", 30))
    reply = client.get("/v1/streams/pump/state")
    assert reply.headers["content-disposition"] == 'attachment; filename="pump.state"'
    assert reply.content.startswith(b"gatewatch-state 1\n")
    file, _ = state_file.read(reply.content)
    told = known(client, "pump")
    assert (file.stream, file.model, file.channels) == ("pump", told["model"], ["pressure", "flow"])
    assert (file.readings, file.last_timestamp, file.tag) == (30, told["last_timestamp"], told["tag"])
    assert client.get("/v1/streams/nobody/state").status_code == 404


def flipped(content: bytes, at: int) -> bytes:
    """With one bit changed."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def resigned(content: bytes) -> bytes:
    """A body with the checksum that it should have: changed by somebody who knows the format."""
    return content[:-32] + hashlib.sha256(content[:-32]).digest()


@pytest.mark.parametrize(
    ("change", "met"),
    [
        (lambda file: file[:0], "begins with ''"),
        (lambda file: b"GW\4\0" + file, "begins with"),
        (lambda file: file.replace(b"state 1\n", b"state 7\n", 1), "version 7; expected 1"),
        (lambda file: file[:-40], "is damaged: its checksum is"),
        (lambda file: flipped(file, 300), "is damaged: its checksum is"),
        (lambda file: resigned(file.replace(b"\xa6format\x04", b"\xa6format\x09", 1)), "format 9; expected 4"),
        (lambda file: resigned(file.replace(b"\xa6record", b"\xa6recoil", 1)), "expected the fields of version 1"),
        (lambda file: resigned(flipped(file, file.index(b"GW\4\0") + 60)), "is damaged: the record is damaged"),
        (lambda file: resigned(flipped(file, file.index(b"\xa7history") + 500)), "is damaged: readings of the history"),
    ],
)
def test_what_is_no_whole_state_is_refused_and_changes_nothing(
    client: TestClient, change: Callable[[bytes], bytes], met: str
) -> None:
    post(client, readings("pump", 40))
    file = exported(client, "pump")
    post(client, readings("pump", 50)[40:])
    before = known(client, "pump")
    reply = put(client, "pump", change(file))
    assert (reply.status_code, reply.json()["title"]) == (422, "Invalid state"), reply.text
    assert met in reply.json()["detail"]
    assert "expected" in reply.json()["detail"]
    assert known(client, "pump") == before


def test_another_streams_state_is_refused_unless_it_begins_a_new_one(client: TestClient) -> None:
    post(client, [*readings("pump", 20), *readings("fan", 5)])
    file = exported(client, "pump")
    refused = put(client, "fan", file)
    assert refused.status_code == 422
    assert "is of stream pump; expected one of fan" in refused.json()["detail"]
    there = put(client, "fan", file, **{"as": "new"})
    assert (there.status_code, there.json()["title"]) == (409, "Already there")
    assert put(client, "new", file, **{"as": "new"}).json()["readings"] == 20
    assert put(client, "pump", file, **{"as": "old"}).status_code == 422
    assert known(client, "fan")["readings"] == 5


def test_a_state_of_a_model_that_is_not_known_here_is_refused_by_name(
    client: TestClient, settings: Make, tenant: str, tmp_path: Path
) -> None:
    other = str(make_artefact(tmp_path / "other", seed=7))
    with TestClient(create_app(settings(model=other, tenant=f"{tenant}-other"))) as elsewhere:
        post(elsewhere, readings("pump", 20))
        file, theirs = exported(elsewhere, "pump"), known(elsewhere, "pump")["model"]
    post(client, readings("pump", 20))
    refused = put(client, "pump", file)
    assert refused.status_code == 422
    ours = known(client, "pump")["model"]
    assert f"belongs to model {theirs}, which is not known here; expected {ours}" in refused.json()["detail"]


def test_of_two_imports_at_once_one_is_whole(client: TestClient) -> None:
    files = []
    for count in (30, 60):
        post(client, readings("pump", count))
        files.append(exported(client, "pump"))
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda at: put(client, "pump", files[at % 2]).status_code, range(16)))
    assert set(replies) == {200}
    assert any(same_state(exported(client, "pump"), file) for file in files)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda at: put(client, "new", files[at % 2], **{"as": "new"}).status_code, range(8)))
    assert sorted(replies) == [200, *[409] * 7]


def test_a_stream_too_many_is_not_begun_by_an_import_or_a_fork(make: Make) -> None:
    with TestClient(create_app(make(streams=1))) as client:
        post(client, readings("pump", 5))
        file = exported(client, "pump")
        for reply in (put(client, "new", file, **{"as": "new"}), client.post("/v1/streams/pump/fork?to=new")):
            assert reply.status_code == 400
            assert "the tenant has 1 already" in reply.json()["detail"]
        assert client.get("/v1/streams").json()["streams"] == ["pump"]


def test_a_damaged_record_is_exported_as_its_next_reading_would_find_it(
    client: TestClient, make: Make, redis_url: str, tenant: str
) -> None:
    post(client, readings("pump", 60))
    whole = exported(client, "pump")
    with redis.Redis.from_url(redis_url) as database:
        database.set(state_key(tenant, "pump"), b"GW\4\0nonsense")
    file, standing = state_file.read(exported(client, "pump"))
    assert (file.tag, standing.kept.tobytes()) == (
        state_file.read(whole)[0].tag,
        state_file.read(whole)[1].kept.tobytes(),
    )


def test_snapshots_are_listed_gone_back_to_and_deleted(client: TestClient) -> None:
    sent = readings("pump", 100)
    path = "/v1/streams/pump/snapshots"
    assert client.post(path, json={"name": "first"}).status_code == 404
    first = post(client, sent[:40])
    client.put("/v1/streams/pump", json={"reorder_window_s": 60})
    before = known(client, "pump")
    kept = client.post(path, json={"name": "before-valve"}).json()
    assert (kept["name"], kept["readings"], kept["tag"]) == ("before-valve", 40, before["tag"])
    client.put("/v1/streams/pump", json={})
    expected = post(client, sent[40:])
    assert client.get(path).json() == [kept]
    back = client.post(f"{path}/before-valve/rollback")
    assert (back.status_code, back.json()["readings"]) == (200, 40)
    assert known(client, "pump") == before
    assert answers(post(client, sent[:40])) == [{**one, "replayed": True} for one in answers(first)]
    assert answers(post(client, sent[40:])) == answers(expected)
    assert client.delete(f"{path}/before-valve").status_code == 204
    for reply in (client.post(f"{path}/before-valve/rollback"), client.delete(f"{path}/before-valve")):
        assert (reply.status_code, reply.json()["title"]) == (404, "Unknown snapshot")
    assert client.get(path).json() == []


def test_a_snapshot_too_many_or_of_a_name_that_is_there_is_refused(make: Make) -> None:
    with TestClient(create_app(make(snapshots=2))) as client:
        post(client, readings("pump", 5))
        path = "/v1/streams/pump/snapshots"
        assert [client.post(path, json={"name": name}).status_code for name in "aab"] == [200, 409, 200]
        refused = client.post(path, json={"name": "c"})
        assert refused.status_code == 409
        assert "has 2 snapshots, as many as are kept (GATEWATCH_SNAPSHOTS)" in refused.json()["detail"]
        assert client.post(path, json={"name": "../c"}).status_code == 422
        client.delete(f"{path}/a")
        assert client.post(path, json={"name": "c"}).status_code == 200
        assert [one["name"] for one in client.get(path).json()] == ["b", "c"]
        client.delete("/v1/streams/pump")
        assert client.get(path).json() == []


def test_a_rollback_undoes_the_incidents_of_what_it_undoes_and_no_others(client: TestClient) -> None:
    sent = fault("pump", 200)
    post(client, sent[: WITH_FAULT - 5])
    client.post("/v1/streams/pump/snapshots", json={"name": "before"})
    post(client, sent[WITH_FAULT - 5 : WITH_FAULT + 2])
    client.post("/v1/streams/pump/snapshots", json={"name": "amid"})
    post(client, sent[WITH_FAULT + 2 :])
    (whole,) = client.get("/v1/incidents").json()["incidents"]
    assert whole["state"] == "ended"

    client.post("/v1/streams/pump/snapshots/amid/rollback")
    (amid,) = client.get("/v1/incidents").json()["incidents"]
    assert (amid["id"], amid["state"]) == (whole["id"], "open")
    assert "gatewatch_open_anomalies 1.0" in client.get("/metrics").text
    post(client, sent[WITH_FAULT + 2 :])
    (again,) = client.get("/v1/incidents").json()["incidents"]
    assert (again["id"], again["state"], again["end"]) == (whole["id"], "ended", whole["end"])

    client.post("/v1/streams/pump/snapshots/before/rollback")
    assert client.get("/v1/incidents").json()["incidents"] == []
    post(client, sent[WITH_FAULT - 5 :])
    (anew,) = client.get("/v1/incidents").json()["incidents"]
    assert {name: anew[name] for name in ("id", "start", "end", "alerts")} == {
        name: whole[name] for name in ("id", "start", "end", "alerts")
    }


def test_readings_that_come_during_rollbacks_are_applied_before_or_after_and_once(
    client: TestClient, make: Make
) -> None:
    """By two processes: whatever the order, the tag is one of a stream that went back at some moment between."""
    sent = readings("pump", 140)
    post(client, sent[:40])
    client.post("/v1/streams/pump/snapshots", json={"name": "s"})
    with TestClient(create_app(make())) as other:
        stop = threading.Event()
        codes: list[int] = []

        def go_back() -> None:
            while not stop.is_set():
                codes.append(other.post("/v1/streams/pump/snapshots/s/rollback").status_code)

        thread = threading.Thread(target=go_back)
        thread.start()
        results = [post(client, [one])[0] for one in sent[40:]]
        stop.set()
        thread.join()
    assert set(codes) == {200}
    assert {one["status"] for one in results} <= {"warming_up", "normal", "anomalous"}
    file, standing = state_file.read(exported(client, "pump"))
    numbers = standing.kept["seq"].tolist()
    later = numbers[40:]
    assert numbers[:40] == list(range(40))
    assert later == list(range(140 - len(later), 140))
    for one in (*sent[:40], *sent[140 - len(later) :]):
        post(client, [{**one, "stream": "twin"}])
    assert client.get("/v1/streams/twin").json()["tag"] == file.tag


def test_a_reset_begins_the_stream_anew_and_keeps_its_settings(client: TestClient) -> None:
    sent = fault("pump", 100)
    first = post(client, sent)
    client.put("/v1/streams/pump", json={"reorder_window_s": 60})
    assert client.get("/v1/incidents").json()["incidents"]
    anew = client.post("/v1/streams/pump/reset?what=state").json()
    assert (anew["readings"], anew["last_seq"], anew["tag"]) == (0, None, "00" * 16)
    assert anew["reorder_window_s"] == 60
    assert client.get("/v1/incidents").json()["incidents"] == []
    assert "gatewatch_open_anomalies 0.0" in client.get("/metrics").text
    assert client.get("/v1/streams/pump/history").status_code == 404
    assert answers(post(client, sent)) == answers(first)
    assert client.post("/v1/streams/nobody/reset?what=state").status_code == 404


def test_after_a_reset_a_stream_of_any_channels_may_send_others(settings: Make) -> None:
    made = settings(model="general")
    with TestClient(create_app(made)) as client, TestClient(create_app(made)) as other:
        post(client, readings("pump", 20))
        post(other, readings("pump", 21)[20:])
        client.post("/v1/streams/pump/reset?what=state")
        (one,) = post(other, [{"stream": "pump", "seq": 0, "timestamp": 1.7e9, "values": {"rpm": 5.0}}])
        assert list(one["expected"]) == ["rpm"]
        assert known(other, "pump")["channels"] == ["rpm"]


def test_a_fork_goes_on_by_itself(client: TestClient) -> None:
    sent = fault("pump", 120)
    post(client, sent[:100])
    forked = client.post("/v1/streams/pump/fork", params={"to": "copy"})
    assert forked.status_code == 200
    assert known(client, "copy") == known(client, "pump")
    assert same_state(exported(client, "copy"), exported(client, "pump"))
    rest = [{**one, "stream": "copy"} for one in sent[100:]]
    assert answers(post(client, rest)) == answers(post(client, sent[100:]))
    assert client.get("/v1/incidents?stream=copy").json()["incidents"] == []
    assert client.post("/v1/streams/pump/fork", params={"to": "copy"}).status_code == 409
    assert client.post("/v1/streams/nobody/fork", params={"to": "x"}).status_code == 404
    assert client.post("/v1/streams/pump/fork", params={"to": "x", "model": "none@1"}).status_code == 404


def test_only_an_admin_pins_a_fork_to_a_model(settings: Make, tenant: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_to_file(file, tenant, "operate", "ingest")
    with TestClient(create_app(settings(keys_file=file)), headers=bearer(key)) as client:
        post(client, readings("pump", 5))
        refused = client.post("/v1/streams/pump/fork", params={"to": "x", "model": "pumps"})
        assert refused.status_code == 403
        assert "scope admin" in refused.json()["detail"]
        assert client.post("/v1/streams/pump/fork", params={"to": "x"}).status_code == 200


@pytest.fixture
def two_models(settings: Make, tmp_path: Path) -> Make:
    """A service with the general model, and `pumps` in its repository."""
    repository = Repository(str(tmp_path / "models"), verify)
    repository.add("pumps", make_artefact(tmp_path / "pumps", seed=1), "ann")
    return lambda **given: settings(**{"model": "general", "models": str(tmp_path / "models"), **given})


def test_a_fork_is_pinned_to_another_model_and_stands_where_that_would_have_brought_it(two_models: Make) -> None:
    sent = readings("pump", 100)
    with TestClient(create_app(two_models())) as client:
        post(client, sent[:90])
        forked = client.post("/v1/streams/pump/fork", params={"to": "trial", "model": "pumps@1"}).json()
        (version,) = client.get("/v1/models/pumps/versions").json()
        assert (forked["readings"], forked["model"]) == (90, version["digest"])
        assert client.get("/v1/rules").json()["pins"] == {"trial": "pumps@1"}
        client.put("/v1/rules", json={"pins": {"trial": "pumps@1", "replayed": "pumps@1"}})
        expected = post(client, [{**one, "stream": "replayed"} for one in sent])
        assert answers(post(client, [{**one, "stream": "trial"} for one in sent[90:]])) == answers(expected[90:])
        assert known(client, "pump")["model"] != version["digest"]


def test_the_pin_that_a_fork_left_goes_with_the_stream_and_one_that_somebody_made_stays(two_models: Make) -> None:
    """A new stream of the name has the model of the rules again; what is said in between of other streams stays."""
    with TestClient(create_app(two_models())) as client, TestClient(create_app(two_models())) as other:
        general = post(client, readings("pump", 40))[0]["model"]
        client.put("/v1/rules", json={"pins": {"mine": "pumps@1", "own": "pumps@1"}}).raise_for_status()
        for name in ("trial", "kept", "mine"):
            fork = {"to": name, "model": "pumps@1"}
            client.post("/v1/streams/pump/fork", params=fork).raise_for_status()
        rules = client.get("/v1/rules").json()
        assert rules["pins"] == dict.fromkeys(("mine", "own", "trial", "kept"), "pumps@1")
        (version,) = client.get("/v1/models/pumps/versions").json()
        again = dict.fromkeys(rules["pins"], "pumps@1") | {"kept": "default"}  # which makes it somebody's own
        client.put("/v1/rules", json={"pins": again}).raise_for_status()
        for name in ("trial", "kept", "mine"):
            assert other.delete(f"/v1/streams/{name}").status_code == 204
        assert other.get("/v1/rules").json()["pins"] == {"mine": "pumps@1", "own": "pumps@1", "kept": "default"}
        assert post(other, readings("trial", 1))[0]["model"] == general
        assert post(other, readings("mine", 1))[0]["model"] == version["digest"]
        assert client.delete("/v1/streams/nobody").status_code == 404


def test_a_fork_to_a_model_that_is_not_there_leaves_nothing_behind(two_models: Make) -> None:
    with TestClient(create_app(two_models(streams=1))) as client:
        post(client, readings("pump", 5))
        missing = client.post("/v1/streams/pump/fork", params={"to": "trial", "model": "pumps@7"})
        assert missing.status_code == 422, missing.text
        full = client.post("/v1/streams/pump/fork", params={"to": "trial", "model": "pumps@1"})
        assert full.status_code == 400
        assert client.get("/v1/rules").json()["pins"] == {}
        assert client.get("/v1/streams").json()["streams"] == ["pump"]


def test_a_state_of_another_model_that_is_known_here_is_replayed_at_once(
    two_models: Make, settings: Make, tenant: str, tmp_path: Path
) -> None:
    sent = readings("pump", 100)
    with TestClient(create_app(settings(model=str(tmp_path / "pumps"), tenant=f"{tenant}-other"))) as elsewhere:
        post(elsewhere, sent[:90])
        file = exported(elsewhere, "pump")
    with TestClient(create_app(two_models())) as client:
        taken = put(client, "pump", file)
        assert taken.status_code == 200, taken.text
        assert taken.json()["readings"] == 90
        expected = post(client, [{**one, "stream": "twin"} for one in sent])
        assert known(client, "pump")["model"] == known(client, "twin")["model"]
        assert answers(post(client, sent[90:])) == answers(expected[90:])


def test_tenants_see_and_change_the_states_of_their_own_streams(settings: Make, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    ours, theirs = (add_to_file(file, name, "operate", "read", "ingest") for name in ("ours", "theirs"))
    with TestClient(create_app(settings(keys_file=file)), headers=bearer(ours)) as client:
        post(client, readings("pump", 30))
        client.post("/v1/streams/pump/snapshots", json={"name": "s"})
        state = exported(client, "pump")
        client.headers.update(bearer(theirs))
        assert client.get("/v1/streams/pump/state").status_code == 404
        assert client.get("/v1/streams/pump/snapshots").json() == []
        assert client.post("/v1/streams/pump/fork", params={"to": "x"}).status_code == 404
        assert put(client, "pump", state).json()["readings"] == 30
        client.post("/v1/streams/pump/reset?what=state")
        client.headers.update(bearer(ours))
        assert known(client, "pump")["readings"] == 30
        assert [one["name"] for one in client.get("/v1/streams/pump/snapshots").json()] == ["s"]


def test_a_stream_that_was_found_silent_goes_on_from_another_state_without_that(client: TestClient) -> None:
    """The mark of a silence stands in the record, and its incident beside it."""
    post(client, readings("pump", 20))
    _, standing = state_file.read(exported(client, "pump"))
    marked = records.marked_silent(standing.record, state_file.SEED)
    silent = state_file.Standing(marked, state_file.SEED, standing.kept, standing.earlier, standing.settings)
    assert silent.part["status"][0] & records.SILENT
    assert silent.sealed(state_file.SEED) == standing.record


def forged(content: bytes, field: str, value: Any, *, part: str) -> bytes:
    """A state with another value in its record, its history or its file, and all checksums right."""
    end = state_file._HEAD.match(content).end()  # type: ignore[union-attr]
    file = msgspec.msgpack.decode(content[end:-32], type=state_file.StateFile)
    record = bytearray(file.record)
    layout = records.stream_part(file.record, 0)[1]  # type: ignore[index]
    kept = history.unpack_slots(file.history, layout.entry, layout.slot_seed(0)).copy()
    if part == "record":
        np.frombuffer(record, records.STREAM_PART, 1)[field] = value
    elif part == "history":
        kept[field] = value
    elif part == "network":
        begin = records.STREAM_PART.itemsize + records.MODEL_BYTES + len(layout.model)
        end_of_model = records.STREAM_PART.itemsize + int.from_bytes(record[8:12], "little")
        record[begin:end_of_model] = random.Random(value).randbytes(end_of_model - begin)
    other: dict[str, Any] = {field: value} if part == "file" else {}
    slots = b"".join(history.pack_entries(kept, repeat(layout.slot_seed(0))))
    changed = {"record": state_file.resealed(bytes(record), 0), "history": slots, **other}
    content = content[:end] + msgspec.msgpack.encode(msgspec.structs.replace(file, **changed))
    return content + hashlib.sha256(content).digest()


LEAST, MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
NO_READING_LEADS_TO = [
    *(("record", name, value) for name in ("last_ms", "newest_ms", "session_ms", "earlier_ms") for value in (-5, MOST)),
    ("record", "last_ms", LEAST), ("record", "last_seq", -2), ("record", "last_seq", MOST), ("record", "status", 3),
    ("record", "score", np.nan), ("record", "score", np.inf), ("record", "hold", 2), ("record", "join", 2),
    ("record", "reorder_ms", 2**32 - 1), ("record", "readings", 2**63),
    ("history", "timestamp_ms", LEAST), ("history", "timestamp_ms", MOST), ("history", "seq", -2),
    ("history", "status", 7), ("history", "reason", 15), ("history", "score", np.nan), ("history", "values", np.inf),
    ("history", "attribution", np.nan), ("history", "attribution", np.inf),
    ("file", "earlier", (b"x" * 200, b"")),
]  # fmt: skip


def test_a_state_of_numbers_that_no_reading_leads_to_is_refused_whatever_its_checksums_say(client: TestClient) -> None:
    """An answer that cannot be written would fail the whole batch, with the readings of other tenants in it."""
    post(client, readings("pump", 40))
    content = exported(client, "pump")
    assert put(client, "pump", forged(content, "status", 1, part="record")).status_code == 200
    for part, field, value in NO_READING_LEADS_TO:
        reply = put(client, "pump", forged(content, field, value, part=part))
        assert reply.status_code == 422, (part, field, value)
    assert client.get("/v1/streams/pump").status_code == 200
    assert put(client, "pump", forged(content, "settings", b"[" * 50_000, part="file")).status_code == 200


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_state_whose_network_is_rubbish_harms_its_own_stream_alone(client: TestClient) -> None:
    """Whether it is rubbish only its scores would show."""
    sent = readings("pump", 60)
    post(client, sent[:40])
    content = exported(client, "pump")
    alone = post(client, readings("neighbour", 60))
    for seed in range(4):
        assert put(client, "pump", forged(content, "", seed, part="network")).status_code == 200
        client.delete("/v1/streams/neighbour")
        mine = readings("neighbour", 60)
        found = [*post(client, [*sent[40:50], *mine[:30]])[10:], *post(client, [*sent[40:60], *mine[30:]])[20:]]
        assert found == alone
        for path in ("", "/history", "/forecast", "/state"):
            assert client.get(f"/v1/streams/pump{path}").status_code == 200


def test_a_state_of_too_many_channels_is_refused(settings: Make) -> None:
    with TestClient(create_app(settings(model="general", stream_channels=2))) as client:
        post(client, readings("pump", 3))
        content = exported(client, "pump")
    with TestClient(create_app(settings(model="general", stream_channels=1))) as client:
        reply = put(client, "pump", content)
    assert reply.status_code == 422
    assert "2 channels" in reply.json()["detail"]


def test_what_was_kept_before_a_reset_is_no_part_of_a_stream_any_more(client: TestClient) -> None:
    """With a reorder window there are two earlier records; they stay in Redis, and no export or snapshot has them."""
    client.put("/v1/streams/s", json={"reorder_window_s": 60}).raise_for_status()
    for start in (0, 40):
        post(client, readings("s", 40, start=start))
    assert client.post("/v1/streams/s/snapshots", json={"name": "before"}).status_code == 200
    client.post("/v1/streams/s/reset?what=state").raise_for_status()
    for name in ("empty", "begun", "two"):
        taken = client.post("/v1/streams/s/snapshots", json={"name": name})
        assert taken.status_code == 200, taken.text
        state = client.get("/v1/streams/s/state").content
        assert client.put("/v1/streams/s/state", content=state).status_code == 200
        post(client, readings("s", 2 if name == "empty" else 70, start=0 if name == "empty" else 2))
    client.post("/v1/streams/s/snapshots/before/rollback").raise_for_status()
    assert client.get("/v1/streams/s").json()["readings"] == 80
    state = client.get("/v1/streams/s/state").content
    assert client.put("/v1/streams/s/state", content=state).status_code == 200
