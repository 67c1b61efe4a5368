"""The webhook: told at least once, signed, and never again once it is known to be taken; nobody waits for it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.models.errors import GatewatchError
from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.incidents.event import EVENTS, Event
from gatewatch.service.incidents.outlets import sender, webhook
from gatewatch.service.incidents.outlets.addresses import NoAddress, Resolver, may_be_contacted
from gatewatch.service.incidents.outlets.sender import NotTaken, Sender, secret_of
from gatewatch.service.settings import Settings
from gatewatch.service.storage import outbox
from gatewatch.service.storage.group_store import Joining
from gatewatch.service.storage.keys import Keys, encode, tag_of
from gatewatch.service.storage.store import StateStore
from gatewatch.service.storage.unused_streams import UnusedStreams
from tests.api.test_incidents import CALM, FAULT, fault
from tests.support.certificates import make_certificate
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.samples import PATIENT_MS, post, readings

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and tries again sooner than the service does."""
    monkeypatch.setattr(webhook, "EVERY_S", 0.05)
    monkeypatch.setattr(webhook, "RETRY_S", (0.1, 0.2))
    monkeypatch.setattr(webhook, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(webhook, "LEASE_S", 0.5)
    monkeypatch.setattr(webhook, "GROUP_S", 0.5)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    return path


@pytest.fixture
def told(settings: Callable[..., Settings], receiver: Receiver, secret: Path) -> Callable[..., TestClient]:
    """A service that posts to the receiver."""

    def make(**changes: Any) -> TestClient:
        given = {"webhook_url": f"{receiver.url}/hook", "webhook_secret_file": secret, "webhook_networks": LOOPBACK}
        return TestClient(create_app(settings(**given | changes)))

    return make


@contextmanager
def posting_later() -> Iterator[None]:
    """Nothing is posted meanwhile: however slow the machine is, all is saved first."""

    async def nothing(*_: object) -> tuple[list[outbox.Claimed], dict[bytes, int]]:
        return [], {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox.Outbox, "claim", nothing)
        yield


def waiting(redis_url: str, tenant: str) -> list[bytes]:
    """What is in the outbox of a tenant."""
    with Redis.from_url(redis_url) as database:
        keys = list(database.scan_iter(f"gatewatch:{{*}}:{encode(tenant)}:outbox"))
        return [member for key in keys for member in database.zrange(key, 0, -1)]


def test_an_incident_is_told_when_it_opens_when_it_ends_and_when_it_goes_on(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    sent = fault("pump", count=CALM + FAULT + 140)
    for one in sent[CALM + FAULT + 60 : CALM + FAULT + 65]:
        one["values"] = {**one["values"], "pressure": 900.0}
    with told(external_url="https://gw.example.com") as client:
        for start in range(0, len(sent), 20):
            post(client, sent[start : start + 20])
        receiver.wait_for(lambda: len(receiver.taken) == 4)
        assert receiver.taken == ["incident.opened", "incident.ended", "incident.reopened", "incident.ended"]
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
        known = client.get(f"/v1/incidents/{CALM}.pump").json()
        known.pop("readings")
    (opened,) = [one for one in receiver.deliveries if one.body["type"] == "incident.opened"]
    assert opened.signed
    assert opened.body["data"]["id"] == f"{CALM}.pump"
    assert opened.body["data"]["channels"][0]["channel"] == "pressure"
    assert opened.body["data"]["url"] == f"https://gw.example.com/#/incidents/{CALM}.pump"
    assert opened.body["data"]["tenant"] == tenant
    assert len({one.id for one in receiver.deliveries}) == 4
    assert opened.body["data"].keys() == known.keys() | {"url", "tenant"}


@pytest.mark.parametrize("way", ["deleted", "reset", "rolled back"])
def test_an_incident_ends_with_its_stream(way: str, told: Callable[..., TestClient], receiver: Receiver) -> None:
    with told() as client:
        sent = fault("pump")
        post(client, sent[:CALM])
        assert client.post("/v1/streams/pump/snapshots", json={"name": "before"}).is_success
        post(client, sent[CALM:])
        receiver.wait_for(lambda: receiver.taken == ["incident.opened"])
        if way == "deleted":
            assert client.delete("/v1/streams/pump").is_success
        elif way == "reset":
            assert client.post("/v1/streams/pump/reset", params={"what": "state"}).is_success
        else:
            assert client.post("/v1/streams/pump/snapshots/before/rollback").is_success
        receiver.wait_for(lambda: len(receiver.taken) == 2)
        assert receiver.taken[-1] == "incident.ended"
        assert client.delete("/v1/streams/pump").is_success or way == "deleted"
        time.sleep(0.3)
        assert len(receiver.taken) == 2  # once


@pytest.mark.parametrize("way", ["unused", "too old", "too many"])
def test_an_incident_that_is_forgotten_while_it_is_open_ends_for_those_who_were_told(
    way: str, told: Callable[..., TestClient], receiver: Receiver, tenant: str
) -> None:
    with told() as client:
        post(client, fault("pump"))
        post(client, fault("fan")[:CALM])
        receiver.wait_for(lambda: receiver.taken == ["incident.opened"])
        store, now_ms = client.app.state.parts.store, round(time.time() * 1000)  # type: ignore[attr-defined]

        async def forget() -> None:
            if way != "unused":
                before_ms, most = (2**52, 100) if way == "too old" else (0, 0)
                assert await asyncio.gather(
                    *(store.incidents.trim(tenant, before_ms, most, now_ms) for _ in range(2))
                )  # as two processes may
                return
            unused = UnusedStreams(store)
            gone: list[str] = []
            for now_s in (0, 1000):
                for bucket in range(unused.buckets):
                    names = await unused.page(tenant, bucket, b"", 10)
                    gone += await unused.look(tenant, bucket, names, now_s, 1000) if names else []
            assert sorted(gone) == ["fan", "pump"]

        client.portal.call(forget)  # type: ignore[union-attr]
        receiver.wait_for(lambda: len(receiver.taken) == 2)
        time.sleep(0.2)
    assert receiver.taken == ["incident.opened", "incident.ended"]
    assert receiver.deliveries[-1].body["data"]["id"] == f"{CALM}.pump"


@pytest.mark.parametrize("bad", [500, 404, 301, 308, 0, 429])
def test_what_is_not_taken_is_sent_again_under_its_name_until_it_is(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str, bad: int
) -> None:
    receiver.answer = lambda number: bad if number < 2 else 204
    with told() as client:
        post(client, fault("pump"))
        receiver.wait_for(lambda: receiver.taken == ["incident.opened"])
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
        time.sleep(0.3)
        lines = client.get("/metrics").text.splitlines()
    assert len(receiver.deliveries) == 3
    assert len({one.id for one in receiver.deliveries}) == 1
    assert all(one.signed for one in receiver.deliveries)
    assert receiver.other == []  # no redirect was followed
    assert 'gatewatch_webhook_deliveries_total{outcome="delivered"} 1.0' in lines
    assert 'gatewatch_webhook_deliveries_total{outcome="failed"} 2.0' in lines


def test_a_receiver_that_hangs_costs_no_reading(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    receiver.answer = lambda _: -1
    with told(webhook_timeout_s=0.3) as client:
        for number in range(4):
            post(client, fault(f"pump-{number}"))
        receiver.wait_for(lambda: receiver.deliveries)
        results = [post(client, [one]) for one in readings("fan", 30)]
        assert len(results) == 30
        assert len(waiting(redis_url, tenant)) == 4
        receiver.answer = lambda _: 200
        receiver.wait_for(lambda: len({one.id for one in receiver.deliveries if one.answered == 200}) == 4)
    assert receiver.taken == ["incident.opened"] * 4


def test_a_restart_in_the_middle_loses_nothing_and_sends_nothing_again_that_was_taken(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    receiver.answer = lambda number: 204 if number < 3 else 500
    with told() as client:
        for number in range(8):
            post(client, fault(f"pump-{number}"))
        receiver.wait_for(lambda: len(receiver.deliveries) > 5)
    first = {one.id for one in receiver.deliveries if one.answered == 204}
    assert len(first) == 3
    assert len(waiting(redis_url, tenant)) == 5
    receiver.answer = lambda _: 204
    with told():
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
    taken = [one.id for one in receiver.deliveries if one.answered == 204]
    assert (len(taken), len(set(taken))) == (8, 8)


def test_what_was_taken_is_not_sent_again_though_redis_was_away_when_that_was_to_be_saved(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = outbox.Outbox.told, 3

    async def away(self: outbox.Outbox, claimed: outbox.Claimed) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StoreUnavailable("Redis is away")
        await real(self, claimed)

    monkeypatch.setattr(outbox.Outbox, "told", away)
    with told() as client:
        post(client, fault("pump"))
        receiver.wait_for(lambda: failures < 0 and not waiting(redis_url, tenant))
    assert receiver.taken == ["incident.opened"]


def test_however_many_processes_there_are_one_of_them_sends(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    with told() as one, told() as other, told():
        for number in range(10):
            post(one if number % 2 else other, fault(f"pump-{number}"))
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
        time.sleep(0.3)
    assert len(receiver.deliveries) == 10


def test_what_is_given_up_is_a_dead_letter_of_its_tenant(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    receiver.answer = lambda _: 503
    with told(webhook_retry_s=0.3, webhook_dead_letters=3) as client:
        for number in range(5):
            post(client, fault(f"pump-{number}"))
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
        letters = client.get("/v1/dead-letters").json()["letters"]
        assert len(letters) == 3
        assert {letter["error"] for letter in letters} == {"it answered 503"}
        assert {letter["type"] for letter in letters} == {"incident.opened"}
        assert {letter["id"] for letter in letters} <= {one.id for one in receiver.deliveries}
        assert client.get("/v1/dead-letters?limit=1").json()["letters"] == letters[:1]
        assert 'outcome="dead"} 5.0' in client.get("/metrics").text


def test_of_more_than_may_wait_those_that_have_waited_longest_are_given_up(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is always one to be tried: a receiver that is down, or slow, has no say in it."""
    monkeypatch.setattr(outbox, "MOST_IN_BUCKET", 2)
    monkeypatch.setattr(webhook, "RETRY_S", (0.0, 0.0))
    receiver.answer = lambda _: 500
    with told() as client:
        keys = Keys(tenant, Settings.model_fields["slot_buckets"].default)
        tags = [(tag_of(keys[StreamKey(tenant, f"pump-{number}")].record), f"pump-{number}") for number in range(400)]
        streams = [stream for tag, stream in tags if tag == tags[0][0]][:5]
        for stream in streams:
            post(client, fault(stream))
        receiver.wait_for(lambda: len(client.get("/v1/dead-letters").json()["letters"]) >= 3)
        letters = client.get("/v1/dead-letters").json()["letters"]
        left = waiting(redis_url, tenant)
    assert {letter["error"] for letter in letters} == {"too many events waited to be told"}
    assert {letter["incident"] for letter in letters} == {f"{CALM}.{stream}" for stream in streams[:3]}
    assert sorted(json.loads(event)[4] for event in left) == sorted(streams[3:])


def test_each_of_too_many_is_given_up_by_one_process_and_none_that_another_one_tells(
    client: TestClient, redis_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where two saw the same surplus."""
    monkeypatch.setattr(outbox, "MOST_IN_BUCKET", 2)
    events = [Event("opened", at, tenant, at, "pump").encode() for at in range(7)]

    async def at_once() -> tuple[outbox.Claimed, list[list[bytes]]]:
        two = [StateStore(redis_url, tenant, PATIENT_MS) for _ in range(2)]
        boxes = [outbox.Outbox(store) for store in two]
        key = two[0].keys.outbox(b"0")
        await two[0].ask_one(b"ZADD", key, *(part for one in events for part in (b"0", one)))
        (claimed,), waiting = await boxes[0].claim(8, 60.0)
        taken = await asyncio.gather(*(box.take_surplus(waiting, 60.0) for box in boxes))
        for store in two:
            await store.close()
        return claimed, taken

    claimed, taken = client.portal.call(at_once)  # type: ignore[union-attr]
    assert claimed.event == events[0]
    assert sorted(taken[0] + taken[1]) == sorted(events[1:5])
    assert set(waiting(redis_url, tenant)) == {events[0], *events[5:]}


def test_muted_streams_are_not_told_and_a_group_once_with_its_first_incident(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    with told(group_by="site") as client:
        asked = {
            "policies": [{"pattern": "pump-*", "tags": {"site": "north"}}], "streams": {"quiet": {"muted": True}},
        }  # fmt: skip
        client.put("/v1/policies", json=asked).raise_for_status()
        sent = [one for stream in ("quiet", "pump-0", "pump-1", "pump-2") for one in fault(stream)]
        for one in sent:
            one["timestamp"] -= 5 * (one["stream"] == "pump-1")
        with posting_later():
            for stream in ("quiet", "pump-0", "pump-1", "pump-2"):
                post(client, [one for one in sent if one["stream"] == stream])
        never = [Joining("7.ghost", 0, 2**52, 1), Joining(f"s{2**70}.ghost", 0, 2**52, 2)]  # and are not saved then
        groups = client.app.state.parts.groups  # type: ignore[attr-defined]
        assert client.portal.call(groups.join, tenant, "site=north", never) == [f"{CALM}.pump-0"] * 2  # type: ignore[union-attr]
        receiver.wait_for(lambda: not waiting(redis_url, tenant) and receiver.taken)
        time.sleep(0.3)
    (told_of,) = [one.body["data"] for one in receiver.deliveries]
    assert (told_of["stream"], told_of["group"]) == ("pump-0", f"{CALM}.pump-0")
    assert told_of["group_first"] == {
        "id": f"{CALM}.pump-1",
        "stream": "pump-1",
    }  # which came later, with earlier times
    assert told_of["group_incidents"] == 3


def test_events_wait_in_their_order_and_those_of_one_save_as_an_incident_goes() -> None:
    events = [Event(what, at_ms, "t", 1, "pump") for at_ms in (2**40, 2**41, 2**41 + 1) for what in EVENTS]
    scores = [float(event.queued[0]) for event in events]
    assert scores == sorted(set(scores))
    assert 0 < scores[0] < scores[-1] < 1  # long due, behind what an earlier version kept, at 0


def test_an_incident_that_ends_in_the_save_that_opens_it_opens_first(
    told: Callable[..., TestClient], receiver: Receiver
) -> None:
    with told() as client:
        post(client, fault("pump", count=CALM + FAULT + 60))
        receiver.wait_for(lambda: len(receiver.taken) == 2)
    assert receiver.taken == ["incident.opened", "incident.ended"]


def test_a_group_whose_first_stream_is_muted_before_it_is_told_is_told_by_the_next_one_to_its_end(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    with told(group_by="site") as client:
        client.put("/v1/policies", json=NORTH).raise_for_status()
        streams = [f"pump-{at}" for at in range(4)]
        with posting_later():
            for stream in streams:
                post(client, fault(stream, count=CALM + FAULT + 60 * (stream == "pump-1")))
            client.put("/v1/policies", json=NORTH | {"streams": {"pump-0": {"muted": True}}}).raise_for_status()
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
        assert receiver.taken == ["incident.opened"]
        client.put("/v1/policies", json=NORTH).raise_for_status()
        for stream in streams:
            client.post(f"/v1/incidents/{CALM}.{stream}/close", json={"by": "ann"}).raise_for_status()
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
    assert receiver.taken == ["incident.opened", "incident.ended"]
    told_of = [one.body["data"] for one in receiver.deliveries]
    assert [(one["stream"], one["group"]) for one in told_of] == [("pump-2", f"{CALM}.pump-0")] * 2
    assert told_of[0]["group_incidents"] == 4


NORTH = {"policies": [{"pattern": "*", "tags": {"site": "north"}}]}


def test_who_speaks_for_a_group_in_place_of_a_muted_stream_does_so_however_often_it_is_tried(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    receiver.answer = lambda _: 503  # as of one that takes it, and whose answer is lost
    muted = NORTH | {"streams": {"pump-0": {"muted": True}}}
    with told(group_by="site") as client:
        client.put("/v1/policies", json=NORTH).raise_for_status()
        with posting_later():
            for stream in ("pump-0", "pump-1", "pump-2"):
                post(client, fault(stream))
            client.put("/v1/policies", json=muted).raise_for_status()
        receiver.wait_for(lambda: receiver.deliveries)
        with posting_later():
            client.post(f"/v1/incidents/{CALM}.pump-1/close", json={"by": "ann"}).raise_for_status()
            client.put("/v1/policies", json=NORTH).raise_for_status()
        receiver.answer = lambda _: 204
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
    assert sorted(receiver.taken) == ["incident.ended", "incident.opened"]
    assert {one.body["data"]["stream"] for one in receiver.deliveries} == {"pump-1"}


@pytest.mark.parametrize("way", ["in one save", "a person", "deleted"])
def test_an_incident_of_a_group_that_ends_before_it_is_told_opens_first(
    way: str,
    told: Callable[..., TestClient],
    receiver: Receiver,
    redis_url: str,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook, "GROUP_S", 1.5)
    with told(group_by="site") as client:
        client.put("/v1/policies", json=NORTH).raise_for_status()
        post(client, fault("pump", count=CALM + FAULT + 60 * (way == "in one save")))
        if way == "a person":
            client.post(f"/v1/incidents/{CALM}.pump/close", json={"by": "ann"}).raise_for_status()
        elif way == "deleted":
            client.delete("/v1/streams/pump").raise_for_status()
        assert len(waiting(redis_url, tenant)) == 2
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
    assert receiver.taken == ["incident.opened", "incident.ended"]


def test_an_event_of_a_group_is_tried_again_for_as_long_as_any_other_from_its_first_try_on(
    told: Callable[..., TestClient],
    receiver: Receiver,
    redis_url: str,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhook, "GROUP_S", 1.5)
    receiver.answer = lambda number: 503 if number == 0 else 204
    with told(group_by="site", webhook_retry_s=1.0) as client:
        client.put("/v1/policies", json=NORTH).raise_for_status()
        post(client, fault("pump"))
        receiver.wait_for(lambda: not waiting(redis_url, tenant))
        assert client.get("/v1/dead-letters").json()["letters"] == []
    assert (len(receiver.deliveries), receiver.taken) == (2, ["incident.opened"])


def test_an_incident_that_begins_in_a_cooling_off_is_told_later_or_never(
    told: Callable[..., TestClient], receiver: Receiver, redis_url: str, tenant: str
) -> None:
    with told() as client:
        rules = {"pattern": "*", "merge": {"readings": 10}, "cool_off": {"readings": 40}}
        client.put("/v1/policies", json={"policies": [rules]}).raise_for_status()
        for stream, until in (("short", 84), ("long", 130)):
            sent = readings(stream, 200)
            for at in (*range(60, 63), *range(80, until)):
                sent[at]["values"] = {**sent[at]["values"], "pressure": 900.0 + 100 * (at % 2)}
            for start in range(0, len(sent), 10):
                post(client, sent[start : start + 10])
        receiver.wait_for(lambda: not waiting(redis_url, tenant) and len(receiver.taken) >= 6)
        time.sleep(0.3)
    said = sorted((one.body["data"]["id"].split("."), one.body["type"]) for one in receiver.deliveries)
    assert [(stream, n, kind.removeprefix("incident.")) for (n, stream), kind in said] == [
        ("long", "60", "ended"), ("long", "60", "opened"), ("short", "60", "ended"), ("short", "60", "opened"),
        ("long", "80", "ended"), ("long", "80", "opened"),
    ]  # fmt: skip


def test_without_the_setting_nothing_is_kept_to_be_told(client: TestClient, redis_url: str, tenant: str) -> None:
    post(client, fault("pump"))
    assert waiting(redis_url, tenant) == []
    assert client.get("/v1/dead-letters").json() == {"letters": []}


def test_a_private_address_is_not_contacted_unless_it_is_named(
    told: Callable[..., TestClient], receiver: Receiver
) -> None:
    """The log says where it is; who may read incidents does not hear it."""
    service = told(webhook_networks=("10.0.0.0/8",), webhook_retry_s=0)
    with capture_logs() as lines, service as client:
        post(client, fault("pump"))
        receiver.wait_for(lambda: client.get("/v1/dead-letters").json()["letters"])
        (letter,) = client.get("/v1/dead-letters").json()["letters"]
    assert letter["error"] == "its host has no address that may be contacted"
    assert any("127.0.0.1, which is not public" in str(line.get("error")) for line in lines)
    assert receiver.deliveries == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/hook", "http://localhost:9/hook", "https://127.0.0.1:9", "http://10.1.2.3/hook"]
)
def test_why_a_webhook_is_not_taken_names_no_host_but_in_the_log(url: str) -> None:
    async def send() -> NotTaken:
        sends = Sender(url, b"x" * 16, Resolver([ipaddress.ip_network("127.0.0.0/8")]), 10)
        with pytest.raises(NotTaken) as refused:
            await sends.send("e", b"{}", 0)
        await sends.close()
        return refused.value

    error, host = asyncio.run(send()), urlsplit(url).hostname
    assert host is not None
    assert host in str(error)
    assert re.search(r"[0-9]+\.[0-9]+|localhost|hook", error.public) is None


@pytest.mark.parametrize(
    ("address", "may"),
    [
        *((one, True) for one in ("8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8")),
        *((one, True) for one in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203")),  # named
        *((one, False) for one in ("127.0.0.1", "::1", "0.0.0.0", "::", "169.254.169.254", "192.168.1.1", "10.2.0.1")),
        *((one, False) for one in ("100.64.0.1", "224.0.0.1", "ff02::1", "fe80::1", "fd00::1", "fec0::1", "240.0.0.1")),
        *((one, False) for one in ("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "255.255.255.255")),
    ],
)
def test_which_addresses_may_be_contacted(address: str, may: bool) -> None:
    assert may_be_contacted(ipaddress.ip_address(address), [ipaddress.ip_network("10.1.0.0/16")]) is may


def test_a_name_is_resolved_once_and_its_address_is_what_is_contacted(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("192.168.7.7", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = receiver.url.rpartition(":")[2]
    resolver = Resolver([ipaddress.ip_network("127.0.0.0/8")])

    async def send() -> None:
        one = Sender(f"http://rebound.example:{port}/hook", SECRET, resolver, 5)
        try:
            await one.send("an-event", b'{"type": "x"}', int(time.time()))
        finally:
            await one.close()

    asyncio.run(send())
    assert looked_up == ["rebound.example"]
    assert receiver.deliveries[0].signed


def test_a_receiver_that_dribbles_its_answer_is_not_waited_for_beyond_the_deadline() -> None:
    end = threading.Event()

    def dribble(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            for byte in b"HTTP/1.1 204 No Content\r\nx-header: " + b"x" * 1000:
                if end.wait(0.05):
                    return
                connection.send(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=dribble, args=(listener,))
        thread.start()
        resolver = Resolver([ipaddress.ip_network("127.0.0.0/8")])

        async def send() -> None:
            one = Sender(f"http://127.0.0.1:{listener.getsockname()[1]}/", SECRET, resolver, 0.5)
            with pytest.raises(NotTaken, match=r"within 0\.5 s"):
                await one.send("an-event", b"{}", 1)
            await one.close()

        asyncio.run(send())
        end.set()
        thread.join()


def test_a_pinned_address_shows_the_certificate_of_its_name_or_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path, "receiver")  # for localhost
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loopback = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: loopback)
    resolver = Resolver([ipaddress.ip_network("127.0.0.0/8")])

    async def send(url: str) -> None:
        one = Sender(url, SECRET, resolver, 5)
        try:
            await one.send("an-event", b'{"type": "x"}', int(time.time()))
        finally:
            await one.close()

    with receiving(context) as receiver:
        port = receiver.url.rpartition(":")[2]
        with pytest.raises(NotTaken, match="CERTIFICATE_VERIFY_FAILED"):
            asyncio.run(send(f"https://localhost:{port}/"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        asyncio.run(send(f"https://localhost:{port}/"))
        with pytest.raises(NotTaken, match="CERTIFICATE_VERIFY_FAILED"):
            asyncio.run(send(f"https://other.example:{port}/"))
        assert len(receiver.deliveries) == 1


def test_a_name_that_is_looked_up_for_ever_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: end.wait(30) and [])
    resolver = Resolver([])

    async def send() -> None:
        one = Sender("http://slow.example/hook", SECRET, resolver, 0.2)
        with pytest.raises(NotTaken, match=r"within 0\.2 s"):
            await one.send("an-event", b"{}", 1)
        with pytest.raises(NotTaken, match="still being looked up"):
            await one.send("an-event", b"{}", 1)

    asyncio.run(send())
    end.set()


def test_a_name_that_means_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def look() -> None:
        with pytest.raises(NoAddress, match="cannot be looked up"):
            await Resolver([]).address("nowhere.invalid", 80)

    asyncio.run(look())


def test_a_secret_is_text_or_base64_of_enough_bytes(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    assert len(secret_of(path)) == 24
    # the example of the specification
    signed = sender.signature(secret_of(path), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    for content in ("short", "whsec_???", "x" * 5000):
        path.write_text(content)
        with pytest.raises(GatewatchError):
            secret_of(path)
    with pytest.raises(GatewatchError):
        secret_of(tmp_path / "none")


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook_url": "ftp://example.com"},
        {"webhook_url": "https://user:password@example.com/"},
        {"webhook_url": "https:///hook"},
        {"webhook_url": "https://exämple.com"},
        {"webhook_url": "https://example.com", "webhook_secret_file": None},
        {"webhook_url": "https://example.com", "webhook_hosts": "other.example.com"},
        {"webhook_networks": "10.0.0.0/99"},
        {"webhook_networks": "10.0.0.1/8"},
    ],
)
def test_settings_that_make_no_webhook_are_refused(
    settings: Callable[..., Settings], secret: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="expected|NETWORKS|HOSTS|SECRET_FILE"):
        settings(**{"webhook_secret_file": secret} | wrong)


def test_the_address_is_shown_without_its_path(settings: Callable[..., Settings], secret: Path) -> None:
    made = settings(webhook_url="https://Hooks.example.com/T0/B1/token", webhook_secret_file=secret)
    assert json.dumps(made.redacted()).count("token") == 0
    settings(
        webhook_url="https://Hooks.example.com/x",
        webhook_secret_file=secret,
        webhook_hosts="a.example,hooks.example.com",
    )
