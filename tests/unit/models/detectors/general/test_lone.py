"""One reading of one stream in numbers says what arrays say of many, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import Records
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector, read_together
from gatewatch.models.detectors.general.lone import read_alone
from gatewatch.models.detectors.general.score import remember_forecasts
from tests.support.samples import START_MS

EVERY_MS = 1_800_000
LIMITS = np.array([[9.0, 9.0]])


@pytest.mark.parametrize("channels", [1, 3, 9])
def test_a_reading_alone_is_judged_and_taken_in_as_in_company(channels: int) -> None:
    """Over ten days with spikes, rests, missing values and a far origin: every state, score and feature."""
    detector = load_detector(model_folder("general"), [f"c{c}" for c in range(channels)])
    assert isinstance(detector, GeneralDetector)
    rng, rows = np.random.default_rng(channels), 480
    values = np.sin(np.arange(rows)[:, None] / (3 + np.arange(channels))) + rng.normal(0, 0.1, (rows, channels))
    values += np.where(np.arange(channels) % 2, 1e6, 0.0) + np.linspace(0, 30, rows)[:, None]
    values[rng.integers(50, rows, 20), rng.integers(0, channels, 20)] += rng.normal(0, 3, 20)
    values[rng.integers(0, rows, 10), 0] = np.nan
    values[200:215, -1] = values[200, -1]
    states, alone = detector.initial(1), 0
    for row in range(rows):
        now = np.array([START_MS + row * EVERY_MS])
        seen = (values[row : row + 1], now, np.array([EVERY_MS if row else -1]))
        readings, by_numbers, untouched = np.array([row]), states.copy(), states.copy()
        found = read_alone(*seen, by_numbers, readings, LIMITS)
        expected = read_together(*seen, states, readings, LIMITS, np.array([False]), None)
        if found is None:
            assert by_numbers.tobytes() == untouched.tobytes()
        else:
            alone += 1
            assert_same(by_numbers, states)
            for here, there in ((found.mid, expected.mid), (found.usual, expected.usual)):
                assert here.tobytes() == there.tobytes()
            assert found.features.tobytes() == expected.features.tobytes()
            for name in ("score", "reason", "attribution", "parts", "missed", "signals"):
                here, there = np.asarray(getattr(found.judged, name)), np.asarray(getattr(expected.judged, name))
                assert (here.dtype, here.shape, (here == there).all()) == (there.dtype, there.shape, True), name
        noise = rng.normal(0, 0.2, (1, channels, 4))
        remember_forecasts(states, (states["last"] - states["origin"])[..., None] + noise, readings)
    assert alone > rows / 2


def assert_same(one: Records, other: Records) -> None:
    """Field by field: a zero may have either sign."""
    for name in one.dtype.names or ():
        assert np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f"), name
