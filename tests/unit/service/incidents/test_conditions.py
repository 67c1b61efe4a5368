"""Streams of little use are listed with the reason, and those that are as they should be are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.layout import entry_dtype
from gatewatch.service.incidents import conditions
from gatewatch.service.incidents.conditions import LEAST_READINGS, NOISY, Condition, Conditions, of_history
from gatewatch.service.storage.incident_store import Listed
from tests.support.asynchronous import asynchronous
from tests.support.fleets import Asked, Process, SetClock, sent_at
from tests.support.scorer import model_of

NAN = float("nan")
MOVES = [3 + 0.1 * (at % 7) for at in range(60)]


def shown(*columns: list[float]) -> dict[str, tuple[str, int]]:
    """Channel to condition and since when, of readings a second apart."""
    kept = np.zeros(len(columns[0]), entry_dtype(len(columns)))
    kept["values"], kept["timestamp_ms"] = np.array(columns).T, 1000 * np.arange(len(kept))
    names = [f"c{at}" for at in range(len(columns))]
    return {str(one.channel): (one.condition, one.since_ms) for one in of_history(kept, names)}


def test_a_channel_that_moves_or_rests_for_a_moment_has_no_condition() -> None:
    assert shown(MOVES, [*MOVES[:-LEAST_READINGS], *[3.0] * (LEAST_READINGS - 1), 4.0]) == {}
    assert shown([3.0] * (LEAST_READINGS - 1)) == {}
    assert shown([*MOVES[: 61 - LEAST_READINGS], *[NAN] * (LEAST_READINGS - 1)]) == {}


def test_stuck_constant_and_absent_channels_are_told_apart_and_say_since_when() -> None:
    stuck = [*MOVES[:20], *[9.0] * 40]
    assert shown(stuck, [3.0] * 60, [*MOVES[:20], *[NAN] * 40], MOVES) == {
        "c0": ("stuck", 20_000), "c1": ("constant", 0), "c2": ("absent", 20_000),
    }  # fmt: skip
    gaps = [value if at % 2 else NAN for at, value in enumerate(stuck)]
    assert shown(gaps, [NAN] * 60) == {"c1": ("absent", 0)}


@asynchronous
async def test_each_kind_is_found_page_by_page_and_muted_streams_are_marked(
    redis_url: str, tenant: str, detector: TrainedDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "CHUNK", 3)
    monkeypatch.setattr(conditions, "SCANNED", 6)
    clock, asked = SetClock(), Asked()
    process = Process(redis_url, tenant, model_of(detector, 64, 60_000), clock, asked)
    asked.muted = {"stuck"}
    fine = [f"fine-{at}" for at in range(9)]
    for at in range(70):
        clock.ms += 10_000
        going = [*fine, "noisy"] if at > 45 else [*fine, "noisy", "silent"]
        await process.post(sent_at(going, clock.ms))
        await process.post(sent_at(["stuck"], clock.ms, pressure=3.0 + at / 100 * (at < 30), flow=3.0 + at % 7 / 50))
        await process.look()
    listed = Conditions(process.store, process.silences, asked, clock)

    async def every(condition: Condition | None, match: str = "") -> list[dict[str, Any]]:
        found, after = list[dict[str, Any]](), ""
        while True:
            page, next_ = await listed.page(tenant, condition, match, after, 2)
            found += page
            if next_ is None:
                return found
            after = next_

    noisy = [Listed(clock.ms, b"%d.noisy" % n) for n in range(NOISY)]
    real = process.store.incidents.listed

    async def many(*arguments: Any) -> list[Listed]:
        return [*noisy, *await real(*arguments)]

    process.store.incidents.listed = many  # type: ignore[assignment, method-assign]
    found = {(one["stream"], one["condition"], one["channel"], one["muted"]) for one in await every(None)}
    assert found == {
        ("noisy", "noisy", None, False),
        ("silent", "silent", None, False),
        ("stuck", "stuck", "pressure", True),
    }
    (stuck,) = await every("stuck")
    assert stuck["reason"] == "pressure moved, and has been 3 for 40 readings"
    assert [one["stream"] for one in await every("silent")] == ["silent"]
    assert await every(None, "fine-*") == []
    await process.core.books.settle()
    await process.store.close()
