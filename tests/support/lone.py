"""One stream's readings, taken in alone and as in company."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.models.detectors.trained.detector import TrainedDetector


def require_alike(
    detector: GeneralDetector | TrainedDetector, values: NDArray[np.float64], times_ms: NDArray[np.int64]
) -> tuple[int, int]:
    """Hold `advance_alone` to `advance_together` over (T, C) readings.

    Returns:
        How many were taken alone, and how many were anomalous by their score.
    """
    states, alone, anomalous = detector.initial(1), 0, 0
    for row in range(len(values)):
        seen = (values[row : row + 1], times_ms[row : row + 1])
        by_numbers, before = states.copy(), states.copy()
        found, expected = detector.advance_alone(*seen, by_numbers), detector.advance_together(*seen, states)
        anomalous += int(expected.score[0] > 1)
        if found is None:
            assert by_numbers.tobytes() == before.tobytes()
            continue
        alone += 1
        for name in (field.name for field in dataclasses.fields(expected) if field.name != "states"):
            here, there = getattr(found, name), getattr(expected, name)
            assert (here.dtype, here.tobytes()) == (there.dtype, there.tobytes()), (row, name)
        for name in states.dtype.names or ():
            assert np.array_equal(by_numbers[name], states[name], equal_nan=states[name].dtype.kind == "f"), (row, name)
    return alone, anomalous
