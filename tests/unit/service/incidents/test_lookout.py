"""Silent streams are found, each once, by however many processes; a reading, or the next look, ends a silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core import records as state
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.event import decode
from gatewatch.service.incidents.rules import ActiveWindow, Rules
from gatewatch.service.incidents.silence import LEAST_MS
from gatewatch.service.storage.silence_store import LEASE_MS
from tests.support.asynchronous import asynchronous
from tests.support.fleets import Asked, Process, SetClock, sent_at
from tests.support.redis_servers import redis_cluster
from tests.support.scorer import model_of

EVERY_MS = 10_000
ROUNDS = 40
STREAMS = [f"s{number:03d}" for number in range(20)]
SILENT, OTHERS = STREAMS[:3], STREAMS[3:]


class World:
    """Some processes, and streams that send every ten seconds."""

    def __init__(self, url: str, tenant: str, detector: TrainedDetector, processes: int, most_open: int) -> None:
        self.clock, self.asked, self.tenant = SetClock(), Asked(), tenant
        model = model_of(detector, 32, 60_000)
        self.processes = [
            Process(url, tenant, model, self.clock, self.asked, most_open=most_open) for _ in range(processes)
        ]
        self.one = self.processes[0]

    async def go_on(self, streams: Sequence[str], rounds: int, looking: Sequence[Process] | None = None) -> None:
        """Ten seconds a round: streams send to one process after the other, and processes look, all at once."""
        for at in range(rounds):
            self.clock.ms += EVERY_MS
            if streams:
                await self.processes[at % len(self.processes)].post(sent_at(streams, self.clock.ms))
            await asyncio.gather(*(one.look() for one in (self.processes if looking is None else looking)))

    async def silences(self) -> list[dict[str, Any]]:
        """What was found, by the names of the streams."""
        return sorted(await self.one.incidents(reason="silent"), key=lambda one: str(one["stream"]))

    async def open_silences(self) -> int:
        return await self.one.silences.count_open(self.tenant)

    def told(self) -> float:
        return sum(process.alerts() for process in self.processes)


def outboxes(world: World) -> list[bytes]:
    keys = world.one.store.keys
    return [keys.outbox(b"%d" % bucket) for bucket in range(keys.buckets)]


@asynccontextmanager
async def world_of(
    url: str, tenant: str, detector: TrainedDetector, processes: int = 1, most_open: int = 1000
) -> AsyncIterator[World]:
    world = World(url, tenant, detector, processes, most_open)
    try:
        yield world
        for process in world.processes:
            await process.core.books.settle()
    finally:
        for process in world.processes:
            await process.store.close()


@asynchronous
async def test_streams_that_stop_are_found_once_by_three_processes_and_those_that_go_on_are_not(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector, 3) as world:
        await world.go_on(STREAMS, ROUNDS)
        assert await world.silences() == []
        stopped_ms = world.clock.ms
        await world.go_on(OTHERS, 20)
        found = await world.silences()
        assert [(one["id"], one["state"]) for one in found] == [(f"s{ROUNDS}.{name}", "open") for name in SILENT]
        assert {len(one["channels"]) + len(one["alerts"]) for one in found} == {1}
        assert (world.told(), await world.open_silences()) == (3, 3)
        await world.go_on(OTHERS, 60)
        assert await world.silences() == found
        assert world.clock.ms - stopped_ms > 50 * EVERY_MS


@asynchronous
async def test_it_is_known_how_far_looks_are_behind(redis_url: str, tenant: str, detector: TrainedDetector) -> None:
    async with world_of(redis_url, tenant, detector) as world:
        await world.go_on(["pump"], 1)
        world.clock.ms += LEAST_MS + 40_000
        await world.one.lookout.round()
        assert world.one.lookout.behind_s == 40.0
        await world.one.lookout.round()
        assert world.one.lookout.behind_s == 0.0
        await world.one.store.delete(StreamKey(tenant, "pump"))  # is due at once, to be forgotten
        await world.one.lookout.round()
        assert world.one.lookout.behind_s == 0.0


@asynchronous
async def test_the_reading_that_comes_back_ends_a_silence_and_the_next_one_is_another(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector, 2) as world:
        await world.go_on(STREAMS, ROUNDS)
        await world.go_on(OTHERS, 20)
        world.clock.ms += EVERY_MS
        await world.processes[1].post(sent_at(SILENT, world.clock.ms))
        found = await world.silences()
        assert {one["state"] for one in found} == {"ended"}
        assert await world.open_silences() == 0
        await world.go_on(STREAMS, 40)
        await world.go_on(OTHERS, 80)
        found = await world.silences()
        assert [one["state"] for one in found if one["stream"] == "s000"] == ["open", "ended"]
        assert world.told() == 6


@asynchronous
async def test_a_process_that_dies_with_streams_in_its_hands_is_replaced(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """It took what is due and never came back; meanwhile those streams are nobody's, for LEASE_MS."""
    async with world_of(redis_url, tenant, detector, 2) as world:
        dead, other = world.processes
        await world.go_on(STREAMS, ROUNDS)
        world.clock.ms += 15 * EVERY_MS - 1000
        for bucket in range(dead.silences.buckets):
            await dead.silences.take([bucket], 1000)
        await other.look()
        assert await world.silences() == []
        await world.go_on([], LEASE_MS // EVERY_MS + 30, [other])
        assert [one["stream"] for one in await world.silences()] == STREAMS
        assert (dead.alerts(), other.alerts()) == (0, len(STREAMS))


@asynchronous
async def test_after_a_time_without_any_process_streams_get_their_patience_anew(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector) as world:
        await world.go_on(STREAMS, ROUNDS)
        world.clock.ms += 360 * EVERY_MS
        await world.go_on([], 1)
        await world.go_on(STREAMS, 40)  # in which their histories forget the hour
        assert await world.silences() == []
        await world.go_on([], 40)
        assert len(await world.silences()) == len(STREAMS)


@asynchronous
async def test_a_silence_that_no_reading_could_end_is_ended_by_a_look(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """The mark in the record was lost, as where a process saved a reading at the moment of the finding."""
    async with world_of(redis_url, tenant, detector) as world:
        await world.go_on(STREAMS, ROUNDS)
        stream = StreamKey(tenant, "s000")
        key = world.one.store.keys[stream]
        before = await world.one.store.ask_one(b"GET", key.record)
        await world.go_on(OTHERS, 20)
        part = state.stream_part(await world.one.store.ask_one(b"GET", key.record), key.seed)
        assert part
        assert part[0]["status"][0] & state.SILENT
        await world.one.store.ask_one(b"SET", key.record, before)
        world.one.store.record_cache.forget([key.record])
        await world.go_on(["s000", *OTHERS], 1)
        assert (await world.silences())[0]["state"] == "open"
        world.one.store.tells = True
        await world.go_on(["s000", *OTHERS], 60)
        assert [one["state"] for one in await world.silences()] == ["ended", "open", "open"]
        assert await world.open_silences() == 2
        waiting = [await world.one.store.ask_one(b"ZRANGE", outbox, b"0", b"-1") for outbox in outboxes(world)]
        (ended,) = [event for events in waiting for event in map(decode, events) if event]
        assert (ended.what, ended.stream, ended.n < 0) == ("ended", "s000", True)


@asynchronous
async def test_a_deleted_stream_is_looked_at_no_more_and_its_silence_is_not_counted(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector) as world:
        await world.go_on(STREAMS, ROUNDS)
        await world.go_on(OTHERS, 20)
        for name in ("s000", "s010"):
            assert await world.one.store.delete(StreamKey(tenant, name))
        await world.go_on([name for name in OTHERS if name != "s010"], 2)
        assert await world.open_silences() == 2
        keys = world.one.store.keys
        due = [
            member
            for bucket in range(keys.buckets)
            for member in await world.one.store.ask_one(b"ZRANGE", keys.due(b"%d" % bucket), b"0", b"-1")
        ]
        assert len(due) == len(STREAMS) - 2


@asynchronous
async def test_a_silence_that_is_forgotten_is_not_counted_and_its_stream_comes_back_as_any(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector) as world:
        await world.go_on(STREAMS, ROUNDS)
        await world.go_on(OTHERS, 20)
        assert await world.one.store.incidents.trim(tenant, world.clock.ms + 1, 1000, world.clock.ms) == 3
        assert (await world.silences(), await world.open_silences()) == ([], 0)
        await world.go_on(STREAMS, 60)
        await world.go_on(OTHERS, 60)
        assert [one["stream"] for one in await world.silences()] == SILENT


@asynchronous
async def test_more_silences_than_may_be_open_wait_until_others_end(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector, most_open=8) as world:
        await world.go_on(STREAMS, ROUNDS)
        await world.go_on([], 40)
        assert await world.open_silences() == 8
        back = [one["stream"] for one in await world.silences()]
        await world.go_on(back, 100)
        assert await world.open_silences() == 8
        assert not set(back) & {one["stream"] for one in await world.silences() if one["state"] == "open"}


@asynchronous
async def test_a_muted_stream_has_its_incident_and_nobody_is_told(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector) as world:
        world.asked.muted = {"s000", "s005"}
        await world.go_on(STREAMS, ROUNDS)
        loud = sent_at(["s005", "s006"], world.clock.ms + 1000, pressure=900.0, flow=3.0)
        await world.one.post(loud)
        await world.go_on(OTHERS, 20)
        assert {one["stream"] for one in await world.one.incidents()} == {*SILENT, "s005", "s006"}
        assert (world.told(), await world.open_silences()) == (2, 2)
        assert sum(world.one.alerts(reason) for reason in ("event", "level", "range")) == 1
        assert [stream.name for stream in (await world.one.store.open_anomalies(1e9, 10)).streams] == ["s006"]


@asynchronous
async def test_a_stream_in_a_maintenance_window_is_called_silent_when_that_is_over(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector) as world:
        await world.go_on(STREAMS, ROUNDS)
        end_ms = world.clock.ms + 30 * EVERY_MS
        world.asked.ruled["s001"] = Rules(windows=(ActiveWindow("swap", True, False, end_ms=end_ms),))
        await world.go_on(OTHERS, 25)
        assert [one["stream"] for one in await world.silences()] == ["s000", "s002"]
        await world.go_on(OTHERS, 20)
        assert [one["stream"] for one in await world.silences()] == SILENT


@asynchronous
async def test_streams_that_a_version_before_listed_are_watched_when_a_process_begins(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    async with world_of(redis_url, tenant, detector) as world:
        world.one.store.watches = False
        await world.go_on(STREAMS, 1, [])
        world.one.store.watches = True
        await world.go_on(STREAMS, ROUNDS)
        await world.go_on(OTHERS, 20)
        assert [one["stream"] for one in await world.silences()] == SILENT


def test_silence_is_found_on_a_cluster(tmp_path: Path, tenant: str, detector: TrainedDetector) -> None:
    async def run(url: str) -> None:
        async with world_of(url, tenant, detector, 2) as world:
            await world.go_on(STREAMS, ROUNDS)
            await world.go_on(OTHERS, 20)
            assert [(one["stream"], one["state"]) for one in await world.silences()] == [(s, "open") for s in SILENT]
            await world.go_on(STREAMS, 1)
            assert {one["state"] for one in await world.silences()} == {"ended"}
            assert (world.told(), await world.open_silences()) == (3, 0)

    with redis_cluster(tmp_path) as servers:
        asyncio.run(run("redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in servers.running)))
