"""Asked: what people ask of the streams of a batch, beyond what their model was calibrated for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.budget_loop import LEAST
from gatewatch.models.detectors.detector import Floats, Records


@dataclass(frozen=True)
class Asked:
    """Of B streams. What is not asked is 1, NaN or False.

    Attributes:
        sensitivity: (B,) factors on the scores, before anything is said of them.
        false_alarm_rate: (B,) share of normal readings that may be judged anomalous.
        alerts_per_week: (B,) alerts of a stream that are allowed.
        ignored: (B, C) channels that are not looked at, as if they were missing, which is not counted either.
        held: (B,) alerts a week near which another factor on the scores is to hold the stream, see budget_loop.py; NaN
            where none does. Detectors know nothing of it: who keeps the factors multiplies `sensitivity`.
        least: (B,) the lowest that this factor may be.
    """

    sensitivity: Floats
    false_alarm_rate: Floats
    alerts_per_week: Floats
    ignored: NDArray[np.bool_]
    held: Floats
    least: Floats

    def at(self, rows: Sequence[int] | NDArray[np.integer]) -> Self:
        """That of some of the streams."""
        return type(self)(**{name: column[rows] for name, column in vars(self).items()})

    def of_channels(self, places: NDArray[np.integer]) -> Self:
        """The same for some of the channels."""
        return replace(self, ignored=self.ignored[:, places])

    def seen(self, values: Floats) -> Floats:
        """(B, C) values, NaN where they are ignored."""
        return np.where(self.ignored, np.nan, values) if self.ignored.any() else values

    def forget_runs(self, states: Records) -> None:
        """Count neither standing still nor being absent of what is ignored; `states` have `still` and `absent`."""
        if self.ignored.any():
            for name in ("still", "absent"):
                states[name] *= ~self.ignored


Words = dict[str, float | list[bool] | None]
"""What is asked of one stream, as JSON has it."""

_NUMBERS = ("sensitivity", "false_alarm_rate", "alerts_per_week")
_OF_LOOP = {"held": None, "least": LEAST}
_NOTHING: Words = {"sensitivity": 1.0, "false_alarm_rate": None, "alerts_per_week": None}


def words(asked: Asked | None, row: int = 0) -> Words:
    """What is asked of one stream; empty where that is nothing."""
    if asked is None:
        return {}
    numbers = [(name, float(getattr(asked, name)[row])) for name in _NUMBERS]
    said: Words = {name: None if math.isnan(number) else number for name, number in numbers}
    ignored = asked.ignored[row].tolist()
    if np.isfinite(asked.held[row]):
        said |= {name: float(getattr(asked, name)[row]) for name in _OF_LOOP}
    return {} if said == _NOTHING and not any(ignored) else {**said, "ignored": ignored}


def of_words(said: Words) -> Asked | None:
    """What `words` were made of. Raises KeyError, TypeError, ValueError for what is none."""
    if not said:
        return None
    sensitivity, rate, alerts = (np.array([said[name]], np.float64) for name in _NUMBERS)  # None becomes NaN
    held, least = (np.array([said.get(name, otherwise)], np.float64) for name, otherwise in _OF_LOOP.items())
    return Asked(sensitivity, rate, alerts, np.array([said["ignored"]], bool), held, least)


def nothing_asked(streams: int, channels: int) -> Asked:
    """What stands for streams of which nothing is asked, beside some of which something is."""
    nan = np.full(streams, np.nan)
    return Asked(np.ones(streams), nan, nan, np.zeros((streams, channels), bool), nan, np.full(streams, LEAST))


def together(asked: Sequence[Asked | None], channels: int) -> Asked | None:
    """That of streams one by one, as one of all; None where nothing is asked of any."""
    if not any(asked):
        return None
    each = [nothing_asked(1, channels) if one is None else one for one in asked]
    return Asked(**{name: np.concatenate([getattr(one, name) for one in each]) for name in vars(each[0])})
