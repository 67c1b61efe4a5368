"""What several tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import Scanner
from gatewatch.models.detectors.general.features import PLACES


def of_version_1(detector: Scanner, states: NDArray[Any]) -> NDArray[Any]:
    """The states as the version before would have written them."""
    old = np.zeros(len(states), detector.state_dtype_1)
    for name in old.dtype.names or ():
        if name == "stuck":
            continue
        values = states["last_ms" if name == "shown_ms" else name]
        if name in PLACES and "origin" in (states.dtype.names or ()):
            origins = states["origin"]
            values = values + (origins if values.ndim == 2 else origins[..., None])
        old[name] = values
    return old
