"""Harmed bytes in Redis: none of them is ever scored on, and none costs more than a rebuild."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np
import pytest
import redis
from starlette.testclient import TestClient

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.layout import layout_of
from gatewatch.service.settings import Settings
from tests.support.samples import CHANNELS, post, readings
from tests.support.scorer import state_key

MUTANTS = int(os.environ.get("MUTANTS", "20000"))
SEED = int(os.environ.get("MUTANTS_SEED", "0"))
SLOTS = 128
STREAM = state.seed(b"any")
LAYOUT = layout_of(CHANNELS, CHANNELS)
TOGETHER = 500
FLAWS = {"missing", "corrupt", "format", "model", "channels", "history", "stale"}


def flipped(sound: bytes) -> Iterator[bytes]:
    """Each single bit of some bytes, flipped."""
    for bit in range(8 * len(sound)):
        harmed = bytearray(sound)
        harmed[bit // 8] ^= 1 << bit % 8
        yield bytes(harmed)


def harmed(sound: list[bytes], rng: random.Random) -> bytes:
    """One of some sound values, harmed as disks, networks and hands do it; sometimes it comes out sound."""
    value, other = bytearray(rng.choice(sound)), rng.choice(sound)
    for _ in range(rng.randint(1, 3)):
        if not value:
            break
        at, length = rng.randrange(len(value)), rng.choice((1, 2, 4, 8, 16, 64))
        kind = rng.randrange(9)
        if kind == 0:
            value[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            value[at : at + length] = rng.randbytes(len(value[at : at + length]))
        elif kind == 2:
            value[at : at + length] = bytes(len(value[at : at + length]))
        elif kind == 3:
            del value[at:]
        elif kind == 4:
            del value[at : at + length]
        elif kind == 5:
            value[at:at] = rng.randbytes(length)
        elif kind == 6:
            value += value[:at]
        elif kind == 7:
            value[at:] = other[at:]
        else:
            value[:] = value[at:] + value[:at]
    return bytes(value)


@pytest.fixture
def records(detector: TrainedDetector) -> list[bytes]:
    """A fresh record, and those of streams that have seen some readings."""
    dtype = state.state_dtype(detector.state_dtype, len(detector.channels))
    rng = np.random.default_rng(SEED)
    fresh = state.fresh(dtype, detector.initial(4), detector.digest, SLOTS)
    for at in range(1, 4):
        fresh["tag"][at] = np.void(rng.bytes(16))
        fresh["readings"][at] = fresh["last_seq"][at] = rng.integers(1, 2**40)
        fresh["detector"][at] = np.frombuffer(rng.bytes(dtype["detector"].itemsize), dtype["detector"])[0]
    return state.pack(fresh, [LAYOUT] * len(fresh), [STREAM] * len(fresh))


def taken(detector: TrainedDetector, packed: list[bytes]) -> list[bytes]:
    """Which of some records would be scored on; the rest is zero, with one of the reasons there are."""
    dtype = state.state_dtype(detector.state_dtype, len(detector.channels))
    unpacked, _, flaws = state.unpack(packed, [STREAM] * len(packed), dtype, LAYOUT, detector.digest, SLOTS)
    assert set(flaws.values()) <= FLAWS - {"missing"}
    assert not unpacked[list(flaws)].tobytes().strip(b"\0")
    return [value for at, value in enumerate(packed) if at not in flaws]


def test_a_record_with_any_one_bit_flipped_is_not_scored_on(detector: TrainedDetector, records: list[bytes]) -> None:
    assert taken(detector, records) == records
    for record in records:
        assert taken(detector, list(flipped(record))) == []


def test_no_mutant_of_a_record_is_scored_on(detector: TrainedDetector, records: list[bytes]) -> None:
    """The long form: MUTANTS=300000 MUTANTS_SEED=1 python -m pytest -s tests/faults/test_harm.py"""
    rng, sound, tried = random.Random(SEED), set(records), 0
    while tried < MUTANTS:
        mutants = [mutant for mutant in (harmed(records, rng) for _ in range(TOGETHER)) if mutant not in sound]
        assert taken(detector, mutants) == [], f"MUTANTS_SEED={SEED}"
        tried += len(mutants)
    print(f"MUTANTS_SEED={SEED}: {tried} mutants of records of {len(records[0])} bytes, none taken")


@pytest.fixture
def slots() -> list[bytes]:
    """A ring of five slots that has gone round once."""
    dtype, rng = LAYOUT.entry, np.random.default_rng(SEED)
    entries = np.frombuffer(rng.bytes(5 * dtype.itemsize), dtype).copy()
    entries["n"] = [5, 6, 2, 3, 4]
    return history.pack_entries(entries, repeat(LAYOUT.slot_seed(STREAM)))


def kept(ring: bytes) -> list[bytes]:
    """The readings that are taken out of a ring."""
    entries = history.unpack_entries(LAYOUT.ring_header + ring, LAYOUT, STREAM)
    assert (np.diff(entries["n"].astype(np.int64)) == 1).all()
    return [entries[at : at + 1].tobytes() for at in range(len(entries))]


def test_a_history_slot_with_any_one_bit_flipped_is_not_read(slots: list[bytes]) -> None:
    assert kept(b"".join(slots)) == [slots[at] for at in (2, 3, 4, 0, 1)]
    for slot in slots:
        assert all(kept(harm) == [] for harm in flipped(slot))


def test_no_mutant_of_a_history_gives_a_reading_that_there_was_not(slots: list[bytes]) -> None:
    rng, sound, ring, tried, left = random.Random(SEED), set(slots), b"".join(slots), 0, 0
    while tried < MUTANTS:
        mutant = harmed([ring], rng)
        if mutant != ring:
            found = kept(mutant)
            assert sound.issuperset(found), f"MUTANTS_SEED={SEED}, {mutant.hex()}"
            tried, left = tried + 1, left + len(found)
    print(f"MUTANTS_SEED={SEED}: {tried} mutants of a ring of {len(ring)} bytes, {left} readings left, all sound")


def test_a_harmed_record_costs_a_rebuild_and_changes_no_score(
    settings: Callable[..., Settings], redis_url: str, tenant: str
) -> None:
    """What is in the way of the record, its history or both: the next reading is answered, and with no wrong score."""
    rng = random.Random(SEED)
    names = ["sound", *(f"h{at}" for at in range(150))]
    rows = readings("any", 12)
    with TestClient(create_app(settings())) as client, redis.Redis.from_url(redis_url) as database:
        for reading in rows[:11]:
            post(client, [{**reading, "stream": name} for name in names])
        unharmed: dict[str, list[str]] = {"state": [], "readings": []}
        for at, name in enumerate(names[1:]):
            for what in ({"state"}, {"readings"}, {"state", "readings"})[at % 3]:
                value = database.get(state_key(tenant, name, what))
                assert isinstance(value, bytes)
                database.set(state_key(tenant, name, what), harmed([value], rng))
            if at % 3 == 0:
                unharmed["readings"].append(name)
        before = {name: client.get(f"/v1/streams/{name}").json() for name in unharmed["readings"]}
        retried = post(client, [{**rows[9], "stream": name} for name in names])
        scored = post(client, [{**rows[11], "stream": name} for name in names])
    first = {**retried[0], "stream": None}
    assert {retry["status"] for retry in retried} <= {first["status"], "late", "warming_up", "normal", "anomalous"}
    for name, retry, result in zip(names, retried, scored, strict=True):
        if retry["replayed"]:
            assert {**retry, "stream": None} == first, name
        if name in before:
            assert before[name]["readings"] == 11, name
            assert (result["status"], result["score"]) == (scored[0]["status"], scored[0]["score"]), name
        assert result["status"] in ("warming_up", "normal", "anomalous"), (name, result)
        assert np.isfinite(result["score"]), name
