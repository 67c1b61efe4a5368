"""Learn a threshold from the scores of normal readings, to a stated false-alarm rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import CalibrationError

Confidence = Literal["high", "low"]

ENOUGH_EXCEEDANCES = 10
"""From so many normal readings above the threshold on, the empirical quantile stands for itself; from so many
independent ones on, it is trusted."""

TAIL_SHARE = 0.1
"""With fewer, the tail above the 90 % quantile is taken as exponential and the threshold read off it."""


@dataclass(frozen=True)
class Threshold:
    """A score above `value` is anomalous.

    Attributes:
        value: in the unit of the scores it was learned from.
        false_alarm_rate: the share of normal readings meant to lie above it.
        confidence: `low` where the readings are worth too few independent ones for the rate asked.
        effective_readings: how many independent readings the calibration readings are worth (they are correlated).
    """

    value: float
    false_alarm_rate: float
    confidence: Confidence
    effective_readings: float


def calibrate(scores: list[NDArray[np.float64]], false_alarm_rate: float) -> Threshold:
    """The threshold that a share of `false_alarm_rate` of normal readings exceeds.

    Where at least ten readings should exceed it, the quantile; else an exponential tail above the 90 % quantile
    (peaks over threshold with shape 0: Pickands 1975). The value is raised by 1 + 2/√n_eff for what so few
    independent readings cannot have shown: a recording of 400 correlated rows has seen few of its own levels.
    Both err towards fewer alarms than asked: 0.03 to 0.3 times the rate with 5,000 readings for 0.001.

    Args:
        scores: one array of shape (N,) for each recording, in order of time: higher is stranger.
        false_alarm_rate: share of normal readings in (0, 0.5].

    Raises:
        CalibrationError: no scores, scores that are not finite, or a rate outside its range.
    """
    if not 0 < false_alarm_rate <= 0.5:
        raise CalibrationError(f"false-alarm rate {false_alarm_rate}; expected a share above 0, at most 0.5")
    pooled = np.concatenate(scores) if scores else np.empty(0)
    if not len(pooled):
        raise CalibrationError("no scores to calibrate on; expected those of held-out normal readings")
    if not np.isfinite(pooled).all():
        raise CalibrationError("scores to calibrate on must be finite; the network's forecasts are not")

    n_eff = sum(effective_readings(recording) for recording in scores)
    if len(pooled) * false_alarm_rate >= ENOUGH_EXCEEDANCES:
        value = float(np.quantile(pooled, 1 - false_alarm_rate))
    else:
        start = float(np.quantile(pooled, 1 - TAIL_SHARE))
        tail = pooled[pooled > start]
        mean_excess = float(np.mean(tail - start)) if len(tail) else 0.0
        value = start + mean_excess * max(0.0, float(np.log(TAIL_SHARE / false_alarm_rate)))
    value *= 1 + 2 / np.sqrt(n_eff)
    confidence: Confidence = "high" if n_eff * false_alarm_rate >= ENOUGH_EXCEEDANCES else "low"
    return Threshold(float(value), false_alarm_rate, confidence, float(n_eff))


def effective_readings(scores: NDArray[np.float64]) -> float:
    """How many independent readings a correlated series is worth: N / (1 + 2 Σ ρ_k).

    The sum runs over the autocorrelations up to the first that is not positive (Geyer 1992), found by FFT.
    """
    n = len(scores)
    centred = scores - scores.mean()
    power = np.fft.rfft(centred, 2 * n)
    correlation = np.fft.irfft(power * np.conj(power))[:n]
    if n < 2 or correlation[0] <= 0:
        return float(max(n, 1))
    correlation = correlation / correlation[0]
    negative = np.flatnonzero(correlation <= 0)
    last = int(negative[0]) if len(negative) else n
    return float(max(1.0, n / (1 + 2 * correlation[1:last].sum())))
