"""Ready means that a reading sent now would be scored: /readyz, readings and the metric say the same."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import redis
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from gatewatch.service.storage import private_redis
from tests.support.access import add_to_file, bearer
from tests.support.samples import readings

COMPANY = 40
"""Streams that are read and saved by a transaction; few, once they are known, by a script."""


@contextmanager
def server(folder: Path, *options: str) -> Iterator[str]:
    """A Redis with options of its own; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = folder / "redis.sock"
    common = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    process = private_redis._launch([str(private_redis.server_binary()), *common, *options], path, folder)
    try:
        yield f"unix://{path}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Sender:
    """Sends one more reading of each of some streams."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        self.sent = 0

    def taken(self) -> bool:
        """Whether readings of a known stream, a new one, and of many are taken."""
        self.sent += 1
        names = [["known"], [f"new-{self.sent}"], [f"many-{number}" for number in range(COMPANY)]]
        batches = [[{**readings("any", 1, start=self.sent)[0], "stream": name} for name in some] for some in names]
        replies = [self.client.post("/v1/readings", json=batch).status_code for batch in batches]
        assert set(replies) <= {200, 503}
        assert len(set(replies)) == 1, replies
        return replies[0] == 200

    def ready(self) -> bool:
        """What /readyz says, /metrics and the readings say as well."""
        ready = self.client.get("/readyz").status_code == 200
        assert f"gatewatch_store_up {float(ready)}" in self.client.get("/metrics").text
        assert self.taken() == ready
        return ready


@pytest.fixture
def open_service(settings: Callable[..., Settings]) -> Callable[..., TestClient]:
    return lambda url, **changes: TestClient(create_app(settings(redis_url=url, **changes)))


def user(url: str, *rules: str) -> str:
    """The URL for a user who may do so much."""
    with redis.Redis.from_url(url) as database:
        database.execute_command("ACL", "SETUSER", "gw", "reset", "on", ">secret", *rules)
    return url.replace("unix://", "unix://gw:secret@")


def test_a_policy_that_evicts_only_keys_with_a_time_to_live_is_a_warning(
    open_service: Callable[..., TestClient], tmp_path: Path
) -> None:
    with server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as url:
        service = open_service(url)
        with capture_logs() as logged, service as client:
            assert Sender(client).ready()
            (warning,) = client.get("/readyz").json()["warnings"]
            assert "maxmemory-policy is volatile-lru" in warning
        assert [line["log_level"] for line in logged if "volatile-lru" in line["event"]] == ["warning"]
        with redis.Redis.from_url(url) as database:
            assert all(database.ttl(key) == -1 for key in database.scan_iter("gatewatch:*"))


def test_warnings_are_for_administrators_where_keys_are_asked_for(
    open_service: Callable[..., TestClient], tmp_path: Path
) -> None:
    """They may name nodes of Redis, models and keys."""
    file = tmp_path / "keys.json"
    reader, admin = (bearer(add_to_file(file, "default", scope)) for scope in ("read", "admin"))
    with (
        server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as url,
        open_service(url, keys_file=file) as client,
    ):
        assert len(client.get("/readyz", headers=admin).json()["warnings"]) == 1
        assert client.get("/readyz", headers=reader).json().keys() == {"status", "model"}
        assert client.get("/readyz").json().keys() == {"status"}


@pytest.mark.parametrize("durability", ["fast", "strict"])
def test_a_user_who_may_not_ask_for_settings_is_a_warning(
    open_service: Callable[..., TestClient], tmp_path: Path, durability: str
) -> None:
    with server(tmp_path) as url:
        limited = user(url, "+@all", "-@dangerous", "~gatewatch:*")
        with open_service(limited, durability=durability) as client:
            assert Sender(client).ready()
            warnings = client.get("/readyz").json()["warnings"]
        assert "cannot be seen: it refuses INFO" in warnings[0]
        assert len(warnings) == 1 + (durability == "strict")


def test_the_documented_commands_suffice(open_service: Callable[..., TestClient], tmp_path: Path) -> None:
    """Those of the README, and no PING."""
    needed = (
        "+get +set +mget +mset +del +getrange +setrange +watch +unwatch +multi +exec +zadd +zrem +zcard +zcount +zrange"
        " +zrangebylex +zscore +zremrangebyrank +hget +hmget +hset +hgetall +hdel +eval +evalsha +script|load +type"
        " +xadd +xrevrange +time"
    )
    with server(tmp_path) as url, open_service(user(url, *needed.split(), "~gatewatch:*")) as client:
        sender = Sender(client)
        assert sender.ready()
        assert sender.ready()
        assert client.put("/v1/streams/known", json={"on_gap": "hold"}).status_code == 200
        assert client.get("/v1/streams").json()["total"] == COMPANY + 3
        assert client.get("/v1/streams/known/history").status_code == 200
        assert client.delete("/v1/streams/known").status_code == 204
        with redis.Redis.from_url(url) as database:
            denied = {entry["object"] for entry in database.acl_log()}
        assert denied <= {"info", "client|setinfo"}


@pytest.mark.parametrize("denied", ["evalsha", "watch", "mset", "mget"])
def test_a_user_who_may_not_do_what_readings_need_is_not_ready(
    open_service: Callable[..., TestClient], tmp_path: Path, denied: str
) -> None:
    with server(tmp_path) as url, open_service(user(url, "+@all", f"-{denied}", "~gatewatch:*")) as client:
        reply = client.get("/readyz")
        assert reply.status_code == 503
        assert "Redis refused a command that its user may not use" in reply.json()["detail"]
        assert "gatewatch_store_up 0.0" in client.get("/metrics").text


def test_a_redis_that_is_full_or_lacks_replicas_is_not_ready_and_says_why(
    open_service: Callable[..., TestClient], tmp_path: Path
) -> None:
    cases = [
        ("maxmemory", "1", "0", "Redis is full"),
        ("min-replicas-to-write", "1", "0", "too few replicas"),
    ]
    with server(tmp_path) as url, redis.Redis.from_url(url) as database, open_service(url) as client:
        sender = Sender(client)
        assert sender.ready()
        for name, bad, good, reason in cases:
            database.config_set(name, bad)
            assert not sender.ready()
            assert reason in client.get("/readyz").json()["detail"]
            database.config_set(name, good)
            assert sender.ready()


def test_a_redis_that_became_a_replica_is_not_ready_and_every_connection_is_made_anew(
    open_service: Callable[..., TestClient], tmp_path: Path
) -> None:
    """Behind one address, another server may be the master by now."""
    with server(tmp_path) as url, redis.Redis.from_url(url) as database, open_service(url) as client:
        sender = Sender(client)
        assert sender.ready()
        before = {entry["id"] for entry in database.client_list()}
        database.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert not sender.ready()
        assert "Redis is a replica" in client.get("/readyz").json()["detail"]
        database.execute_command("REPLICAOF", "NO", "ONE")
        assert sender.ready()
        still = {entry["id"] for entry in database.client_list()} & before
        assert len(still) == 1  # the test's own


def test_a_redis_with_as_many_clients_as_it_takes_is_not_ready_until_some_leave(
    open_service: Callable[..., TestClient], tmp_path: Path
) -> None:
    with server(tmp_path, "--maxclients", "10") as url:
        others = [redis.Redis.from_url(url) for _ in range(10)]
        for one in others:
            one.ping()
        with open_service(url) as client:
            sender = Sender(client)
            assert not sender.ready()
            detail = client.get("/readyz").json()["detail"]  # Redis says why and closes; its word may not come through
            assert "as many clients as it takes" in detail or "cannot be reached" in detail
            for one in others:
                one.close()
            assert sender.ready()


def test_a_node_of_a_cluster_is_named_at_the_start_and_is_not_ready(
    open_service: Callable[..., TestClient], tmp_path: Path
) -> None:
    with server(tmp_path, "--cluster-enabled", "yes") as url:
        with redis.Redis.from_url(url) as database:
            database.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        service = open_service(url)
        with capture_logs() as logged, service as client:
            reply = client.get("/readyz")
            assert reply.status_code == 503
            assert "the URL of a Cluster begins with redis+cluster://" in reply.json()["detail"]
            assert not Sender(client).taken()
        assert "node of a Cluster" in next(line["error"] for line in logged if line["event"].startswith("started, but"))


@pytest.mark.parametrize("password", [False, True])
def test_a_server_that_knows_only_protocol_2_serves(
    open_service: Callable[..., TestClient], tmp_path: Path, password: bool
) -> None:
    with server(tmp_path, "--rename-command", "HELLO", "") as url:
        if password:
            with redis.Redis.from_url(url, protocol=2) as database:
                database.config_set("requirepass", "pw")
            url = url.replace("unix://", "unix://:pw@")
        with open_service(url) as client:
            sender = Sender(client)
            assert sender.ready()
            assert sender.ready()


def test_many_who_ask_at_once_are_answered_by_one_look(open_service: Callable[..., TestClient], tmp_path: Path) -> None:
    """A crowd of probes is no load on Redis, and takes nobody's connection."""

    async def ask(client: TestClient) -> list[int]:
        transport = httpx2.ASGITransport(app=client.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as asking:
            replies = await asyncio.gather(*(asking.get("/readyz") for _ in range(100)))
        await client.app.state.parts.store.close()  # type: ignore[attr-defined]
        return [reply.status_code for reply in replies]

    with server(tmp_path) as url, redis.Redis.from_url(url) as database:
        client = open_service(url)
        before = int(database.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))
        assert asyncio.run(ask(client)) == [200] * 100
        asked = int(database.info("commandstats")["cmdstat_evalsha"]["calls"]) - before
        assert 0 < asked < 50
