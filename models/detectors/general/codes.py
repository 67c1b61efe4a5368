"""Values that stand for a missing one: -9999 and its like, far from all that the channel has shown.

They are what loggers and field buses write for a reading that failed: nines only, or the largest number that their
integers hold. One that is FAR spreads from the center of a channel that is known is taken for missing: it is not
judged and teaches nothing, and if it stays, the channel is absent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

_NINES = [10.0**digits - 1 for digits in range(3, 9)]
_INTEGERS = [2.0**bits - 1 for bits in (15, 16, 31, 32)] + [2.0**31, 2.0**32, -(2.0**15), -(2.0**31)]
CODES = np.array(sorted([*_NINES, *(-nines for nines in _NINES), *_INTEGERS]))
"""Among them 2^31 and 2^32, as which a float32 holds the largest integers."""

LEAST_CODE = float(np.abs(CODES).min())

FAR, KNOWN_READINGS = 100.0, 32
"""A meter that reads 990 to 1,010 may read 999."""


def without_codes(values: Float64Array, states: Records) -> Float64Array:
    """(B, C) the values in physical units, NaN in place of codes.

    Args:
        states: (B,) records with models.detectors.general.features.running_fields, before the reading.
    """
    large = np.abs(values) >= LEAST_CODE
    if not np.count_nonzero(large):
        return values
    far = np.abs(values - states["origin"] - states["center"]) > FAR * states["spread"]
    codes = large & far & (states["count"] >= KNOWN_READINGS) & np.isin(values, CODES)
    return np.where(codes, np.nan, values) if np.count_nonzero(codes) else values
