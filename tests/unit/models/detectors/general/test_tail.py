"""How rare a size is, by what was counted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.detectors.general.tail import ACCEPTED_READINGS, COUNTERS, count, rarity

YOUNG = np.array([64.0])
LIMIT = np.array([[7.0]])
SEEN, HELD, FREE = np.array([True]), np.array([[True]]), np.array([[False]])


def counted(readings: int) -> NDArray[np.float32]:
    """Counters after so many readings of sizes of a gamma law."""
    counters = np.zeros((1, 1, COUNTERS), np.float32)
    for n, size in enumerate(np.random.default_rng(0).gamma(3, 1 / 3, readings)):
        _, place = rarity(np.array([[size]]), counters, np.array([n]), YOUNG)
        count(place, counters, SEEN, FREE, LIMIT)
    return counters


def nats(size: float, counters: NDArray[np.float32], readings: int = 2000) -> float:
    found, _ = rarity(np.array([[size]]), counters, np.array([readings]), YOUNG)
    return float(found[0, 0])


def test_a_share_that_was_as_large_is_as_rare() -> None:
    sizes, counters = np.random.default_rng(0).gamma(3, 1 / 3, 2000), counted(2000)
    for size in (1.0, 1.5, 2.0):
        assert nats(size, counters) == pytest.approx(-np.log((sizes >= size).mean()), abs=0.2)


def test_larger_is_never_less_rare() -> None:
    counters = counted(500)
    found = [nats(size, counters, 500) for size in np.geomspace(0.06, 50, 100)]
    assert (np.diff(found) >= -1e-9).all()


def test_the_same_size_tells_less_of_a_young_stream() -> None:
    empty = np.zeros((1, 1, COUNTERS), np.float32)
    assert nats(5.0, empty, 8) < nats(5.0, empty, 64) < nats(5.0, empty, 2000)


def test_what_lasts_within_an_incident_is_normal_after_the_stated_readings() -> None:
    counters, rare = counted(2000), []
    for size in np.random.default_rng(1).uniform(6, 8, 3 * int(ACCEPTED_READINGS)):
        found, place = rarity(np.array([[size]]), counters, np.array([2000]), YOUNG)
        rare.append(found[0, 0] > LIMIT[0, 0])
        count(place, counters, SEEN, HELD, LIMIT)
    assert all(rare[: int(0.8 * ACCEPTED_READINGS)])
    assert nats(7.0, counters) < LIMIT[0, 0]


def test_the_first_reading_of_an_incident_counts_as_any_other() -> None:
    counters = counted(2000)
    before = counters.sum()
    _, place = rarity(np.array([[8.0]]), counters, np.array([2000]), YOUNG)
    count(place, counters, SEEN, FREE, LIMIT)
    assert counters.sum() == pytest.approx(before + 1, abs=0.11)
