"""A Redis Cluster, and a master with Sentinels: the same answers, and trouble that concerns only whom it must."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis.crc import key_slot
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.settings import Settings
from gatewatch.service.storage.keys import BUCKETS, Keys
from tests.support.redis_servers import Servers, redis_cluster, redis_with_sentinels
from tests.support.samples import post, readings
from tests.support.takeover import known
from tests.support.waiting import PATIENCE_S

Make = Callable[..., Settings]
NAMES = [f"s{number}" for number in range(60)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


def url_of(servers: Servers) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in servers.running)


def batch(at: int, names: list[str] = NAMES) -> list[dict[str, Any]]:
    return [{**readings("any", 1, start=at)[0], "stream": name} for name in names]


def slot_of(tenant: str, name: str) -> int:
    return key_slot(Keys(tenant, BUCKETS)[StreamKey(tenant, name)].record)


def owner_of(servers: Servers, slot: int) -> int:
    """The port of the node that has a slot."""
    for first, last, master, *_ in servers.client(next(iter(servers.running))).execute_command("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return int(master[1])
    raise AssertionError(slot)


def test_a_cluster_gives_the_answers_of_one_server(settings: Make, cluster: Servers) -> None:
    """Few streams and many, repeats and late readings, settings, lists, open anomalies, deletion."""
    sent = [batch(at) for at in range(12)]
    sent[10][7]["values"] = {"pressure": 900.0, "flow": 3.0}
    several: list[list[Any]] = []
    for changes in ({}, {"redis_url": url_of(cluster)}):
        with TestClient(create_app(settings(**changes))) as client:
            client.put("/v1/streams/s3", json={"reorder_window_s": 600})
            answers: list[Any] = [post(client, one) for one in sent[:9]]
            answers += [post(client, sent[11][:1]), post(client, sent[10]), post(client, sent[8])]
            answers += [post(client, [{**sent[9][3]}]), post(client, sent[11])]
            answers.append(client.get("/v1/streams/s3/history").json())
            answers.append([client.get(f"/v1/streams?limit=7&after={after}").json() for after in ("", "s3", "s58")])
            answers.append([line for line in client.get("/metrics").text.splitlines() if "_open_anomalies " in line])
            answers.append([client.delete("/v1/streams/s5").status_code, client.get("/v1/streams/s5").status_code])
            answers.append([client.get("/v1/streams").json()["total"], client.get("/readyz").json()])
            several.append(answers)
    assert several[0] == several[1]


def test_two_services_on_a_cluster_apply_each_reading_once(settings: Make, cluster: Servers) -> None:
    """Both send the same readings, at the same moment, and one of them what the other has just written."""
    changed = settings(redis_url=url_of(cluster))
    with TestClient(create_app(changed)) as a, TestClient(create_app(changed)) as b:
        for at in range(10):
            threads = [threading.Thread(target=post, args=(client, batch(at))) for client in (a, b)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert {known(a, name)["readings"] for name in NAMES} == {10}
        assert len({known(b, name)["tag"] for name in NAMES}) == 1


@contextmanager
def killed(servers: Servers, port: int) -> Iterator[None]:
    servers.kill(port)
    try:
        yield
    finally:
        servers.start(port)


@contextmanager
def hung(servers: Servers, port: int) -> Iterator[None]:
    servers.running[port].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        servers.running[port].send_signal(signal.SIGCONT)


@pytest.mark.parametrize("trouble", [killed, hung])
@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "alone"])
def test_a_node_in_trouble_costs_the_streams_of_others_nothing(
    settings: Make, cluster: Servers, tenant: str, trouble: Callable[..., Any], together: bool
) -> None:
    port = owner_of(cluster, slot_of(tenant, NAMES[0]))
    away = [name for name in NAMES if owner_of(cluster, slot_of(tenant, name)) == port]
    others = [name for name in NAMES if name not in away]
    changed = settings(redis_url=url_of(cluster), store_timeout_ms=300)
    with TestClient(create_app(changed)) as client:
        first = [post(client, batch(at)) for at in range(3)]
        codes: dict[str, set[int]] = {name: set() for name in NAMES}

        def send(names: list[str], at: int) -> None:
            reply = client.post("/v1/readings", json=batch(at, names))
            for name in names:
                codes[name].add(reply.status_code)

        with trouble(cluster, port):
            groups = [away, others] if together else [[name] for name in NAMES]
            for at in (3, 4):
                threads = [threading.Thread(target=send, args=(group, at)) for group in groups]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            assert {name: found for name, found in codes.items() if found != {503 if name in away else 200}} == {}
            ready = client.get("/readyz")
            assert (ready.status_code, client.get("/livez").status_code) == (200, 200)
            assert f"the node 127.0.0.1:{port} of the Redis Cluster is in trouble" in ready.json()["warnings"][0]
        for one in (batch(3), batch(4)):  # a node that hung may have saved them
            while client.post("/v1/readings", json=one).status_code == 503:
                time.sleep(0.02)
        assert {known(client, name)["readings"] for name in NAMES} == {5}
        assert [post(client, batch(at)) for at in range(3)] == [
            [{**result, "replayed": True} for result in results] for results in first
        ]


def move_slot(servers: Servers, slot: int, to: int) -> Callable[[], None]:
    """Have a slot between two nodes, some keys on each; returns what ends that."""
    source = owner_of(servers, slot)
    ids = {port: servers.client(port).execute_command("CLUSTER", "MYID").decode() for port in (source, to)}
    servers.client(to).execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    servers.client(source).execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])

    def migrate(keys: list[bytes]) -> None:
        for key in keys:
            servers.client(source).execute_command("MIGRATE", "127.0.0.1", to, key, 0, 5000)

    def keys() -> list[bytes]:
        return list(servers.client(source).execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000))

    migrate(keys()[::2])

    def end() -> None:
        migrate(keys())
        for port in (to, source):
            servers.client(port).execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[to])

    return end


def test_a_slot_may_be_moved_while_readings_come(settings: Make, cluster: Servers, tenant: str) -> None:
    """While its keys are on two nodes its streams get 503, and no others; then they go on, each reading once."""
    slot = slot_of(tenant, NAMES[0])
    with TestClient(create_app(settings(redis_url=url_of(cluster), store_timeout_ms=300))) as client:
        for at in range(4):
            post(client, batch(at))
        to = next(port for port in cluster.running if port != owner_of(cluster, slot))
        end = move_slot(cluster, slot, to)
        reply = client.post("/v1/readings", json=batch(4, NAMES[:1]))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        others = [name for name in NAMES if slot_of(tenant, name) != slot]
        assert not any(result["replayed"] for result in post(client, batch(4, others)))
        ended = threading.Timer(0.1, end)
        ended.start()
        cluster.wait_for(lambda: client.post("/v1/readings", json=batch(4)).status_code == 200, "is not back")
        ended.join()
        post(client, batch(5))
        assert {known(client, name)["readings"] for name in NAMES} == {6}
        assert len({known(client, name)["tag"] for name in NAMES}) == 1


def test_a_cluster_where_a_version_before_left_streams_is_refused(
    settings: Make, cluster: Servers, tenant: str
) -> None:
    """They lie in many slots, and cannot be moved in one step."""
    old = f"gatewatch:{{{Keys(tenant, 1).epoch.decode().split('{')[1].split('}')[0]}}}:takeover"
    cluster.client(owner_of(cluster, key_slot(old.encode()))).hset(old, "number", 3)
    with TestClient(create_app(settings(redis_url=url_of(cluster)))) as client:
        reply = client.post("/v1/readings", json=batch(0))
        assert reply.status_code == 503
        assert "let this version take them over on a single Redis first" in reply.json()["detail"]


def test_a_failover_by_sentinels_is_followed_and_loses_nothing_that_a_replica_had(
    settings: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with redis_with_sentinels(tmp_path_factory.mktemp("sentinels")) as (servers, url):
        changed = settings(redis_url=url, store_timeout_ms=1000, store_replicas=1)
        with TestClient(create_app(changed)) as client:
            for at in range(4):
                post(client, batch(at))
            servers.kill(next(iter(servers.running)))
            reply = client.post("/v1/readings", json=batch(4))
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            assert client.get("/livez").status_code == 200
            servers.wait_for(lambda: client.get("/v1/streams/s0").status_code == 200, "no new master")
            assert {known(client, name)["readings"] for name in NAMES} == {4}

            def too_few_have_it() -> bool:
                """And whatever else is said meanwhile, it is not acknowledged."""
                reply = client.post("/v1/readings", json=batch(4))
                assert reply.status_code == 503
                return "only 0 of 1 replicas (GATEWATCH_STORE_REPLICAS) had taken it" in reply.json()["detail"]

            for _ in range(2):  # there is no replica any more, for what is new as for what was saved and not answered
                servers.wait_for(too_few_have_it, "it is not said why")
            away = next(port for port in servers.known if port not in servers.running)
            sentinel = servers.client(servers.known[-1])
            _, master = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
            servers.serve(away, "--replicaof", "127.0.0.1", str(int(master)))  # as Sentinel has it do after 10 s
            servers.wait_for(lambda: client.post("/v1/readings", json=batch(5)).status_code == 200, "no replica")
            servers.wait_for(lambda: client.post("/v1/readings", json=batch(4)).status_code == 200, "no replica")
            assert all(result["replayed"] for result in post(client, batch(4)))
            assert {known(client, name)["readings"] for name in NAMES} == {6}


def test_states_are_exported_taken_in_kept_forked_tried_and_warmed_up_on_a_cluster(
    settings: Make, cluster: Servers, tenant: str
) -> None:
    with TestClient(create_app(settings(redis_url=url_of(cluster)))) as client:
        for at in range(4):
            post(client, batch(at))
        for name in NAMES:
            path = f"/v1/streams/{name}"
            assert client.post(f"{path}/snapshots", json={"name": "four"}).status_code == 200
            file = client.get(f"{path}/state").content
            assert client.put(f"{path}-copy/state", params={"as": "new"}, content=file).json()["readings"] == 4
            assert client.post(f"{path}/fork", params={"to": f"{name}-fork"}).json()["readings"] == 4
        tried = client.post("/v1/readings?dry_run=true", json=batch(4)).json()
        assert {known(client, name)["readings"] for name in NAMES} == {4}
        assert tried == post(client, batch(4))
        for name in NAMES:
            (one,) = [one for one in batch(5) if one["stream"] == name]
            done = client.post(f"/v1/streams/{name}/warm-up", json=one).json()
            assert (done["taken"], done["stream"]["readings"]) == (1, 6)
            assert client.post(f"/v1/streams/{name}/snapshots/four/rollback").json()["readings"] == 4
            assert client.post(f"/v1/streams/{name}-copy/reset?what=state").json()["readings"] == 0
    with TestClient(create_app(settings(redis_url=url_of(cluster), stream_days=1 / 86_400))) as client:
        others = {f"{name}-{what}" for name in NAMES for what in ("copy", "fork")}
        deadline = time.monotonic() + PATIENCE_S
        while others & set(client.get("/v1/streams").json()["streams"]):  # those with snapshots stay
            assert time.monotonic() < deadline, "they are there still"
            time.sleep(0.1)
        assert client.get("/v1/streams").json()["streams"] == sorted(NAMES)
