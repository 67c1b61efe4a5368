"""Connections that carry whole batches: cut, killed, left in the middle, refused a command."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import uvloop
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core.records import FENCE
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.settings import Settings
from gatewatch.service.storage import connection
from gatewatch.service.storage.encoder import packed
from gatewatch.service.storage.private_redis import start_private_redis
from gatewatch.service.storage.store import StateStore
from gatewatch.service.storage.unit_of_work import FEW
from tests.support.relay import Relay
from tests.support.samples import PATIENT_MS, post, readings
from tests.support.scorer import state_key

LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
Loop = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis whose connections may be killed, and its users changed."""
    with start_private_redis(tmp_path_factory.mktemp("redis")) as private:
        yield private.url


def count_of(record: bytes | None) -> int:
    return int(record[FENCE]) if record else 0


def next_of(stream: str, record: bytes | None) -> bytes:
    """A record whose fence counts how often its stream was written."""
    return b"GW".ljust(FENCE.start, b"\0") + b"%030d" % (count_of(record) + 1) + stream.encode()


async def write(store: StateStore, names: list[str], sent: set[str], pause: Callable[[], float]) -> list[str]:
    """Count each of some streams up by one; says whose. `sent` are those of which that may have happened."""
    streams = [StreamKey(store.tenant, name) for name in names]
    async with store.begin(streams, cached=True) as unit:
        before = dict(zip(names, unit.packed, strict=True))
        assert all(not record or record[FENCE.stop :].decode() == stream for stream, record in before.items())
        await asyncio.sleep(pause())
        if not await unit.confirmed(True):
            return []
        fences = [record[FENCE] if record else b"" for record in before.values()]
        sent.update(names)
        await unit.send(Writes(0.0, streams, fences, [next_of(*one) for one in before.items()]))
        await asyncio.sleep(pause())
        return [name for name, ok in zip(names, await unit.saved(), strict=True) if ok]


@LOOPS
def test_what_is_cancelled_killed_or_late_mixes_no_answers_and_loses_none(
    url: str, tenant: str, loop_factory: Loop
) -> None:
    """Two processes' stores write the same streams: every write that was answered is there, and none came twice."""
    rng = random.Random(3)
    names = [f"s{number}" for number in range(2 * FEW)]
    answered, unknown = Counter[str](), Counter[str]()

    async def writer(store: StateStore) -> None:
        for _ in range(150):
            sent: set[str] = set()
            streams = rng.sample(names, rng.choice([1, 5, FEW + 1, 2 * FEW]))
            task = asyncio.create_task(write(store, streams, sent, lambda: rng.choice([0, 0, 0.002])))
            if rng.random() < 0.3:
                asyncio.get_running_loop().call_later(0.005 * rng.random(), task.cancel)
            try:
                saved = await task
                answered.update(saved)
            except (StoreUnavailable, asyncio.CancelledError):
                unknown.update(sent)

    async def trouble() -> None:
        async with redis.asyncio.Redis.from_url(url) as database:
            while True:
                await asyncio.sleep(0.02 * rng.random())
                with suppress(redis.RedisError):
                    kill, forget, pause = "CLIENT KILL TYPE normal SKIPME yes", "SCRIPT FLUSH", "CLIENT PAUSE 60"
                    await database.execute_command(*rng.choice([kill, kill, forget, pause]).split())

    async def run() -> dict[str, int]:
        stores = [StateStore(url, tenant, 40) for _ in range(2)]
        disturbing = asyncio.create_task(trouble())
        await asyncio.gather(*(writer(store) for store in stores * 2))
        disturbing.cancel()
        for store in stores:
            await store.close()
        asking = StateStore(url, tenant, PATIENT_MS)
        records = await asking.load([StreamKey(tenant, name) for name in names])
        found = {name: count_of(record) for name, record in zip(names, records, strict=True)}
        await asking.close()
        return found

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        found = runner.run(run())
    assert sum(answered.values()) > 0 < sum(unknown.values())  # a run without either proves nothing
    wrong = {s: n for s, n in found.items() if not answered[s] <= n <= answered[s] + unknown[s]}
    assert wrong == {}


@LOOPS
@pytest.mark.parametrize("streams", [1, FEW + 1])
def test_a_connection_that_is_closed_while_it_is_idle_costs_nobody_an_error(
    url: str, tenant: str, loop_factory: Loop, streams: int
) -> None:
    names = [f"s{number}" for number in range(streams)]

    async def run() -> list[int]:
        store = StateStore(url, tenant, PATIENT_MS)
        saved = []
        async with redis.asyncio.Redis.from_url(url) as database:
            for _ in range(3):
                saved.append(len(await write(store, names, set(), lambda: 0)))
                await database.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await asyncio.sleep(0.05)
        await store.close()
        return saved

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(run()) == [streams] * 3


ASK: dict[str, Callable[[TestClient, int], Any]] = {
    "a new reading": lambda client, at: client.post("/v1/readings", json=readings("idle", 1, start=at)),
    "a new stream": lambda client, at: client.post("/v1/readings", json=readings(f"idle-{at}", 1)),
    "a reading sent again": lambda client, _: client.post("/v1/readings", json=readings("idle", 1)),
    "settings": lambda client, _: client.put("/v1/streams/idle", json={}),
    "a stream": lambda client, _: client.get("/v1/streams/idle"),
    "all streams": lambda client, _: client.get("/v1/streams"),
    "history": lambda client, _: client.get("/v1/streams/idle/history"),
    "readiness": lambda client, _: client.get("/readyz"),
    "deletion": lambda client, at: client.delete(f"/v1/streams/idle-{at}"),
}


@pytest.mark.parametrize("how", ["cut", "forget"])
def test_whatever_is_asked_after_a_pause_in_which_connections_went_is_answered(
    settings: Callable[..., Settings], url: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Closed by Redis or a proxy, or dropped without a word by what stands between."""
    with Relay(url) as relay, TestClient(create_app(settings(redis_url=relay.url, store_timeout_ms=600))) as client:
        for at in (1, 2):
            for ask in ASK.values():
                assert ask(client, at).status_code in (200, 204)
        monkeypatch.setattr(connection, "TRY_AFTER_S", 0.0)  # the pause
        for at in (3, 4):
            replies = {}
            for name, ask in ASK.items():
                getattr(relay, how)()
                replies[name] = ask(client, at).status_code
            assert replies == dict.fromkeys(ASK, 200) | {"deletion": 204}
            getattr(relay, how)()
            assert "gatewatch_store_up 1.0" in client.get("/metrics").text


@LOOPS
def test_nothing_more_is_sent_on_a_connection_that_is_dropped(url: str, tenant: str, loop_factory: Loop) -> None:
    """What still waited behind a large write is not done later, when nobody expects it."""

    async def never() -> None: ...

    async def drop() -> int:
        pool = redis.asyncio.ConnectionPool.from_url(url)
        dropped = connection.BatchConnection(pool.make_connection(), 1.0, never, lambda: None)
        await dropped.open()
        dropped.send(packed([b"CLIENT", b"ID"]))
        (number,) = await dropped.replies(1)
        dropped.send(
            packed([b"SET", f"{tenant}-large".encode(), bytes(2**26)]) + packed([b"SET", tenant.encode(), b"late"])
        )
        await dropped.close()
        with redis.Redis.from_url(url) as client:
            while any(int(one["id"]) == number for one in client.client_list()):  # noqa: ASYNC110 - Redis sends no event
                await asyncio.sleep(0.01)
        return int(number)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(drop())
    with redis.Redis.from_url(url) as client:
        assert client.exists(tenant, f"{tenant}-large") == 0


def test_a_stream_is_deleted_though_it_changed_since_a_batch_watched_it(settings: Callable[..., Settings]) -> None:
    """A repeat is watched and not saved; the connection is used again, another service has written meanwhile."""
    sent = readings("gone", 3)
    with TestClient(create_app(settings())) as other:
        post(other, sent[:2])
        with TestClient(create_app(settings())) as client:
            assert post(client, sent[:1])[0]["replayed"]
            post(other, sent[2:])
            assert client.delete("/v1/streams/gone").status_code == 204
            assert client.get("/v1/streams/gone").status_code == 404


def test_nothing_is_written_where_redis_refuses_to_watch(
    settings: Callable[..., Settings], url: str, tenant: str
) -> None:
    """As it does for a user who may not; without a watch, two services would overwrite each other's states."""
    with redis.Redis.from_url(url) as database:
        database.execute_command("ACL", "SETUSER", "blind", "on", ">secret", "~*", "+@all", "-watch")
        blind = settings(redis_url=url.replace("unix://", "unix://blind:secret@"))
        with TestClient(create_app(blind)) as client:
            reply = client.post("/v1/readings", json=readings("unwatched", 1))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert "Redis refused a command that its user may not use" in reply.json()["detail"]
        assert not database.exists(state_key(tenant, "unwatched"))


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_password_and_either_protocol_serve_few_and_many_streams(
    settings: Callable[..., Settings], url: str, protocol: int
) -> None:
    with redis.Redis.from_url(url) as database:
        database.execute_command("ACL", "SETUSER", "known", "on", ">p@ss", "~*", "+@all")
    changed = settings(redis_url=url.replace("unix://", "unix://known:p%40ss@") + f"?protocol={protocol}")
    with TestClient(create_app(changed)) as client:
        for company in (1, FEW, 2 * FEW):
            for at in range(3):
                sent = [{**readings("any", 1, start=at)[0], "stream": f"c{company}-{n}"} for n in range(company)]
                assert not any(result["replayed"] for result in post(client, sent))


def test_a_wrong_password_is_a_refusal_and_no_unreachable_redis(settings: Callable[..., Settings], url: str) -> None:
    changed = settings(redis_url=url.replace("unix://", "unix://nobody:wrong@"))
    with TestClient(create_app(changed)) as client:
        replies = [client.post("/v1/readings", json=readings("any", 1)), client.get("/v1/streams/any")]
    assert [reply.status_code for reply in replies] == [503, 503]
    assert all("Redis refused a command" in reply.json()["detail"] for reply in replies)


@pytest.mark.parametrize("company", [0, FEW])
@pytest.mark.parametrize(
    ("refuse", "allow"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ],
)
def test_a_redis_that_refuses_writes_is_503_and_nothing_is_half_written(
    settings: Callable[..., Settings], tmp_path: Path, refuse: str, allow: str, company: int
) -> None:
    names = ["full", *(f"c{number}" for number in range(company))]
    batches = [[{**reading, "stream": name} for name in names] for reading in readings("full", 4)]
    with (
        start_private_redis(tmp_path) as private,
        redis.Redis.from_url(private.url) as database,
        TestClient(create_app(settings(redis_url=private.url))) as client,
    ):
        before = [post(client, batch) for batch in batches[:2]]
        tags = [client.get(f"/v1/streams/{name}").json()["tag"] for name in names]
        database.execute_command(*refuse.split())
        reply = client.post("/v1/readings", json=batches[2])
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert [client.get(f"/v1/streams/{name}").json()["tag"] for name in names] == tags
        database.execute_command(*allow.split())
        after = [post(client, batch) for batch in batches[2:]]
        assert not any(result["replayed"] for results in before + after for result in results)
        assert [post(client, batch)[0]["score"] for batch in batches] == [r[0]["score"] for r in before + after]


def test_a_new_stream_that_is_saved_is_listed_though_the_connection_is_cut_behind_the_save(
    url: str, tenant: str
) -> None:
    """Another process was first with one stream of a batch, so that the others are saved one by one."""
    new = b"GW\0\0" + bytes(29)

    class CutStore(StateStore):
        async def note_saved(self, *_: Any, **__: Any) -> list[bool]:
            raise redis.ConnectionError("cut")

    async def run() -> list[str]:
        store, other = CutStore(url, tenant, PATIENT_MS), StateStore(url, tenant, PATIENT_MS)
        mine, theirs = (StreamKey(tenant, name) for name in ("mine", "theirs"))
        async with store.begin([mine, theirs]) as unit:
            await other.save(Writes(0.0, [theirs], [b""], [new]))
            await unit.send(Writes(0.0, [mine, theirs], [b"", b""], [new, new]))
            with pytest.raises(StoreUnavailable):
                await unit.saved()
        assert await other.load([mine]) == [new]
        listed = await other.list_streams(tenant, "", 10)
        for one in (store, other):
            await one.close()
        return listed

    assert asyncio.run(run()) == ["mine", "theirs"]
