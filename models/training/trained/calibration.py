"""Learn what is normal for a trained network: error scales, thresholds, runs, and how much history a state needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact, Calibration, Channel, Manifest
from gatewatch.models.detectors.judged import RUN_ALLOWANCE, RUN_MARGIN
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.detectors.trained.score import (
    CHANGE_LIMIT,
    LEAST_LIVELINESS,
    LEAST_VARIANCE,
    LEVEL_GAIN,
    LEVEL_LIMIT,
    LIVELY_GAIN,
    judge,
)
from gatewatch.models.evaluation.threshold import effective_readings, learn_tail, thresholds, with_thresholds
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan, scan_together

ERROR_FLOOR = 0.02
"""Least error scale, in spreads: what a channel that hardly ever moves is allowed to."""

Floats = NDArray[np.float64]

RESTART_INTERVALS = 1000
"""A gap of more typical intervals restarts a stream."""

EVENT_FLOOR, LEVEL_FLOOR, CHANGE_FLOOR = 0.1, 0.3, 0.2
"""Spreads; a miss, a level and a change that count 1 at least, so that a channel which hardly moves is not the loudest.
On SMD (38 channels), floors of 0.02 / 0.1 / 0.3 under the misses gave event F1 0.49 / 0.54 / 0.57; 0.3 hid spikes of
1.4 spreads from a network that forecasts to 0.07."""

MISS_FLOOR = 0.05
"""Least usual miss, in units of event_scale."""

EVENT_TAIL, LEVEL_TAIL = 0.5, 0.13
"""In spreads of p and in level_scale: of few recordings nobody believes that the tail falls faster, by e. They hold
thresholds of events of one in 2,000 above 3.8 spreads: with 1.6, which some recordings of SMAP/MSL would allow, event
F1 was 0.47 there instead of 0.67."""

SWITCH_SHARE = 0.25
"""What a switch that was not foreseen counts at most. 1/2 gave event F1 0.64 on SMAP/MSL, with 24 or 54 commands beside
each sensor; 1/4, 1/8 and nothing 0.67; on SMD and SKAB no difference."""

LEVEL_ERRORS = 2.0
"""Standard errors of its mean by which a channel's level may be elsewhere than its recordings showed. 2 / 3 gave event
F1 0.56 / 0.58 on asd, 0.95 / 1.0 on tep, 0.68 / 0.67 on SMAP/MSL; on SKAB F1 0.83 at FAR 6 % / 0.80 at 3 %."""

CONSTANT_LEVEL = 2.0
"""Spreads, which are but assumed; a channel that never moved, and now is elsewhere, has a level of 5 at most."""

LEAST_LIVELY = 2.0
LEAST_QUIET = 1.0
"""Nats, so that a channel of steady liveliness is quiet only at a third of it."""

FAR = 1e9
"""A threshold that nothing reaches."""

WARM_UP = 32
REBUILD_CHOICES = (32, 64, 128, 256, 512, 1024)
REBUILD_TOLERANCE = 0.01
"""A state rebuilt from so much history forecasts within this share of the error scale of the state it replaces."""


@dataclass(frozen=True)
class Split:
    """One recording, and the row at which its held-out part begins."""

    recording: Recording
    held_out_from: int


def calibrate_manifest(
    provisional: Manifest, graph: bytes, splits: Sequence[Split], false_alarm_rate: float
) -> Manifest:
    """Fill in a manifest's calibration by running the detector over its recordings.

    The error scale comes from the held-out parts alone, since the network knows the rest by heart; all else from whole
    recordings, which show more of what is normal. Events get more of the false-alarm rate than levels. What they
    exceed is learned twice: what the first thresholds hold back teaches less when the recordings are judged again. The
    second time begins with the mean and spread of misses where the first has left them, and so does a stream.

    Args:
        provisional: with `neutral` calibration.
        graph: the network's one-step graph.
        splits: the recordings, each with what the network was trained on and what it was not.
        false_alarm_rate: share of normal readings that may be judged anomalous.

    Raises:
        CalibrationError: the forecasts are not finite, or the rate is out of range.
    """
    recordings = [split.recording for split in splits]
    scans = scan_together(_detector(provisional, graph), recordings)
    residuals = [found.residual.astype(np.float64) for found in scans]
    calibrated = calibrate_residuals(provisional, graph, splits, residuals, false_alarm_rate)
    needed = {"rebuild_readings": _rebuild_readings(calibrated, graph, splits)}
    return calibrated.model_copy(update={"calibration": calibrated.calibration.model_copy(update=needed)})


def calibrate_residuals(
    provisional: Manifest, graph: bytes, splits: Sequence[Split], residuals: Sequence[Floats], false_alarm_rate: float
) -> Manifest:
    """The same from residuals already known, (N, C) for each recording; `rebuild_readings` is left as it was."""
    recordings = [split.recording for split in splits]
    detector = _detector(provisional, graph)
    held_out = [slice(split.held_out_from, None) for split in splits]
    tails = [residual[rows] for residual, rows in zip(residuals, held_out, strict=True)]
    seen = [np.isfinite(recording.values[rows]) for recording, rows in zip(recordings, held_out, strict=True)]
    still, absent = _run_limits(recordings)
    usual = _usual(splits, residuals, detector.scaling)
    learned = {"error_scale": np.maximum(_rms(tails, seen), ERROR_FLOOR), **usual.channels, "absent_limit": absent}
    channels = [
        channel.model_copy(
            update={
                **{name: float(values[at]) for name, values in learned.items()},
                "still_limit": float(still[at]) if np.isfinite(still[at]) else None,
                "quiet_scale": float(usual.quiet_scale[at]) if np.isfinite(usual.quiet_scale[at]) else None,
                "constant": bool(usual.constant[at]),
            }
        )
        for at, channel in enumerate(provisional.channels)
    ]
    scaled = provisional.model_copy(
        update={
            "channels": channels,
            "calibration": provisional.calibration.model_copy(
                update={
                    "event_mean": usual.event_mean,
                    "event_variance": usual.event_variance,
                    "effective_readings": usual.effective_readings,
                }
            ),
        }
    )
    for _ in range(2):
        judged = _signals(_detector(scaled, graph), recordings, residuals)
        event_tail, level_tail = (
            learn_tail([s[:, at] for s in judged.signals], [k[:, at] for k in judged.kinds], least)
            for at, least in enumerate((EVENT_TAIL, LEVEL_TAIL))
        )
        event, level = thresholds((event_tail, level_tail), false_alarm_rate)
        settled = scaled.calibration.model_copy(update=judged.settled)
        scaled = scaled.model_copy(update={"calibration": with_thresholds(settled, event, level, false_alarm_rate)})
    independent = learn_tail(
        [s[:, 1] for s in judged.signals], [k[:, 1] for k in judged.kinds], LEVEL_TAIL, usual.apart
    )
    farther = max(thresholds((event_tail, independent), false_alarm_rate)[1].value / level.value, 1.0)
    lively = np.concatenate([s[:, 2] for s in judged.signals])
    calibration = scaled.calibration.model_copy(
        update={
            "lively_scale": max(float(np.quantile(lively, 0.99)), LEAST_LIVELY),
            "event_tail": event_tail.table(),
            "level_tail": level_tail.table(),
        }
    )
    least = usual.channels["level_scale"]
    wider = np.clip(least * usual.level_wider * farther, least, np.maximum(least, LEVEL_LIMIT / level.value))
    scales = np.where(usual.switch | usual.constant, least, wider).tolist()
    channels = [
        channel.model_copy(update={"level_scale": scale}) for channel, scale in zip(channels, scales, strict=True)
    ]
    switches = [channel.name for channel, switch in zip(channels, usual.switch, strict=True) if switch]
    training = provisional.training | {"switches": switches}
    return scaled.model_copy(update={"channels": channels, "calibration": calibration, "training": training})


@dataclass(frozen=True)
class _Usual:
    """What is usual for each channel, by the manifest's names, and for the misses of all.

    Attributes:
        switch, constant: (C,) which channels took two values, and which one.
        apart: (C,) readings that one independent reading of a channel's level takes.
        level_wider: (C,) how many times as far as the recordings showed a level may be from its home.
        effective_readings: independent readings that the recordings are worth, by the levels of the slowest channel;
            no more than held-out readings for each in which a channel's level was beyond all that the rest showed.
    """

    channels: dict[str, Floats]
    quiet_scale: Floats
    switch: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    apart: Floats
    level_wider: Floats
    effective_readings: float
    event_mean: float
    event_variance: float


def _usual(splits: Sequence[Split], residuals: Sequence[Floats], scaling: Scaling) -> _Usual:
    """Scales of misses, levels and changes.

    A channel that took two values is a switch, mostly a command: a cause of what the others do, which the network is
    shown, and no symptom. Moving between them counts at most SWITCH_SHARE.
    """
    recordings = [split.recording for split in splits]
    observed = [np.isfinite(recording.values) for recording in recordings]
    values = np.concatenate([recording.values for recording in recordings]).astype(np.float64)
    low, high = _extremes(values)
    spans = (high - low) / scaling.spread  # standardised
    constant = high <= low
    between = (values > low) & (values < high)
    switch = ~constant & ~between.any(axis=0)
    deviations = [np.where(o, scaling.deviation(r.values), 0.0) for r, o in zip(recordings, observed, strict=True)]

    event_scale = np.maximum(_rms(residuals, observed), np.where(constant, 1.0, EVENT_FLOOR))
    event_scale[switch] = spans[switch] / SWITCH_SHARE
    misses = [np.abs(residual) / event_scale for residual in residuals]
    usual_miss = np.maximum(_mean(misses, observed), MISS_FLOOR)
    pooled = np.concatenate([np.sqrt((miss * miss).sum(axis=1)) for miss in misses])
    mean = float(pooled.mean())
    wide = 4 * max(float(np.quantile(pooled, 0.84)) - mean, LEAST_VARIANCE**0.5)
    variance = float((np.minimum(np.abs(pooled - mean), wide) ** 2).mean())

    levels = [_levels(deviation) for deviation in deviations]
    worth = np.sum([[effective_readings(column) for column in level.T] for level in levels], axis=0)
    level_scale = np.maximum(np.quantile(np.abs(np.concatenate(levels)), 0.95, axis=0), LEVEL_FLOOR)
    level_scale[switch] = spans[switch]
    level_scale[constant] = CONSTANT_LEVEL
    changes = [np.abs(np.diff(recording.values.astype(np.float64), axis=0)) for recording in recordings]
    moved = [np.isfinite(change) for change in changes]
    change_scale = np.maximum(
        _mean([np.where(m, c, 0.0) for c, m in zip(changes, moved, strict=True)], moved), CHANGE_FLOOR * scaling.spread
    )
    change_scale[switch] = (high - low)[switch]
    lively = [np.minimum(change / change_scale, CHANGE_LIMIT) for change in changes]
    usual_lively = _mean([np.where(m, a, 0.0) for a, m in zip(lively, moved, strict=True)], moved)
    may_rest = switch | (usual_lively <= 0)
    usual_lively[usual_lively <= 0] = 1.0
    followed = np.concatenate([_followed(a, LIVELY_GAIN, usual_lively) for a in lively])
    quiet = -np.log(followed / usual_lively + LEAST_LIVELINESS)
    quiet_scale = np.where(may_rest, np.inf, np.maximum(np.quantile(quiet, 0.99, axis=0), LEAST_QUIET))
    channels = {
        "event_scale": event_scale,
        "usual_miss": usual_miss,
        "level_scale": level_scale,
        "change_scale": change_scale,
        "usual_lively": usual_lively,
    }
    apart = sum(map(len, levels)) / worth
    wider = np.where(switch | constant, 1.0, 1 + LEVEL_ERRORS / np.sqrt(worth))
    worth = np.minimum(worth, 1 / np.maximum(np.where(switch | constant, 0.0, _beyond(levels, splits)), 1e-9))
    return _Usual(
        channels, quiet_scale, switch, constant, apart, wider, float(worth.min()), mean, max(variance, LEAST_VARIANCE)
    )


def _extremes(values: Floats) -> tuple[Floats, Floats]:
    """(C,) and (C,): least and largest value; 0 where there is none."""
    low = np.where(np.isnan(values), np.inf, values).min(axis=0)
    high = np.where(np.isnan(values), -np.inf, values).max(axis=0)
    seen = np.isfinite(low)
    return np.where(seen, low, 0.0), np.where(seen, high, 0.0)


def _levels(deviation: Floats) -> Floats:
    """(N, C) where each channel's level is, from its center, as models.detectors.trained.score follows it."""
    bounded = np.clip(deviation, -LEVEL_LIMIT, LEVEL_LIMIT)
    return _followed(bounded, LEVEL_GAIN, np.zeros(deviation.shape[1]))


def _beyond(levels: Sequence[Floats], splits: Sequence[Split]) -> Floats:
    """(C,) share of the held-out readings whose level is above all those of the rest, or below all, whichever is more.

    Of n independent readings and one more, that one is the highest with a chance of 1/(n + 1): a level that is beyond
    more often is going somewhere.
    """
    rest = np.concatenate([level[: split.held_out_from] for level, split in zip(levels, splits, strict=True)])
    held_out = np.concatenate([level[split.held_out_from :] for level, split in zip(levels, splits, strict=True)])
    if not len(rest) or not len(held_out):
        return np.zeros(levels[0].shape[1])
    above, below = (held_out > rest.max(axis=0)).mean(axis=0), (held_out < rest.min(axis=0)).mean(axis=0)
    return np.asarray(np.maximum(above, below))


def _followed(values: Floats, gain: float, begin: Floats) -> Floats:
    """(N, C) an exponential mean of each channel, from `begin` on; a NaN leaves it as it is."""
    mean, means = begin.copy(), np.empty_like(values)
    for row, x in enumerate(values):
        mean += gain * np.where(np.isnan(x), 0.0, x - mean)
        means[row] = mean
    return means


@dataclass(frozen=True)
class _Judged:
    """What is judged of recordings.

    Attributes:
        signals: of each, (N, 3) event, level and liveliness of each reading.
        kinds: of each, (N, 2) the channels of the first two.
        settled: event_mean and event_variance as the recordings leave them, the mean over their readings.
    """

    signals: list[Floats]
    kinds: list[NDArray[np.int16]]
    settled: dict[str, float]


def _signals(detector: TrainedDetector, recordings: Sequence[Recording], residuals: Sequence[Floats]) -> _Judged:
    """What is judged of the readings of recordings, from the forecasts already made."""
    lengths = np.array([len(recording) for recording in recordings])
    shape = (int(lengths.max()), len(recordings), recordings[0].values.shape[1])
    values, missed = np.full(shape, np.nan), np.zeros(shape)
    for at, (recording, residual) in enumerate(zip(recordings, residuals, strict=True)):
        values[: lengths[at], at], missed[: lengths[at], at] = recording.values, residual
    states, signals = detector.initial(len(recordings)), np.empty((*shape[:2], 3))
    kinds, ends = np.empty((*shape[:2], 2), np.int16), np.zeros((2, len(recordings)))
    for now in range(len(values)):  # a recording that has ended goes on as missing; its rows are cut off below
        deviation = detector.scaling.deviation(values[now])
        forecast = np.where(np.isfinite(deviation), deviation, 0.0) - missed[now]
        judged = judge(values[now], deviation, forecast, states, detector.calibration)
        signals[now], kinds[now] = judged.signals, cast("Floats", judged.strange)[:2].argmax(2).T
        ending = lengths == now + 1
        ends[:, ending] = states["usual"][ending], states["unrest"][ending]
    begun = detector.calibration.event_mean, detector.calibration.event_variance
    mean, variance = np.average(ends, axis=1, weights=lengths) + np.array(begun)
    return _Judged(
        [signals[:length, at] for at, length in enumerate(lengths)],
        [kinds[:length, at] for at, length in enumerate(lengths)],
        {"event_mean": max(float(mean), 0.0), "event_variance": max(float(variance), LEAST_VARIANCE)},
    )


def _rms(series: Sequence[Floats], observed: Sequence[NDArray[np.bool_]]) -> Floats:
    """(C,) over what was observed; 0 where nothing was."""
    return np.sqrt(_mean([values**2 for values in series], observed))


def _mean(series: Sequence[Floats], observed: Sequence[NDArray[np.bool_]]) -> Floats:
    total = sum(np.where(there, values, 0.0).sum(axis=0) for values, there in zip(series, observed, strict=True))
    return np.asarray(total / np.maximum(sum(there.sum(axis=0) for there in observed), 1))


def neutral(scaling: Scaling, names: Sequence[str], units: Sequence[str]) -> tuple[list[Channel], Calibration]:
    """Channels and calibration in which every scale is 1 and every threshold and limit is out of reach."""
    channels = [
        Channel(
            name=name,
            unit=unit,
            center=float(center),
            spread=float(spread),
            error_scale=1.0,
            event_scale=1.0,
            usual_miss=1.0,
            level_scale=1.0,
            change_scale=float(spread),
            still_limit=None,
            absent_limit=1e9,
        )
        for name, unit, center, spread in zip(names, units, scaling.center, scaling.spread, strict=True)
    ]
    calibration = Calibration(
        event_mean=0.0,
        event_variance=1.0,
        event_threshold=FAR,
        level_threshold=FAR,
        lively_scale=1.0,
        false_alarm_rate=0.5,
        confidence="low",
        effective_readings=1.0,
        warm_up=WARM_UP,
        restart_gap_s=RESTART_INTERVALS * scaling.interval_s,
        rebuild_readings=WARM_UP,
    )
    return channels, calibration


def _detector(manifest: Manifest, graph: bytes) -> TrainedDetector:
    return TrainedDetector(Artefact(manifest, graph, bytes(8)))


def _run_limits(recordings: Sequence[Recording]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) and (C,): how many readings a channel may stand still and be absent.

    No limit for one that never moved, and none for a switch (two values): nothing says when it should.
    """
    channels = recordings[0].values.shape[1]
    still, absent, moved = np.zeros(channels), np.zeros(channels), np.zeros(channels, bool)
    for recording in recordings:
        for channel in range(channels):
            values = recording.values[:, channel]
            absent[channel] = max(absent[channel], _longest_run(np.isnan(values)))
            values = values[np.isfinite(values)]
            same = np.diff(values) == 0
            moved[channel] |= len(values) > 0 and bool(((values > values.min()) & (values < values.max())).any())
            still[channel] = max(still[channel], _longest_run(same))
    limit = RUN_MARGIN * still + RUN_ALLOWANCE
    return np.where(moved, limit, np.inf), RUN_MARGIN * absent + RUN_ALLOWANCE


def _longest_run(flags: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0


def _rebuild_readings(manifest: Manifest, graph: bytes, splits: Sequence[Split]) -> int:
    """The least history from which a state comes back: tried on the end of the longest recording."""
    longest = max((split.recording for split in splits), key=len)
    detector = _detector(manifest, graph)
    tail = longest.rows(-2 * REBUILD_CHOICES[-1])
    whole = _forecasts(scan(detector, tail))
    for readings in REBUILD_CHOICES:
        if readings >= len(tail):
            break
        part = _forecasts(scan(detector, tail.rows(-readings)))
        if np.nanmax(np.abs(part[-1] - whole[-1]) / _physical_scale(manifest)) <= REBUILD_TOLERANCE:
            return readings
    return readings


def _forecasts(found: Scan) -> NDArray[np.float64]:
    return found.expected[:, :, 1].astype(np.float64)


def _physical_scale(manifest: Manifest) -> NDArray[np.float64]:
    return np.array([channel.error_scale * channel.spread for channel in manifest.channels])
