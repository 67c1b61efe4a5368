"""Jumps: single readings far from what was expected, by each channel's own tail and by what the stream has counted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.general.jumps import SETTLING_READINGS, begin_jumps, jump_fields, jump_nats
from gatewatch.models.detectors.general.tail import COUNTERS, TAIL_READINGS, count, jump_rarity
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from tests.support.samples import START_MS

DAY = 288
Records = NDArray[np.void]


def fresh(channels: int) -> Records:
    dtype = [*jump_fields(channels), ("misses", "<u4", (channels, 5)), ("moves", "u1", (channels,))]
    states = np.zeros(1, dtype)
    begin_jumps(states)
    states["moves"] = 9
    return states


def learned(sizes: NDArray[np.float64]) -> Records:
    """The state after (N, C) sizes."""
    states = fresh(sizes.shape[1])
    for size in sizes:
        jump_nats(size[None], np.ones((1, len(size)), bool), states)
        states["misses"] += 1
    return states


def nats(size: float, states: Records) -> NDArray[np.float64]:
    channels = states["moves"].shape[1]
    return np.asarray(jump_nats(np.full((1, channels), size), np.ones((1, channels), bool), states.copy())[0])


def test_a_jump_tells_more_of_a_channel_that_never_jumped() -> None:
    rng = np.random.default_rng(0)
    calm, wild = np.abs(rng.normal(size=5000)), np.abs(rng.standard_t(1.5, 5000))
    found = nats(20.0, learned(np.stack([calm, wild], axis=1)))
    assert found[0] > 15
    assert found[1] < 6


@pytest.mark.parametrize("degrees", [2.0, 4.0, 50.0])
def test_the_nats_of_a_jump_say_how_rare_it_is(degrees: float) -> None:
    sizes = np.abs(np.random.default_rng(1).standard_t(degrees, 40_000))
    states = learned(sizes[:20_000, None])
    for rare in (1e-3, 2e-4):
        size = float(np.quantile(sizes[20_000:], 1 - rare))
        assert nats(size, states)[0] == pytest.approx(-np.log(rare), abs=1.5)


def test_a_channel_tells_of_no_jump_before_it_is_known() -> None:
    sizes = np.abs(np.random.default_rng(2).normal(size=(SETTLING_READINGS, 1)))
    assert nats(50.0, learned(sizes[:-1]))[0] == 0
    assert nats(50.0, learned(sizes))[0] > 5


def test_one_wild_jump_teaches_a_channel_little() -> None:
    sizes = np.abs(np.random.default_rng(3).normal(size=(3000, 1)))
    before = nats(20.0, learned(sizes))[0]
    sizes[-1] = 1e5
    assert nats(20.0, learned(sizes))[0] > 0.7 * before


def test_jumps_that_were_counted_are_as_rare_as_they_came() -> None:
    sizes, counters = np.random.default_rng(4).exponential(1, 5000) - 3, np.zeros((1, 1, COUNTERS), np.float32)
    for size in np.maximum(sizes, 0):
        found, place = jump_rarity(np.array([size]), counters[:, 0])
        if (counters[0, 0, 1:] > 0).sum() < TAIL_READINGS / 4:
            assert found[0] == 0  # too few to tell
        count(place[:, None], counters, np.array([True]), np.array([[False]]), np.array([[7.0]]))
    for level in (0.5, 1.5, 3.0, 6.0):
        found, _ = jump_rarity(np.array([level]), counters[:, 0])
        assert found[0] == pytest.approx(level + 3, abs=0.7)


def test_a_jump_inside_the_range_of_a_smooth_curve_alerts() -> None:
    rng = np.random.default_rng(5)
    smooth = np.sin(2 * np.pi * np.arange(9 * DAY) / DAY) + 0.01 * rng.normal(size=9 * DAY)
    jumps = [7 * DAY + 40, 8 * DAY + 60]
    smooth[jumps] -= 0.5
    found = scan(
        load_detector(model_folder("general"), ["x"]),
        Recording("s", ("x",), START_MS + 300_000 * np.arange(len(smooth)), smooth[:, None].astype(np.float32)),
    )
    assert found.alert[jumps].all()
    assert found.alert.sum() <= 3
