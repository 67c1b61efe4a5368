"""An incident that goes on is written once in a while, and has the same figures as one that is written each time."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import pytest

from gatewatch.models.detectors.incidents import OPEN_READINGS
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents import incident, running
from gatewatch.service.incidents.rules import ChannelGate, Rules, Span
from tests.support.asynchronous import asynchronous
from tests.support.fleets import Asked, Process, SetClock, sent_at
from tests.support.scorer import model_of

STREAMS = ["a", "ruled", "gated", "merged"]
RULES = {
    "ruled": Rules(merge=Span(6, None), minimum=Span(2, None)),
    "gated": Rules(gates=(ChannelGate(re.compile("pressure"), absolute=880.0),)),
    "merged": Rules(
        gates=(ChannelGate(re.compile("pressure"), absolute=870.0, high=890.0),),
        merge=Span(None, 2.0),
        minimum=Span(None, 0.3),
        cool_off=Span(None, 8.0),
    ),
}
CALM, STRANGE, AFTER = 12, 60, 90
PART = 20
"""Most readings of a stream in one batch."""
COUNTS, GATED = 900.0, 860.0
"""Pressures that no gate is closed on, and that one is."""


class Counted(Process):
    """A process that counts the incidents that it writes."""

    written = 0

    def count(self) -> None:
        send = self.core.scorer._incidents.writes

        async def writes(*arguments: Any) -> Any:
            made = await send(*arguments)
            self.written += len(made)
            return made

        self.core.scorer._incidents.writes = writes  # type: ignore[method-assign, assignment]


async def _live(
    url: str,
    tenant: str,
    detector: TrainedDetector,
    write_s: float,
    processes: int = 1,
    killed: float = 0.0,
) -> tuple[list[dict[str, Any]], int]:
    """Readings of streams that become strange and calm again, in batches of any size.

    Args:
        processes: that have the batches in turn, some in a row each.
        killed: how likely the process that had a batch dies after it, and another begins.

    Returns:
        The incidents in the end, and how often one was written.
    """
    clock, asked, turns, written = SetClock(), Asked(), random.Random(7), 0
    asked.ruled = RULES
    model = model_of(detector, 128, 60_000)

    def process() -> Counted:
        one = Counted(url, tenant, model, clock, asked, incident_write_s=write_s)
        one.count()
        return one

    values = random.Random(3)
    running, turn, at = [process() for _ in range(processes)], 0, 0
    while at < CALM + STRANGE + AFTER:
        sent: list[dict[str, Any]] = []
        for _ in range(values.choice([1, 1, 1, 2, 5, PART])):
            clock.ms += 100
            if CALM <= at < CALM + STRANGE and values.random() < 0.85 and at % 30 < 25:
                sent += sent_at(STREAMS, clock.ms, pressure=900.0 - values.randrange(60), flow=3.0)
            else:
                sent += sent_at(STREAMS, clock.ms)
            at += 1
        await running[turn].post(sent)
        if turns.random() < killed:
            written += running[turn].written
            await running[turn].store.close()
            running[turn] = process()
        if turns.random() < 0.2:
            turn = (turn + 1) % processes
    found = await running[turn].incidents()
    for one in running:
        written += one.written
        await one.core.books.settle()
        await one.store.close()
    return sorted(found, key=lambda one: str(one["id"])), written


@asynchronous
async def test_what_ends_has_the_figures_of_one_that_is_written_with_each_reading(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """Whatever processes die, or have the stream in turn; each counts what it remembers only for what it saved."""
    exact, each = await _live(redis_url, f"{tenant}-each", detector, 0.0)
    assert {one["stream"] for one in exact} == set(STREAMS)
    assert all(one["state"] == "ended" for one in exact)
    for name, processes, write_s, killed in (("one", 1, 0.5, 0.0), ("turns", 3, 1.0, 0.0), ("killed", 2, 10.0, 0.2)):
        found, fewer = await _live(redis_url, f"{tenant}-{name}", detector, write_s, processes, killed)
        assert found == exact, name
        assert processes > 1 or fewer < each


@asynchronous
async def test_one_that_ends_and_goes_on_in_one_batch_has_those_figures_too(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """What a gate closed on while it had ended is not counted, by a process that only reads of it either."""
    ended = []
    for processes, write_s in ((1, 0.0), (2, 0.5)):
        clock, asked, of = SetClock(), Asked(), f"{tenant}-{processes}"
        asked.ruled, model = RULES, model_of(detector, 128, 60_000)
        some = [Process(redis_url, of, model, clock, asked, incident_write_s=write_s) for _ in range(processes)]

        async def post(process: Process, pressures: Sequence[float | None], clock: SetClock = clock) -> None:
            """Readings of one batch; the clock goes on after it."""
            sent: list[dict[str, Any]] = []
            for at, pressure in enumerate(pressures, 1):
                values = {} if pressure is None else {"pressure": pressure, "flow": 3.0}
                sent += sent_at(["gated"], clock.ms + 100 * at, **values)
            await process.post(sent)
            clock.ms += 100 * len(pressures)

        await post(some[0], [None] * CALM)
        for at in range(PART):
            await post(some[0], [GATED if at == 3 else COUNTS])
        await post(some[0], [GATED] * (OPEN_READINGS + 4) + [COUNTS])
        assert [one["state"] for one in await some[0].incidents()] == ["open"]
        await post(some[-1], [None] * AFTER)
        ended.append(await some[-1].incidents())
        for process in some:
            await process.core.books.settle()
            await process.store.close()
    assert ended[0] == ended[1]
    assert [one["state"] for one in ended[0]] == ["ended"]


@asynchronous
async def test_who_goes_by_the_figures_of_one_that_is_written_late_has_them_as_they_are(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """Whoever labels or closes it, from another process too; a late reading is put into its place by them, too."""
    clock, model = SetClock(), model_of(detector, 128, 60_000)
    some = [Process(redis_url, tenant, model, clock, Asked(), incident_write_s=10.0) for _ in range(2)]
    for at in range(CALM + 12):
        clock.ms += 2000
        strange = {"pressure": 900.0 + at, "flow": 3.0} if at >= CALM else {}
        await some[0].post(sent_at(["a"], clock.ms, **strange))
    await some[1].post(sent_at(["b"], clock.ms))
    key = StreamKey(tenant, "a")
    (kept,) = await some[1].store.latest_incidents([key])
    written = incident.decode(kept)
    assert written is not None
    assert written.judged < 12
    for process in some:
        found = await process.core.current.of(key, written)
        assert (found.judged, found.anomalous, found.last_ms) == (12, 12, clock.ms)
        assert found.peak_score > written.peak_score
    for process in some:
        await process.core.books.settle()
        await process.store.close()


@asynchronous
async def test_what_waited_is_written_though_nothing_more_of_it_comes(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """Calm readings within `merge` change nothing of an incident; what it came to before is written with them."""
    clock, asked, key = SetClock(), Asked(), StreamKey(tenant, "a")
    asked.ruled = {"a": Rules(merge=Span(1000, None))}
    process = Process(redis_url, tenant, model_of(detector, 128, 60_000), clock, asked, incident_write_s=10.0)

    async def post(pressures: Sequence[float | None]) -> None:
        sent: list[dict[str, Any]] = []
        for pressure in pressures:
            clock.ms += 100
            sent += sent_at(["a"], clock.ms, **({} if pressure is None else {"pressure": pressure, "flow": 3.0}))
        await process.post(sent)

    async def written() -> incident.Incident:
        (kept,) = await process.store.latest_incidents([key])
        found = incident.decode(kept)
        assert found is not None
        return found

    await post([None] * CALM)
    for _ in range(3):
        clock.ms += 10_000
        await post([900.0])
    await post([900.0] * 10 + [None] * (OPEN_READINGS + 10))
    lagging = await written()
    exact = await process.core.current.of(key, lagging)
    assert lagging.anomalous < exact.anomalous
    clock.ms += 10_000
    await post([None])
    found = await written()
    assert (found.is_open, found.anomalous, found.last_n) == (True, exact.anomalous, exact.last_n)
    await post([None])
    assert (await written()).seen == found.seen
    await process.core.books.settle()
    await process.store.close()


def test_no_more_is_remembered_than_the_bound_and_only_for_the_record_that_was_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "MOST_RUNNING", 2)
    kept = running.RunningIncidents()
    opened: Any = type("Open", (), {"is_open": True})()
    records = [bytes([at]) * 100 for at in range(3)]
    for name, record in zip("abc", records, strict=True):
        kept.note(StreamKey("t", name), record, running.Running(opened, opened))
    found = [kept.of(StreamKey("t", name), record) for name, record in zip("abc", records, strict=True)]
    assert [one is not None for one in found] == [False, True, True]
    assert kept.of(StreamKey("t", "c"), records[2][:-1] + b"0") is None
