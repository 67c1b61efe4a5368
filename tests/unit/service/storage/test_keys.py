"""Keys in buckets: what lies in one slot, and how many there are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.settings import Settings
from gatewatch.service.storage.keys import LAYOUT, PARTS, Keys, bucket_of, identity
from gatewatch.service.storage.listing import page
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.samples import post, readings

NAMES = st.text(min_size=1, max_size=20)


@given(tenant=NAMES, name=NAMES, buckets=st.integers(1, 1024))
def test_all_that_a_reading_writes_lies_in_one_slot(tenant: str, name: str, buckets: int) -> None:
    stream, keys = StreamKey(tenant, name), Keys("another", buckets)
    written = {*keys[stream][:2], *keys[stream].sets, *(keys.part(stream, part) for part in PARTS)}
    assert len({key_slot(key) for key in written}) == 1


@given(one=st.tuples(NAMES, NAMES), other=st.tuples(NAMES, NAMES))
def test_different_streams_have_different_keys(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = Keys("t", 1)
    assert (keys[StreamKey(*one)].record == keys[StreamKey(*other)].record) == (one == other)


def test_the_bucket_of_a_stream_never_changes() -> None:
    """What is written here is where streams lie in every Redis: another number loses them."""
    streams = [StreamKey("default", name) for name in ("pump-7", "s0", "Pumpe 3 / Süd", "x" * 200)]
    assert [bucket_of(identity(stream), 64) for stream in streams] == [46, 54, 26, 49]
    assert Keys("default", 64)[streams[0]].record == b"gatewatch:{46}:ZGVmYXVsdA.cHVtcC03:state"


@pytest.mark.parametrize("buckets", [1, 3, 1024])
def test_streams_of_many_buckets_are_scored_listed_and_deleted_together(
    settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory, buckets: int
) -> None:
    names = [f"s{number:03d}" for number in range(100)]
    with (
        start_private_redis(tmp_path_factory.mktemp("redis")) as private,
        TestClient(create_app(settings(redis_url=private.url, slot_buckets=buckets))) as client,
    ):
        for at in range(3):
            sent = [{**readings("any", 1, start=at)[0], "stream": name} for name in names]
            assert not any(result["replayed"] for result in post(client, sent))
        assert all(result["replayed"] for result in post(client, sent))
        assert client.delete("/v1/streams/s050").status_code == 204
        found = client.get("/v1/streams?limit=7&after=s047").json()
        assert (found["streams"], found["total"]) == ([f"s{n:03d}" for n in (48, 49, 51, 52, 53, 54, 55)], 99)


def test_the_number_of_buckets_stays_what_a_redis_began_with(
    settings: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> None:
    sent = [{**reading, "stream": f"s{n}"} for reading in readings("any", 3) for n in range(40)]
    with start_private_redis(tmp_path_factory.mktemp("redis")) as private:
        with TestClient(create_app(settings(redis_url=private.url, slot_buckets=16))) as client:
            post(client, sent)
            assert "warnings" not in client.get("/readyz").json()
        with TestClient(create_app(settings(redis_url=private.url, slot_buckets=8))) as client:
            assert all(result["replayed"] for result in post(client, sent))
            (warning,) = client.get("/readyz").json()["warnings"]
            assert "GATEWATCH_SLOT_BUCKETS is 8, and the streams in this Redis are kept in 16 buckets" in warning
            with redis.Redis.from_url(private.url) as database:
                assert database.get(LAYOUT) == b"16"


@given(
    parts=st.lists(st.lists(st.integers(0, 60), max_size=60), min_size=1, max_size=6),
    after=st.integers(-1, 61),
    most=st.integers(1, 80),
)
def test_a_page_is_the_same_whatever_bucket_its_names_are_in(parts: list[list[int]], after: int, most: int) -> None:
    """A name may stand in two parts, as one that is moved at the moment does."""
    names = [sorted({b"%03d" % number for number in part}) for part in parts]
    begin = b"%03d" % after if after >= 0 else b""

    async def fetch(asked: Sequence[tuple[bytes, bytes, int]]) -> list[list[bytes]]:
        return [[name for name in names[int(key)] if name > last][:count] for key, last, count in asked]

    found = asyncio.run(page([b"%d" % at for at in range(len(parts))], begin, most, fetch))
    assert found == sorted({name for part in names for name in part if name > begin})[:most]
