"""Who may do what: every route of the OpenAPI document, with every kind of key, by both ways a request may take."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import httpx2
import pytest
from redis import Redis
from starlette.testclient import TestClient

from gatewatch.service.access import key_ring
from gatewatch.service.access.redis_keys import of_tenant
from gatewatch.service.access.scopes import ROUTES, SCOPES, Scope
from gatewatch.service.app import create_app
from gatewatch.service.incidents import feed
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import running, start_private_redis
from tests.api.test_incidents import CALM, fault
from tests.support.access import add_to_file, add_to_redis, bearer, revoke
from tests.support.samples import post, readings
from tests.support.waiting import until
from tests.support.whole_path import serving

SECRET_PROBLEMS = ("no key", "the key is not known, has expired or was revoked; expected one that is good")


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    with start_private_redis(tmp_path / "redis") as private:
        yield private.url


@pytest.fixture(autouse=True)
def nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server-sent events have no end: who may hear them gets 429 here."""
    monkeypatch.setattr(feed, "LISTENERS", 0)


def routes(client: TestClient) -> list[tuple[str, str, Scope | None]]:
    """Method, path and scope of every operation that the document has."""
    found = []
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            asked = {scope for one in operation.get("security", ()) for named in one.values() for scope in named}
            assert len(asked) < 2, operation
            found.append((method.upper(), path.replace("{stream}", "known"), next(iter(asked), None)))
    return found


def test_every_route_asks_for_its_scope_and_the_document_says_so(
    settings: Callable[..., Settings], own_redis: str, tenant: str, tmp_path: Path
) -> None:
    """Route x scope x tenant, and what is no good key at all."""
    file = tmp_path / "keys.json"
    own = {scope: add_to_file(file, tenant, scope) for scope in SCOPES}
    others = {scope: add_to_file(file, "somebody-else", scope) for scope in SCOPES}
    revoked = add_to_redis(own_redis, tenant, "admin")
    revoke(own_redis, revoked)
    bad = {
        "none": {},
        "unknown": bearer("gw_0123456789ab_" + "A" * 43),
        "cut off": bearer(own["admin"][:-1]),
        "one bit wrong": bearer(own["admin"][:-1] + ("A" if own["admin"][-1] != "A" else "B")),
        "expired": bearer(add_to_file(file, tenant, "admin", expires=time.time() - 1)),
        "revoked": bearer(revoked),
        "of a megabyte": bearer("x" * 2**20),
        "of another scheme": {"authorization": f"Basic {own['admin']}"},
        "empty": {"authorization": ""},
        "twice": bearer(own["admin"]) | {"x-api-key": own["admin"]},
        "in a cookie": {"cookie": f"key={own['admin']}"},
    }
    asked = 0
    with TestClient(create_app(settings(redis_url=own_redis, keys_file=file))) as client:
        for method, path, scope in routes(client):

            def ask(
                headers: dict[str, str], method: str = method, path: str = path, query: str = "what=sequence"
            ) -> httpx2.Response:
                return client.request(method, f"{path}?{query}", content=b"{}", headers=headers)

            refusals = {why: ask(headers) for why, headers in bad.items()}
            refusals["in the URL"] = ask({}, query=f"what=sequence&key={own['admin']}&access_token={own['admin']}")
            for why, reply in refusals.items():
                assert (reply.status_code == 401) == (scope is not None), (method, path, why)
                if scope is not None:
                    assert reply.headers["www-authenticate"] == 'Bearer realm="gatewatch"'
                    assert reply.json()["title"] == "Unauthorized"
                    assert own["admin"] not in reply.text
            texts = {why: refusals[why].text for why in ("unknown", "cut off", "one bit wrong", "expired", "revoked")}
            assert len(set(texts.values())) == 1 or scope is None, texts  # which of it, nobody hears
            for held in SCOPES:
                allowed = scope is None or held in (scope, "admin")
                for headers in (bearer(own[held]), {"x-api-key": own[held]}):
                    reply = ask(headers)
                    assert (reply.status_code not in (401, 403)) == allowed, (method, path, held, reply.text)
                if not allowed:
                    assert f'scope="{scope}"' in reply.headers["www-authenticate"]
                foreign = ask(bearer(others[held]))
                assert (foreign.status_code not in (401, 403)) == allowed, (method, path, held, foreign.text)
            asked += len(refusals) + 3 * len(SCOPES)
    print(f"{asked} requests")


def test_no_tenant_sees_or_feels_another_one(settings: Callable[..., Settings], tenant: str, tmp_path: Path) -> None:
    """Every answer about what is somebody else's is that about what is nobody's, whatever kind of thing it is."""
    file = tmp_path / "keys.json"
    ours, theirs = (bearer(add_to_file(file, name, "admin")) for name in (tenant, f"{tenant}-other"))
    with TestClient(create_app(settings(keys_file=file, streams=3))) as client:
        client.post("/v1/readings", json=fault("same"), headers=ours).raise_for_status()
        client.put("/v1/streams/same", json={"on_gap": "hold"}, headers=ours).raise_for_status()
        client.post("/v1/streams/same/snapshots", json={"name": "same"}, headers=ours).raise_for_status()
        client.put("/v1/windows/same", json={"days": ["mon"]}, headers=ours).raise_for_status()
        client.put("/v1/streams/same/policy", json={"sensitivity": 2}, headers=ours).raise_for_status()
        own = (
            "/v1/streams/same", "/v1/streams/same/history", "/v1/streams/same/snapshots", "/v1/streams/same/policy",
            f"/v1/incidents/{CALM}.same", "/v1/incidents", "/v1/policies",
        )  # fmt: skip
        before = [client.get(path, headers=ours).raise_for_status().json() for path in own]
        assert len(before[5]["incidents"]) == 1
        for _ in range(2):  # with nothing of their own, and with what the first round left
            for method, path, scope in routes(client):
                if scope is None or scope == "metrics" or path == "/v1/audit":
                    continue
                answers = []
                for name in ("same", "none"):
                    body: Any = readings(name, 5) if path.endswith("readings") else {"days": ["mon"]}
                    url = path.replace("known", name).replace("{incident}", f"{CALM}.{name}")
                    url = f"{re.sub('{snapshot}|{window}', name, url)}?what=sequence"
                    reply = client.request(method, url, json=body, headers=theirs)
                    answers.append((reply.status_code, reply.text.replace("same", "none")))
                    if path == "/v1/windows/{window}":
                        client.delete(url, headers=theirs).raise_for_status()
                assert answers[0] == answers[1], (method, path)
        assert [client.get(path, headers=ours).json() for path in own] == before
        assert client.get("/v1/windows", headers=ours).json()["windows"].keys() == {"same"}
        assert client.get("/v1/windows", headers=theirs).json() == {"windows": {}}
        assert client.get("/v1/streams", headers=ours).json()["streams"] == ["same"]
        assert len(client.get("/v1/audit", headers=ours).json()["changes"]) == 4
        client.post("/v1/readings", json=readings("same", 2, seed=7), headers=theirs)
        found = client.get("/v1/streams/same", headers=theirs).json()
        assert (found["readings"], found["on_gap"]) == (2, "accept")
        assert found["tag"] != before[0]["tag"]
        for who in (ours, theirs):  # each has room for its own
            sent = [readings(name, 1)[0] for name in ("same", "b", "c", "d")]
            results = client.post("/v1/readings", json=sent, headers=who).json()
            assert ["GATEWATCH_STREAMS" in (result["error"] or "") for result in results] == [False, False, False, True]


def test_a_tenant_begins_streams_at_its_pace_and_its_neighbour_at_its_own(
    settings: Callable[..., Settings], tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    ours, theirs = (bearer(add_to_file(file, name, "ingest")) for name in (tenant, f"{tenant}-other"))
    app = create_app(settings(keys_file=file, tenant_new_streams_per_minute=3, tenant_readings_per_s=10))
    with TestClient(app) as client:
        sent = [readings(f"s{number}", 1)[0] for number in range(5)]
        results = client.post("/v1/readings", json=sent, headers=ours).json()
        assert [result["status"] for result in results] == ["warming_up"] * 3 + ["rejected"] * 2
        assert "GATEWATCH_TENANT_NEW_STREAMS_PER_MINUTE" in results[-1]["error"]
        results = client.post("/v1/readings", json=sent[:3] + sent[4:], headers=ours).json()
        assert [result["replayed"] for result in results] == [True, True, True, False]
        results = client.post("/v1/readings", json=sent[:3], headers=theirs).json()
        assert [result["status"] for result in results] == ["warming_up"] * 3
        flood = readings("s0", 200, start=1)
        assert client.post("/v1/readings", json=flood, headers=ours).status_code == 200
        refused = client.post("/v1/readings", json=sent[:1], headers=ours)
        assert (refused.status_code, int(refused.headers["retry-after"]) > 5) == (429, True)
        assert client.post("/v1/readings", json=sent[:1], headers=theirs).status_code == 200


def test_a_tenant_beyond_its_requests_of_a_kind_gets_429_on_every_route_and_its_neighbour_none(
    settings: Callable[..., Settings], tenant: str, tmp_path: Path
) -> None:
    """Posts, reads and changes are counted each for themselves; what needs no key, and /metrics, is not."""
    file = tmp_path / "keys.json"
    ours, theirs = (bearer(add_to_file(file, name, "admin")) for name in (tenant, f"{tenant}-other"))
    kinds = ("posts", "reads", "changes")
    for limited in kinds:
        app = create_app(settings(keys_file=file, tenant=f"{tenant}-{limited}", **{f"tenant_{limited}_per_s": 0.001}))
        with TestClient(app) as client:
            first = True
            for method, path, scope in sorted(routes(client), key=str):
                kind = None
                if scope not in (None, "metrics"):
                    kind = "posts" if scope == "ingest" else "reads" if method == "GET" else "changes"
                url = f"{path}?what=sequence"
                refused = client.request(method, url, json={}, headers=ours)
                if kind != limited:
                    assert refused.status_code != 429 or "listen" in refused.json()["detail"], (limited, method, path)
                    continue
                if first:  # a request is taken whole as long as anything is left
                    first, refused = False, client.request(method, url, json={}, headers=ours)
                assert (refused.status_code, refused.json()["title"]) == (429, "Over the limit of the tenant"), path
                assert int(refused.headers["retry-after"]) > 900
                assert f"GATEWATCH_TENANT_{limited.upper()}_PER_S" in refused.json()["detail"]
            assert client.post("/v1/readings", json=[], headers=theirs).status_code == 200
            assert client.get("/v1/streams", headers=theirs).status_code == 200
            assert client.put("/v1/windows/w", json={"days": ["mon"]}, headers=theirs).status_code == 200


def test_bytes_of_bodies_states_and_snapshots_count_as_those_of_readings_do(
    settings: Callable[..., Settings], redis_url: str, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    ours, theirs = (bearer(add_to_file(file, name, "admin")) for name in (tenant, f"{tenant}-other"))
    with TestClient(create_app(settings(keys_file=file))) as client:
        for who in (ours, theirs):
            assert client.post("/v1/readings", json=readings("s", 40), headers=who).status_code == 200
            assert client.post("/v1/streams/s/snapshots", json={"name": "kept"}, headers=who).status_code == 200
        state = client.get("/v1/streams/s/state", headers=ours).content
    policies = {"streams": {f"s-{at}": {"tags": {"site": "north"}} for at in range(200)}}
    large: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", "/v1/streams/s/state", {"content": state}),
        ("POST", "/v1/streams/s/snapshots", {"json": {"name": "more"}}),
        ("POST", "/v1/streams/s/snapshots/kept/rollback", {}),
        ("POST", "/v1/streams/s/fork?to=copy", {}),
        ("PUT", "/v1/policies", {"json": policies}),
    ]
    for at, (method, path, sent) in enumerate(large):
        app = create_app(settings(keys_file=file, tenant=f"{tenant}-{at}", tenant_bytes_per_s=len(state) / 100))
        with TestClient(app) as client:
            with Redis.from_url(redis_url) as redis:
                redis.delete(of_tenant(tenant, "bytes"))
            assert client.request(method, path, headers=ours, **sent).status_code == 200, path
            for one_method, one_path, same in large:
                refused = client.request(one_method, one_path, headers=ours, **same)
                assert refused.status_code == 429, (path, one_path)
                assert "GATEWATCH_TENANT_BYTES_PER_S" in refused.json()["detail"]
            assert client.get("/v1/streams/s/state", headers=ours).status_code == 200
            assert client.post("/v1/readings", json=readings("t", 1), headers=theirs).status_code == 200


def test_the_table_has_every_route_and_no_other(client: TestClient) -> None:
    """What is not in it would ask for admin."""
    named = {(method, path): scope for path, methods in ROUTES.items() for method, scope in methods.items()}
    described = {
        (method.upper(), path)
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    assert described <= named.keys()
    assert {route for route in named.keys() - described if named[route] is not None} == set()  # but for pages
    assert {scope for methods in ROUTES.values() for scope in methods.values()} <= {None, *get_args(Scope)}


def test_what_is_no_route_needs_a_key_of_an_administrator(
    settings: Callable[..., Settings], tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    reader, admin = add_to_file(file, tenant, "read"), add_to_file(file, tenant, "admin")
    with TestClient(create_app(settings(keys_file=file))) as client:
        for method, path in [
            ("GET", "/v1/nothing"), ("PATCH", "/v1/streams"), ("OPTIONS", "/v1/streams"), ("TRACE", "/v1/streams/a"),
            ("GET", "/v1/streams/"), ("GET", "/V1/streams"), ("GET", "//v1/streams"), ("GET", "/v1//streams"),
            ("GET", "/v1/./streams"), ("GET", "/metrics/"), ("POST", "/livez"),
            ("GET", "/v1/streams/a/history%0a"), ("GET", "/v1%2fstreams"),
        ]:  # fmt: skip
            assert client.request(method, path).status_code == 401, (method, path)
            assert client.request(method, path, headers=bearer(reader)).status_code in (200, 403), (method, path)
            assert client.request(method, path, headers=bearer(admin)).status_code in (200, 404, 405, 422), path
        assert client.get("/v1/streams/a%2fhistory").status_code == 401
        assert client.get("/v1/streams/a%2fhistory", headers=bearer(reader)).status_code == 404  # as without the escape
        assert client.head("/v1/streams", headers=bearer(reader)).status_code == 200
        assert client.head("/v1/streams").status_code == 401


def test_without_any_key_loopback_stays_open_and_with_the_first_one_it_closes_for_good(
    settings: Callable[..., Settings], own_redis: str, tenant: str
) -> None:
    with TestClient(create_app(settings(redis_url=own_redis))) as client:
        post(client, readings("s", 2))
        assert client.get("/v1/streams", headers=bearer("whatever")).status_code == 200
        assert "security" not in client.get("/openapi.json").json()["paths"]["/v1/streams"]["get"]
        key = add_to_redis(own_redis, tenant, "read")
        until(lambda: client.get("/v1/streams").status_code == 401)
        assert client.get("/v1/streams", headers=bearer(key)).status_code == 200
        asked = client.get("/openapi.json").json()["paths"]["/v1/streams"]["get"]["security"]
        assert asked == [{"bearer": ["read"]}, {"header": ["read"]}]
        with Redis.from_url(own_redis) as redis:
            redis.flushall()
        until(lambda: client.get("/v1/streams", headers=bearer(key)).status_code == 401)
        assert client.get("/v1/streams").status_code == 401


@pytest.mark.parametrize(("open_to", "host", "status"), [
    ("always", "0.0.0.0", 200), ("never", "127.0.0.1", 401), ("loopback", "127.0.0.1", 200),
    ("loopback", "localhost", 200), ("loopback", "::1", 200), ("loopback", "0.0.0.0", 401), ("loopback", "::", 401),
    ("loopback", "10.0.0.7", 401), ("loopback", "127.0.0.1.example", 401), ("loopback", "", 401),
])  # fmt: skip
def test_who_needs_no_key(settings: Callable[..., Settings], open_to: str, host: str, status: int) -> None:
    with TestClient(create_app(settings(open=open_to, host=host))) as client:
        assert client.get("/v1/streams").status_code == status
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200


def test_what_comes_to_another_address_than_loopback_needs_a_key_whatever_server_listens(
    settings: Callable[..., Settings],
) -> None:
    app = create_app(settings())
    with TestClient(app, base_url="http://10.1.2.3:8000") as outside:
        assert outside.get("/v1/streams").status_code == 401
    with TestClient(app, base_url="http://127.0.0.1:8000") as inside:
        assert inside.get("/v1/streams").status_code == 200


def answer(url: str, key: str | None, **more: Any) -> int:
    headers = {} if key is None else bearer(key)
    return httpx2.post(f"{url}/v1/readings", headers={**headers, **more.pop("headers", {})}, **more).status_code


def listed(url: str, key: str) -> object:
    """The streams that a key sees; None where it is not known yet."""
    return httpx2.get(f"{url}/v1/streams", headers=bearer(key)).json().get("streams")


@contextlib.contextmanager
def begun(
    url: str, key: str, method: str, path: str, body: bytes, chunked: bool, kept: int = 9, fast: bool = False
) -> Iterator[Callable[[], int]]:
    """A request of which all but the end of its body is sent; the rest, and then the status of the answer.

    It is let in by then, as the server says to a header that asks for it. That header would take it off the fast path.

    Args:
        kept: bytes that are not sent yet; of a chunked body, 5 are no more than that it ends.
    """
    size = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
    head += "" if fast else "expect: 100-continue\r\n"
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    with socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0), 20) as connection:
        connection.sendall(head.encode() + b"content-type: application/json\r\n" + size + b"\r\n\r\n" + framed[:-kept])
        if not fast:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")

        def end() -> int:
            connection.sendall(framed[-kept:])
            return int(connection.recv(65_536).split()[1])

        yield end


def test_the_fast_path_asks_as_the_app_does_and_a_revoked_key_is_refused_by_every_process(
    artefact: Path, tmp_path: Path
) -> None:
    """A header that asks for nothing sends a request through the app. No key is in the log."""
    data, slow = tmp_path / "data", {"headers": {"content-encoding": "identity"}}
    with serving(artefact, data, "--workers", "2") as (url, process):
        redis = running(data)
        assert redis is not None
        assert answer(url, None, json=readings("fast", 1)) == 200
        keys = {scope: add_to_redis(redis, "default", scope) for scope in SCOPES}
        expired = add_to_redis(redis, "default", "ingest", expires=time.time() - 1)
        foreign = add_to_redis(redis, "another", "ingest")
        for _ in range(8):  # whichever process answers
            until(lambda: answer(url, None, json=[]) == 401)
            until(lambda: answer(url, keys["ingest"], json=readings("fast", 2)) == 200)
        time.sleep(2.5)  # each process looks once a second
        for way in ({}, slow):
            for scope, key in keys.items():
                expected = 200 if scope in ("ingest", "admin") else 403
                assert answer(url, key, json=readings("fast", 2), **way) == expected, scope
            assert answer(url, expired, json=[], **way) == 401
            assert answer(url, foreign, json=readings("theirs", 2), **way) == 200
            assert answer(url, None, json=[], headers={"x-api-key": keys["ingest"], **way.get("headers", {})}) == 200
            assert answer(url, keys["ingest"], json=[], headers={"x-api-key": keys["ingest"]}) == 401
            for wrong in ({"authorization": keys["ingest"]}, {"x-api-key": f"Bearer {keys['ingest']}"}):
                assert answer(url, None, json=[], headers={**wrong, **way.get("headers", {})}) == 401, wrong
            assert answer(url, None, json=[], headers={"authorization": f"bEARER {keys['ingest']}"}) == 200
            assert answer(url, "x" * 2**20, json=[], **way) == 431
            assert answer(url, "x" * 20_000, json=[], **way) == 401
        for who, names in ((keys["read"], ["fast"]), (add_to_redis(redis, "another", "read"), ["theirs"])):
            for _ in range(4):  # whichever process answers
                until(lambda who=who, names=names: listed(url, who) == names)  # type: ignore[misc]
        with httpx2.Client(base_url=url, headers=bearer(keys["ingest"])) as connection:
            assert connection.post("/v1/readings", json=[]).status_code == 200
            assert connection.post("/v1/readings", json=[], headers={"authorization": ""}).status_code == 401
            uploads = [
                ("POST", "/v1/readings", json.dumps(readings("upload", 1)).encode().ljust(size), chunked, kept, fast)
                for size, chunked, kept, fast in (
                    (1000, False, 9, True), (1000, False, 9, False), (1000, True, 9, False), (1000, True, 5, False),
                    (100_000, False, 9, False), (100_000, True, 5, False),
                )
            ]  # fmt: skip
            settings = ("PUT", "/v1/streams/upload", b'{"reorder_window_s": 5}', False, 9, False)
            good = add_to_redis(redis, "default", "ingest", "operate")
            for _ in range(8):
                until(lambda: answer(url, good, json=[]) == 200)
            with contextlib.ExitStack() as stack:
                late = [stack.enter_context(begun(url, keys["ingest"], *upload)) for upload in uploads]
                late.append(stack.enter_context(begun(url, keys["operate"], *settings)))
                goes_on = [stack.enter_context(begun(url, good, *upload)) for upload in (*uploads, settings)]
                revoked_at = time.monotonic()
                revoke(redis, keys["operate"])
                revoke(redis, keys["ingest"])
                for _ in range(8):
                    until(lambda: connection.post("/v1/readings", json=[]).status_code == 401)
                    until(lambda: answer(url, keys["ingest"], json=[]) == 401)
                print(f"refused by all after {time.monotonic() - revoked_at:.1f} s")
                assert [end() for end in late] == [401] * 7
                assert httpx2.get(f"{url}/v1/streams/upload", headers=bearer(keys["read"])).status_code == 404
                assert [end() for end in goes_on] == [200] * 7
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        log = process.stderr.read()
    assert [scope for scope, key in keys.items() if key.encode() in log] == []
    with Redis.from_url(redis) if running(data) else start_private_redis(data) as _:
        kept = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert [scope for scope, key in keys.items() if key[16:].encode() in kept] == []  # nor in what Redis keeps


def test_a_key_that_redis_does_not_confirm_is_trusted_no_more_but_one_of_a_file_is(
    settings: Callable[..., Settings], own_redis: str, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs no Redis goes on: /metrics tells of the outage."""
    monkeypatch.setattr(key_ring, "MAX_AGE_S", 0.3)
    monkeypatch.setattr(key_ring, "LOOK_S", 0.1)
    file = tmp_path / "keys.json"
    in_file, in_redis = add_to_file(file, tenant, "admin"), add_to_redis(own_redis, tenant, "admin")
    app = create_app(settings(redis_url=own_redis, keys_file=file, store_timeout_ms=200))
    with TestClient(app) as client, Redis.from_url(own_redis) as redis:
        until(lambda: client.get("/v1/streams", headers=bearer(in_redis)).status_code == 200)
        pid = int(redis.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(0.5)
            refused = client.get("/openapi.json", headers=bearer(in_redis))
            assert refused.status_code == 200
            refused = client.get("/v1/nothing", headers=bearer(in_redis))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert client.get("/v1/nothing", headers=bearer(in_file)).status_code == 404
            assert client.get("/v1/nothing").status_code == 401
            assert client.get("/metrics", headers=bearer(in_redis)).status_code == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: client.get("/v1/streams", headers=bearer(in_redis)).status_code == 200)


def test_a_file_of_keys_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(
    settings: Callable[..., Settings], tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "LOOK_S", 0.1)
    file = tmp_path / "keys.json"
    first = add_to_file(file, tenant, "read")
    with TestClient(create_app(settings(keys_file=file))) as client:
        second = add_to_file(file, tenant, "read")
        until(lambda: client.get("/v1/streams", headers=bearer(second)).status_code == 200)
        file.write_text("[{]")
        time.sleep(0.5)
        assert client.get("/v1/streams", headers=bearer(first)).status_code == 200
        file.write_text("[]")
        until(lambda: client.get("/v1/streams", headers=bearer(first)).status_code == 401)


def test_what_was_changed_is_told_to_the_administrator_of_its_tenant(
    settings: Callable[..., Settings], tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    worker, admin = add_to_file(file, tenant, "operate", "ingest"), add_to_file(file, tenant, "admin")
    with TestClient(create_app(settings(keys_file=file))) as client:
        client.post("/v1/readings", json=readings("s", 2), headers=bearer(worker))
        client.put("/v1/streams/s", json={"on_gap": "hold"}, headers=bearer(worker))
        client.put("/v1/streams/s", json={"on_gap": "nonsense"}, headers=bearer(worker))
        client.post("/v1/streams/s/reset?what=sequence", headers=bearer(worker))
        client.delete("/v1/streams/s", headers=bearer(worker))
        client.delete("/v1/streams/s", headers=bearer(worker))
        first = client.get("/v1/audit", params={"limit": 2}, headers=bearer(admin)).json()
        rest = client.get("/v1/audit", params={"before": first["next"]}, headers=bearer(admin)).json()
        for before in ("0-0", "0-1", "9" * 19 + "-" + "9" * 19):
            assert client.get("/v1/audit", params={"before": before}, headers=bearer(admin)).status_code == 200
        assert client.get("/v1/audit", params={"before": "x"}, headers=bearer(admin)).status_code == 422
    changes = [*first["changes"], *rest["changes"]]
    assert rest["next"] is None
    assert [change["what"] for change in changes] == [
        "DELETE /v1/streams/{stream}", "POST /v1/streams/{stream}/reset", "PUT /v1/streams/{stream}",
    ]  # fmt: skip
    assert {change["who"] for change in changes} == {f"key {worker[3:15]} of a test"}
    assert {change["target"] for change in changes} == {"/v1/streams/s", "/v1/streams/s/reset"}
    assert changes[-1]["detail"]["on_gap"] == "hold"
    assert worker[16:] not in json.dumps(changes)


def test_a_snapshot_that_is_named_like_a_route_is_one_for_who_may_change_it(
    settings: Callable[..., Settings], tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    keys = {scope: bearer(add_to_file(file, tenant, scope)) for scope in SCOPES}
    with TestClient(create_app(settings(keys_file=file))) as client:
        client.post("/v1/readings", json=readings("s", 3), headers=keys["ingest"])
        for name in ("readings", "rollback", "state"):
            taken = client.post("/v1/streams/s/snapshots", json={"name": name}, headers=keys["operate"])
            assert taken.status_code == 200
            path = f"/v1/streams/s/snapshots/{name}"
            for scope in ("ingest", "read"):
                assert client.delete(path, headers=keys[scope]).status_code == 403
                assert client.post(f"{path}/rollback", headers=keys[scope]).status_code == 403
            assert client.post(f"{path}/rollback", headers=keys["operate"]).status_code == 200
            gone = client.delete(path, headers=keys["operate"])
            assert (gone.status_code, gone.headers["x-frame-options"]) == (204, "DENY")
        changes = client.get("/v1/audit", headers=keys["admin"]).json()["changes"]
        assert changes[2]["what"] == "POST /v1/streams/{stream}/snapshots"
        assert changes[0]["what"] == "DELETE /v1/streams/{stream}/snapshots/{snapshot}"


def test_answers_say_what_a_browser_may_do_with_them(client: TestClient) -> None:
    for path in ("/v1/streams", "/livez", "/nothing", "/docs", "/metrics"):
        headers = client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert not [name for name in headers if name.startswith("access-control-")]
    preflight = {"origin": "https://evil.example", "access-control-request-method": "PUT"}
    reply = client.options("/v1/streams/s", headers=preflight)
    assert reply.status_code == 403
    assert not [name for name in reply.headers if name.startswith("access-control-")]
