"""Blocks: neighbouring fields of states that have one type and shape, read and written as one array.

A step of one stream is a hundred small numpy operations, each of which costs the same for one field as for eight.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Records = NDArray[Any]


@lru_cache
def _overlay(dtype: np.dtype[Any], first: str, fields: int) -> np.dtype[Any]:
    held: Any = dtype.fields
    kind, offset = held[first][:2]
    block = (kind.base, (fields, *kind.shape))
    return np.dtype({"names": ["block"], "formats": [block], "offsets": [offset], "itemsize": dtype.itemsize})


def block(states: Records, first: str, fields: int) -> NDArray[Any]:
    """(B, fields, ...) so many fields of B states, from `first` on; a view."""
    return np.asarray(states.view(_overlay(states.dtype, first, fields))["block"])


def load(states: Records, first: str, fields: int) -> Floats:
    """(fields, B, ...) what stands in so many fields of B states, from `first` on; a copy."""
    return np.asarray(block(states, first, fields).swapaxes(0, 1).astype(np.float64, order="C"))


def store(states: Records, first: str, loaded: Floats) -> None:
    """Write what `load` gave, changed, back into `states`."""
    block(states, first, len(loaded))[:] = loaded.swapaxes(0, 1)
