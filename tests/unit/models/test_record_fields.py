"""Fields of states that are read and written together."""

from __future__ import annotations

import numpy as np

from gatewatch.models.record_fields import Records, load, store

STATES = np.dtype([("before", "u1"), ("low", "<f4", (3,)), ("high", "<f4", (3,)), ("seen", "<u4"), ("after", "<f8")])


def some() -> Records:
    """(2,) states, not aligned in memory, each field other than the next."""
    states = np.zeros(2, [("head", "u1"), ("state", STATES)])["state"]
    states["low"], states["high"], states["seen"] = [[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]], [13, 14]
    states["before"], states["after"] = 15, 16
    return states


def test_neighbouring_fields_come_as_one_array_in_their_order() -> None:
    states = some()
    low, high = load(states, "low", 2)
    np.testing.assert_array_equal(low, states["low"])
    np.testing.assert_array_equal(high, states["high"])
    np.testing.assert_array_equal(load(states, "seen", 1), [[13, 14]])


def test_what_is_stored_changes_its_fields_and_no_other() -> None:
    states = some()
    store(states, "low", load(states, "low", 2) + 100)
    expected = some()
    expected["low"] += 100
    expected["high"] += 100
    assert states.tobytes() == expected.tobytes()
