"""States of streams when channels change, and those that an earlier version wrote."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from tests.support.samples import START_MS
from tests.support.states import of_version_1

ROWS, CUT = 800, 400


def general(*channels: str) -> GeneralDetector:
    detector = load_detector(model_folder("general"), channels)
    assert isinstance(detector, GeneralDetector)
    return detector


def recording(*channels: str) -> Recording:
    """Each channel is the same whatever the others are; an hour is a day's share of 12 readings."""
    columns = [np.random.default_rng(ord(name)).normal(1000 * ord(name), 3, ROWS) for name in channels]
    times = START_MS + 300_000 * np.arange(ROWS)
    return Recording("s", channels, times, np.stack(columns, axis=1).astype(np.float32))


def test_channels_in_another_order_go_on_as_if_nothing_had_happened() -> None:
    before, after = general("a", "b", "c"), general("c", "a", "b")
    states = scan(before, recording("a", "b", "c").rows(0, CUT)).states
    gone_on = scan(after, recording("c", "a", "b").rows(CUT), after.rearranged(states, before.channels))
    unbroken = scan(before, recording("a", "b", "c").rows(CUT), states)
    np.testing.assert_array_equal(gone_on.score, unbroken.score)
    np.testing.assert_array_equal(gone_on.expected, unbroken.expected[:, [2, 0, 1]])


def test_a_new_channel_begins_afresh_and_the_others_go_on() -> None:
    before, after = general("a", "b"), general("b", "new")
    states = scan(before, recording("a", "b").rows(0, CUT)).states
    rearranged = after.rearranged(states, before.channels)
    assert rearranged["readings"] == CUT
    one, two = before.dtype_of(1), before.dtype_of(2)
    for name in one.names or ():
        if one[name] != two[name]:
            np.testing.assert_array_equal(rearranged[name][:, 0], states[name][:, 1])
            np.testing.assert_array_equal(rearranged[name][:, 1], after.initial(1)[name][:, 1])
        else:
            np.testing.assert_array_equal(rearranged[name], states[name])


def test_a_models_identity_does_not_depend_on_the_channels_it_watches() -> None:
    assert general("a").digest == general("b", "c").digest


def test_general_states_of_the_version_before_are_taken_over() -> None:
    detector, whole = general("a", "b"), recording("a", "b")
    states = scan(detector, whole.rows(0, CUT)).states
    taken = scan(detector, whole.rows(CUT), detector.from_version_1(of_version_1(detector, states)))
    unbroken = scan(detector, whole.rows(CUT), states)
    np.testing.assert_allclose(taken.score, unbroken.score, atol=0.15)  # what the table misses is not the same
    assert (taken.status == unbroken.status).all()


def test_trained_states_of_the_version_before_are_taken_over(detector: TrainedDetector) -> None:
    states = detector.initial(1)
    for row in range(20):
        states = detector.step(np.array([[3.1, 2.0 + row % 3]]), np.array([START_MS + 60_000 * row]), states).states
    taken = detector.from_version_1(of_version_1(detector, states))
    assert taken.dtype == detector.state_dtype
    for name in taken.dtype.names or ():
        assert taken[name] == pytest.approx(states[name], rel=1e-6), name


def test_fresh_states_of_the_version_before_stay_fresh() -> None:
    detector = general("a")
    fresh = detector.from_version_1(of_version_1(detector, detector.initial(2)))
    assert fresh.tobytes() == detector.initial(2).tobytes()
