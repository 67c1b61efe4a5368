"""One reading of one stream in numbers says what arrays say of many, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from tests.support.lone import require_alike
from tests.support.samples import START_MS

EVERY_MS = 1_800_000


@pytest.mark.parametrize("channels", [1, 3, 9])
def test_a_reading_alone_is_judged_and_taken_in_as_in_company(channels: int) -> None:
    """Ten days: spikes, rests, whole numbers, a constant, missing values, a code, a far origin, a clock that steps."""
    detector = load_detector(model_folder("general"), [f"c{c}" for c in range(channels)])
    assert isinstance(detector, GeneralDetector)
    rng, rows = np.random.default_rng(channels), 480
    values = np.sin(np.arange(rows)[:, None] / (3 + np.arange(channels))) + rng.normal(0, 0.1, (rows, channels))
    values += np.where(np.arange(channels) % 2, 1e6, 0.0) + np.linspace(0, 30, rows)[:, None]
    values[rng.integers(50, rows, 20), rng.integers(0, channels, 20)] += rng.normal(0, 3, 20)
    values[rng.integers(0, rows, 10), 0] = np.nan
    values[200:215, -1], values[300, 0] = values[200, -1], -9999.0
    values[:, 1:2], values[:, 2:3] = np.round(values[:, 1:2]), 3.0
    times = START_MS + EVERY_MS * np.arange(rows)
    times[400:] += 10 * EVERY_MS
    times[420] -= 30 * EVERY_MS
    alone, _ = require_alike(detector, values, times)
    assert alone > 0.7 * rows
