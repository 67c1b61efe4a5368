"""Incidents that begin about the same time, on streams that belong together, are one group, whoever finds them."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.incidents.reading import IncidentReader, Search
from gatewatch.service.storage import group_store
from tests.support.asynchronous import asynchronous
from tests.support.fleets import WEEK_MS, Asked, Process, SetClock, sent_at
from tests.support.scorer import model_of

CALM = 12
STREAMS = [f"s{number:03d}" for number in range(40)]
NORTH, SOUTH, ALONE = STREAMS[:20], STREAMS[20:30], STREAMS[30:]


class Sites:
    """Two processes, and streams of two sites and of none, on which nothing has happened yet."""

    def __init__(self, url: str, tenant: str, detector: TrainedDetector) -> None:
        self.clock, self.asked = SetClock(), Asked()
        sites = {**dict.fromkeys(NORTH, "north"), **dict.fromkeys(SOUTH, "south")}
        self.asked.tagged.update({name: {"site": site} for name, site in sites.items()})
        model = model_of(detector, 32, 60_000)
        self.processes = [Process(url, tenant, model, self.clock, self.asked) for _ in range(2)]
        self.one = self.processes[0]

    async def begin(self) -> None:
        for _ in range(CALM):
            self.clock.ms += 10_000
            await self.one.post(sent_at(STREAMS, self.clock.ms))

    async def fault(self, stream: str, at_ms: int, process: int = 0) -> None:
        await self.processes[process].post(sent_at([stream], at_ms, pressure=900.0, flow=3.0))

    async def groups(self) -> dict[str, str]:
        return {one["stream"]: one["group"] for one in await self.one.incidents()}

    async def of_group(self, group: str) -> list[dict[str, Any]]:
        reader = IncidentReader(self.one.store.incidents, self.one.tenant)
        kept = group_store.GroupStore(self.one.store, WEEK_MS)
        found, after = list[dict[str, Any]](), ""
        while True:
            page, next_ = await reader.of_group(kept, group, Search(), after, 7)
            found += page
            if next_ is None:
                return found
            after = next_

    async def close(self) -> None:
        for process in self.processes:
            await process.core.books.settle()
            await process.store.close()


@asynchronous
async def test_incidents_of_a_site_are_one_group_in_the_order_of_their_onset_however_they_come(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """Two processes at once, in any order; the first in time is the group's first though it is found last."""
    sites = Sites(redis_url, tenant, detector)
    await sites.begin()
    cut_ms = sites.clock.ms + 5000
    order = [(stream, cut_ms + 20 * at) for at, stream in enumerate(NORTH)]
    shuffled = random.Random(3).sample(order[1:], len(order) - 1) + order[:1]
    await asyncio.gather(*(sites.fault(stream, at_ms, n % 2) for n, (stream, at_ms) in enumerate(shuffled)))
    groups = await sites.groups()
    assert sorted(groups) == NORTH
    (group,) = set(groups.values())
    members = await sites.of_group(group)
    assert [one["stream"] for one in members] == NORTH
    assert {one["tag"] for one in members} == {"site=north"}
    store = group_store.GroupStore(sites.one.store, WEEK_MS)
    assert await store.first_of([(tenant, group), (tenant, "7.nobody")]) == [f"{CALM}.s000", ""]
    await sites.close()


@asynchronous
async def test_other_sites_other_times_and_streams_without_the_tag_are_groups_of_their_own_or_none(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    sites = Sites(redis_url, tenant, detector)
    await sites.begin()
    now_ms = sites.clock.ms + 1000
    for stream, after_ms in ((NORTH[0], 0), (NORTH[1], 60_000), (NORTH[2], 60_001), (SOUTH[0], 0), (ALONE[0], 0)):
        sites.clock.ms = now_ms + after_ms + 1
        await sites.fault(stream, now_ms + after_ms)
    groups = await sites.groups()
    assert groups[NORTH[0]] == groups[NORTH[1]] == f"{CALM}.s000"
    assert groups[NORTH[2]] == f"{CALM}.s002"
    assert groups[SOUTH[0]] == f"{CALM}.s020"
    assert groups[ALONE[0]] is None
    await sites.close()


@asynchronous
async def test_streams_that_fall_silent_together_are_a_group_without_a_tag_and_one_with_the_faults_of_their_site(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    sites = Sites(redis_url, tenant, detector)
    for _ in range(40):
        sites.clock.ms += 10_000
        await sites.one.post(sent_at(STREAMS, sites.clock.ms))
        await sites.one.look()
    await sites.fault(NORTH[0], sites.clock.ms + 1000)
    for _ in range(40):
        sites.clock.ms += 10_000
        await asyncio.gather(*(process.look() for process in sites.processes))
    found = await sites.one.incidents()
    of_site = {one["group"] for one in found if one["tag"] == "site=north"}
    assert of_site == {"40.s000"}
    assert len([one for one in found if one["group"] == "40.s000"]) == len(NORTH) + 1
    silent = {one["stream"]: one["group"] for one in found if one["tag"] is None}
    assert (sorted(silent), len(set(silent.values()))) == (ALONE, 1)
    await sites.close()


@asynchronous
async def test_where_groups_cannot_be_found_the_incident_is_kept_without(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    sites = Sites(redis_url, tenant, detector)
    await sites.begin()

    async def join(*_: object) -> list[str]:
        raise StoreUnavailable("the node of the groups is away")

    sites.one.groups._store.join = join  # type: ignore[assignment, method-assign]
    await sites.fault(NORTH[0], sites.clock.ms + 1)
    assert await sites.groups() == {NORTH[0]: None}
    await sites.close()


@asynchronous
async def test_a_group_lists_so_many_and_a_tag_has_so_many(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    sites = Sites(redis_url, tenant, detector)
    store = group_store.GroupStore(sites.one.store, WEEK_MS)
    many = [group_store.Joining(f"{n}.s", 0, 10, 5) for n in range(group_store.MOST_MEMBERS + 5)]
    for start in range(0, len(many), 1000):
        assert set(await store.join(tenant, "site=x", many[start : start + 1000])) == {"0.s"}
    assert len(await store.members(tenant, "0.s", 0, len(many))) == group_store.MOST_MEMBERS
    assert await store.first_members(tenant, "0.s", 3) == (["0.s", "1.s", "10.s"], group_store.MOST_MEMBERS)
    assert await store.first_members(tenant, "7.nobody", 3) == ([], 0)
    apart = [group_store.Joining(f"{n}.t", 100 * n, 100 * n + 10, 100 * n) for n in range(group_store.MOST_GROUPS + 5)]
    assert len(set(await store.join(tenant, "site=y", apart))) == len(apart)
    again = await store.join(tenant, "site=y", [one._replace(id="0.new") for one in (apart[0], apart[-1])])
    assert again == ["0.new", apart[-1].id]
    await sites.close()
