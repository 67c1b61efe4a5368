"""An incident that goes on is written once in a while, and has the same figures as one that is written each time."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents import running
from gatewatch.service.incidents.rules import ChannelGate, Rules, Span
from tests.support.asynchronous import asynchronous
from tests.support.fleets import Asked, Process, SetClock, sent_at
from tests.support.scorer import model_of

STREAMS = ["a", "b", "ruled", "gated"]
RULES = {
    "ruled": Rules(merge=Span(6, None), minimum=Span(2, None)),
    "gated": Rules(gates=(ChannelGate(re.compile("pressure"), absolute=880.0),)),
}
CALM, STRANGE, AFTER = 12, 60, 260


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
    url: str, tenant: str, detector: TrainedDetector, write_s: float, killed: float
) -> tuple[list[dict[str, Any]], int]:
    """Readings of streams that become strange and calm again; each time a process dies with `killed` probability.

    Returns:
        The incidents in the end, and how often one was written.
    """
    clock, asked, drawn, written = SetClock(), Asked(), random.Random(7), 0
    asked.ruled = RULES
    model = model_of(detector, 32, 60_000)

    def process() -> Counted:
        one = Counted(url, tenant, model, clock, asked, incident_write_s=write_s)
        one.count()
        return one

    values = random.Random(5)
    current = process()
    for at in range(CALM + STRANGE + AFTER):
        clock.ms += 100
        if CALM <= at < CALM + STRANGE and at % 7:
            sent = sent_at(STREAMS, clock.ms, pressure=900.0 - values.randrange(60), flow=3.0)
        else:
            sent = sent_at(STREAMS, clock.ms)
        await current.post(sent)
        if drawn.random() < killed:
            written += current.written
            await current.store.close()
            current = process()
    found = await current.incidents()
    written += current.written
    await current.core.books.settle()
    await current.store.close()
    return sorted(found, key=lambda one: str(one["id"])), written


@asynchronous
@pytest.mark.parametrize("killed", [0.0, 0.1, 0.5])
async def test_what_ends_has_the_figures_of_one_that_is_written_with_each_reading(
    redis_url: str, tenant: str, detector: TrainedDetector, killed: float
) -> None:
    exact, each = await _live(redis_url, f"{tenant}-each", detector, 0.0, 0.0)
    found, fewer = await _live(redis_url, f"{tenant}-seldom", detector, 0.5, killed)
    assert found == exact
    assert {one["stream"] for one in exact} == set(STREAMS)
    assert all(one["state"] == "ended" for one in exact)
    if killed < 0.5:
        assert fewer < each * 0.75


@asynchronous
async def test_two_processes_in_turn_have_the_figures_of_one(
    redis_url: str, tenant: str, detector: TrainedDetector
) -> None:
    """Each remembers what was; only a record that it saved itself makes that count."""
    ended = []
    for processes, write_s in ((1, 0.0), (2, 0.3)):
        clock, of, model = SetClock(), f"{tenant}-{processes}", model_of(detector, 32, 60_000)
        some = [Process(redis_url, of, model, clock, Asked(), incident_write_s=write_s) for _ in range(processes)]
        for at in range(CALM + 30 + AFTER):
            clock.ms += 100
            strange = {"pressure": 900.0 - at, "flow": 3.0} if CALM <= at < CALM + 30 else {}
            await some[at // 8 % processes].post(sent_at(["a"], clock.ms, **strange))
        (one,) = await some[-1].incidents()
        ended.append(one)
        for process in some:
            await process.core.books.settle()
            await process.store.close()
    assert ended[0] == ended[1]
    assert (ended[0]["state"], ended[0]["judged"] >= 30) == ("ended", True)


def test_no_more_is_remembered_than_the_bound_and_only_for_the_record_that_was_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "MOST_RUNNING", 2)
    kept = running.RunningIncidents()
    opened: Any = type("Open", (), {"is_open": True})()
    for name in ("a", "b", "c"):
        kept.note([(StreamKey("t", name), running.Running(opened, opened, fence=b"1"))])
    assert [kept.of(StreamKey("t", name), b"1") is not None for name in ("a", "b", "c")] == [False, True, True]
    assert kept.of(StreamKey("t", "c"), b"2") is None
