"""What several tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import Scanner
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.models.detectors.general.features import PLACES


def of_version_1(detector: Scanner, states: NDArray[Any]) -> NDArray[Any]:
    """The states as the version before would have written them; a trained one's with no level accepted yet."""
    old = np.zeros(len(states), detector.state_dtype_1)
    for name in old.dtype.names or ():
        if name in ("stuck", "accepted"):
            continue
        values = states["last_ms" if name == "shown_ms" else name]
        if name in PLACES and "origin" in (states.dtype.names or ()):
            origins = states["origin"]
            values = values + origins.reshape(*origins.shape, *[1] * (values.ndim - 2))
        if name in ("table", "visits"):
            values = values[:, :, 0]  # of every day
        if name == "counted":
            values = values[:, : old[name].shape[1]]  # jumps were not counted
        old[name] = values
    return old


def without_shape(detector: GeneralDetector, states: NDArray[Any]) -> NDArray[Any]:
    """The states as a version before `shape` would have written them."""
    old = np.zeros(len(states), detector.dtype_without_shape(len(detector.channels)))
    for name in old.dtype.names or ():
        old[name] = states[name][:, [0, 1, 2, 4]] if name == "counted" else states[name]
    return old
