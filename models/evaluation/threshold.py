"""From the scores of normal recordings to a threshold: what recurs in them raises it, what they show once does not.

A `Tail` is what recordings showed of large scores: at each of some levels the share of readings above it, and in how
many incidents these came. It is small, and a part of the artefact, so that another rate needs no training.

    rate asked for        share of readings (`threshold`), or incidents a reading (`threshold_by_incidents`)
    met by 4 incidents    the level is read off
    met by fewer          u + S((p/q)^(1/d) - 1),  of the k = d + 1 incidents above the level u, reached by a share p:
                          S the sum of their peaks above u, q the rate asked for

The second is what exponential peaks predict of the next one if their scale is known from d of them alone (a Lomax
tail; peaks over threshold, Davison & Smith 1990). It errs towards fewer alarms, the more the fewer there were. So few
recordings are not believed to have a tail that falls by e in less than `least_scale` either.

Scores of a slow signal come above a level again and again by one excursion. Where independent incidents are asked for,
those of a kind lie as many readings apart as one independent reading takes.

Recordings may hold a fault. So their rows are cut into BLOCKS, and a score counts no higher than a second block had
one of its kind, of the same channel: a nightly shutdown is normal, one outage is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Calibration, Manifest, TailTable
from gatewatch.models.errors import CalibrationError

Confidence = Literal["high", "low"]
Floats = NDArray[np.float64]

BLOCKS = 10

APART = 10
"""Scores above a level with fewer readings between them are one incident."""

READ_OFF, TRUSTED = 4, 10
"""Incidents above a level from which on it is read off, and those from which on it is extrapolated; and trusted."""

LARGEST_SHARE = 0.5
LEVELS_A_DECADE = 16

LEAST_LEVEL = 1e-3
"""Of recordings in which nothing ever happens."""

EVENT_SHARE, LEVEL_SHARE = 0.75, 0.25
"""Of the rate; what is wrong with a level lasts, and a longer incident costs more of the rate and tells no more. Halves
gave event F1 0.42 instead of 0.47 on SMD, 0.56 / 0.58 on asd, 0.68 / 0.66 on SMAP/MSL."""

WEEK_S = 7 * 86_400


@dataclass(frozen=True)
class Tail:
    """What recordings showed of large scores, at levels that rise.

    Attributes:
        readings: of all recordings.
        levels: (K,) in the unit of the scores.
        shares: (K,) of the readings, above each level; falling.
        incidents: (K,) in which these came.
        excess: (K,) by how much the peak of an incident lies above the level, on average.
        least_scale: see the top of this file; in the unit of the scores.
    """

    readings: int
    levels: Floats
    shares: Floats
    incidents: Floats
    excess: Floats
    least_scale: float = 0.0

    @classmethod
    def of(cls, table: TailTable) -> Tail:
        """The tail that an artefact keeps."""
        levels, shares, incidents, excess = map(np.array, (table.levels, table.shares, table.incidents, table.excess))
        return cls(table.readings, levels, shares, incidents, excess, table.least_scale)

    def table(self) -> TailTable:
        """The same for an artefact."""
        return TailTable(
            readings=self.readings,
            levels=self.levels.tolist(),
            shares=self.shares.tolist(),
            incidents=self.incidents.tolist(),
            excess=self.excess.tolist(),
            least_scale=self.least_scale,
        )


@dataclass(frozen=True)
class Threshold:
    """A score above `value` is anomalous.

    Attributes:
        value: in the unit of the scores it was learned from.
        confidence: `low` where fewer than ten incidents of the recordings lie above it.
        incidents: of the recordings that lie above it; where it is extrapolated, those expected.
        share: of their readings, the same.
    """

    value: float
    confidence: Confidence
    incidents: float
    share: float


def learn_tail(
    scores: Sequence[Floats],
    kinds: Sequence[NDArray[np.integer]] | None = None,
    least_scale: float = 0.0,
    apart: Floats | None = None,
) -> Tail:
    """The tail of the scores of normal recordings.

    Args:
        scores: (N,) for each recording, in order of time: higher is stranger.
        kinds: (N,) for each, of what kind a score is; all of one kind if None.
        least_scale: see the top of this file.
        apart: (K,) for each kind, how many readings lie between two incidents at least; APART if that is more.

    Raises:
        CalibrationError: no scores, or some that are not finite.
    """
    pooled = np.concatenate(scores) if scores else np.empty(0)
    if not len(pooled):
        raise CalibrationError("no scores to calibrate on; expected those of normal readings")
    if not np.isfinite(pooled).all():
        raise CalibrationError("scores to calibrate on must be finite; the network's forecasts are not")
    kind = np.concatenate(kinds) if kinds else np.zeros(len(pooled), np.intp)
    pooled = _seen_twice(pooled, kind)
    gaps = np.full(len(pooled), float(APART)) if apart is None else np.maximum(apart, APART)[kind]
    begins = np.cumsum([0, *map(len, scores)])[:-1]
    order = np.sort(pooled)[::-1]
    steps = 1 + int(LEVELS_A_DECADE * math.log10(max(LARGEST_SHARE * len(pooled), 1)))
    counts = np.unique(np.geomspace(1, max(LARGEST_SHARE * len(pooled), 1), steps).astype(int))[::-1]
    levels = np.unique(order[np.minimum(counts, len(order) - 1)])
    levels = levels[np.isfinite(levels)]
    rows = [(level, *found) for level in levels.tolist() if (found := _above(pooled, begins, gaps, level))]
    if not rows:
        rows = [(float(levels.max(initial=0.0)), 1 / len(pooled), 1.0, 0.0)]
    reached, shares, incidents, excess = np.array(rows, np.float64).T
    return Tail(len(pooled), reached, shares, incidents, excess, least_scale)


def threshold(tail: Tail, rate: float) -> Threshold:
    """The level that a share of `rate` of normal readings exceeds. Raises CalibrationError for what is no share."""
    if not 0 < rate <= LARGEST_SHARE:
        raise CalibrationError(f"false-alarm rate {rate}; expected a share above 0, at most {LARGEST_SHARE}")
    return _level(tail, tail.shares, rate)


def thresholds(tails: tuple[Tail, Tail], rate: float) -> tuple[Threshold, Threshold]:
    """Those of events and levels that a share of `rate` exceeds together. Raises CalibrationError as `threshold`."""
    events, levels = tails
    return threshold(events, EVENT_SHARE * rate), threshold(levels, LEVEL_SHARE * rate)


def threshold_by_incidents(tail: Tail, per_reading: float) -> Threshold:
    """The level that normal readings exceed in so many incidents a reading. Raises CalibrationError for 0 or less."""
    if not per_reading > 0:
        raise CalibrationError(f"{per_reading} incidents a reading; expected more than 0")
    return _level(tail, tail.incidents / tail.readings, per_reading)


def threshold_for(
    manifest: Manifest, false_alarm_rate: float | None = None, alerts_per_week: float | None = None
) -> Manifest:
    """The manifest of a trained model with the thresholds for another rate, by the tails that its artefact keeps.

    Args:
        false_alarm_rate: share of normal readings that may be judged anomalous; or else
        alerts_per_week: incidents of a stream in a week of readings at the usual interval.

    Raises:
        CalibrationError: neither or both are given, one is out of range, or the artefact is of a version that kept no
            tails: train again.
    """
    calibration = manifest.calibration
    if calibration.event_tail is None or calibration.level_tail is None:
        raise CalibrationError(
            f"an artefact of format {manifest.format_version} keeps no tails to set another rate by; train again"
        )
    tails = (Tail.of(calibration.event_tail), Tail.of(calibration.level_tail))
    if false_alarm_rate is not None and alerts_per_week is None:
        event, level = thresholds(tails, false_alarm_rate)
    elif alerts_per_week is None or false_alarm_rate is not None:
        raise CalibrationError("expected a false-alarm rate or alerts a week, and not both")
    else:
        per_reading = alerts_per_week * manifest.interval_s / WEEK_S
        event, level = (
            threshold_by_incidents(tail, share * per_reading)
            for tail, share in zip(tails, (EVENT_SHARE, LEVEL_SHARE), strict=True)
        )
    rate = false_alarm_rate or event.share + level.share
    return manifest.model_copy(update={"calibration": with_thresholds(calibration, event, level, rate)})


def with_thresholds(calibration: Calibration, event: Threshold, level: Threshold, rate: float) -> Calibration:
    """The calibration with these thresholds, the rate that they mean, and how far to trust them.

    Confidence is that in events: the threshold of levels, of which recordings never show many, is cautious. It is low
    if the recordings are worth less than ten independent readings of their slowest channel, too: they go elsewhere.
    """
    sure = event.confidence == "high" and calibration.effective_readings >= TRUSTED
    return calibration.model_copy(
        update={
            "event_threshold": event.value,
            "level_threshold": level.value,
            "false_alarm_rate": rate,
            "confidence": "high" if sure else "low",
        }
    )


def _level(tail: Tail, rates: Floats, rate: float) -> Threshold:
    """Where `rates` of the tail's levels have come down to `rate`."""
    usable = np.flatnonzero(tail.incidents >= READ_OFF)
    last = int(usable[-1]) if len(usable) else int(tail.incidents.argmax())
    read = slice(int(rates.argmax()), last + 1)  # far down, incidents are fewer, for many have become one
    falling = np.minimum.accumulate(rates[read])
    if rate >= falling[-1]:
        at = np.interp(-math.log(rate), -np.log(falling), np.arange(len(falling)))
        value, share, incidents = (
            float(np.interp(at, np.arange(len(falling)), column[read]))
            for column in (tail.levels, tail.shares, tail.incidents)
        )
        confidence: Confidence = "high" if incidents >= TRUSTED else "low"
        return Threshold(max(value, LEAST_LEVEL), confidence, incidents, share)
    many = np.flatnonzero(tail.incidents >= TRUSTED)
    start = int(many[-1]) if len(many) else last
    incidents, ratio = float(tail.incidents[start]), float(rates[start] / rate)
    known = max(incidents - 1, 1.0)
    value = float(tail.levels[start] + tail.excess[start] * incidents * (ratio ** (1 / known) - 1))
    value = max(value, float(tail.levels[last]), tail.least_scale * -math.log(rate), LEAST_LEVEL)
    return Threshold(value, "low", incidents / ratio, float(tail.shares[start]) / ratio)


def _seen_twice(scores: Floats, kinds: NDArray[np.integer]) -> Floats:
    """(N,) the scores, none higher than the second largest maximum that a block has of its kind."""
    block = np.arange(len(scores)) * BLOCKS // len(scores)
    highest = np.full((int(kinds.max()) + 1, BLOCKS), -np.inf)
    np.maximum.at(highest, (kinds, block), scores)
    return np.asarray(np.minimum(scores, np.sort(highest, axis=1)[kinds, -2]))


def _above(
    scores: Floats, begins: NDArray[np.integer], gaps: Floats, level: float
) -> tuple[float, float, float] | None:
    """Share of readings, incidents, and mean excess of their peaks above a level; None if no reading is.

    Args:
        gaps: (N,) so many readings after the last one above the level, one there begins an incident.
    """
    rows = np.flatnonzero(scores > level)
    if not len(rows):
        return None
    recording = np.searchsorted(begins, rows, "right")
    first = np.flatnonzero((np.diff(rows, prepend=rows[0]) >= gaps[rows]) | (np.diff(recording, prepend=-1) != 0))
    peaks = np.maximum.reduceat(scores[rows], first)
    return len(rows) / len(scores), float(len(first)), float((peaks - level).mean())


def effective_readings(scores: Floats) -> float:
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
