"""How long each channel is known: one that joins an old stream is young, whatever its stream has seen.

A state does not say when a channel came, only how many values it has, and its longest absence since its first one. One
that was there all the time has as many readings in these two as any other, but for absences besides the longest.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.alert_budget import young_thresholds

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

AS_OLD, BEHIND = 0.75, 16
"""A channel is young that is known for less than this share of the readings of another, and for so many fewer. One that
begins after n readings counts as old after 3n more; one that lacks every fifth value at random is never young."""


class Youth(NamedTuple):
    """Of streams some of whose channels are younger than they are.

    Attributes:
        young: (B, C) which.
        readings: (B, C) that each channel is known for; of one that is not young, those of its stream.
        known: (B, C) the share of its stream's life that it is known for, 1 of one that is not young.
        threshold: (B, C, 2) T in nats by that, of what is counted and of `range`.
    """

    young: NDArray[np.bool_]
    readings: NDArray[np.integer[Any]]
    known: Float64Array
    threshold: Float64Array


def youth_of(states: Records, readings: NDArray[np.integer[Any]], threshold: Float64Array) -> Youth | None:
    """Which channels are young, before a reading; None where none is, as in all streams of one channel.

    Args:
        states: (B,) of the general detector.
        readings: (B,) that each stream has seen.
        threshold: (B,) T of old streams.
    """
    count = states["count"]
    if count.shape[1] == 1:
        return None
    here = count + np.maximum(states["absent"], states["longest_absent"]) * (count > 0)
    most = np.maximum.reduce(here, 1, keepdims=True)
    young = here + BEHIND < AS_OLD * most
    if not np.count_nonzero(young):
        return None
    known_for = np.where(young, here, readings[:, None])
    share = np.where(young, here / np.maximum(most, 1), 1.0)
    return Youth(young, known_for, share, young_thresholds(threshold[:, None], known_for))
