"""Operands: a rule written once, for arrays of many streams and for the numbers of one.

A numpy operation on one number costs as much as on fifty; on a Python number it costs a tenth, and gives the same bits.
So what a rule does for each stream, not for each of its channels, is written with these functions, and takes either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Functions(NamedTuple):
    """What rules need besides + - * / and comparisons, which round alike for arrays and for numbers."""

    root: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    log: Callable[[Any], Any]
    smaller: Callable[[Any, Any], Any]
    larger: Callable[[Any, Any], Any]
    where: Callable[[Any, Any, Any], Any]
    log1p: Callable[[Any], Any]
    some: Callable[[Any], Any]
    every: Callable[[Any], bool]


ARRAYS = Functions(
    np.sqrt,
    np.exp,
    np.log,
    np.minimum,
    np.maximum,
    np.where,
    np.log1p,
    np.count_nonzero,
    lambda conditions: np.count_nonzero(conditions) == conditions.size,
)
NUMBERS = Functions(
    math.sqrt,
    lambda power: np.exp(power).item(),  # numpy's, whose last bit is not that of math.exp
    lambda number: np.log(number).item(),
    min,
    max,
    lambda condition, yes, no: yes if condition else no,
    lambda number: np.log1p(number).item(),
    bool,
    bool,
)


def operands(*of: NDArray[Any]) -> tuple[Functions, list[Any]]:
    """What B streams are reckoned with, in float64: arrays (B, ...), or the numbers of one stream."""
    if len(of[0]) == 1:
        return NUMBERS, [float(each.item()) for each in of]
    return ARRAYS, [each.astype(np.float64) for each in of]
