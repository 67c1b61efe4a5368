"""Learn what is normal for a trained network: error scales, thresholds, runs, and how much history a state needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.artefact import Artefact, Calibration, Channel, Manifest
from models.detector import Detector
from models.recordings import Recording
from models.residual import EVENT_MEMORY
from models.scaling import Scaling
from models.scan import Scan, scan, scan_together
from models.threshold import Threshold, calibrate

ERROR_FLOOR = 0.02
"""Least error scale, in spreads: what a channel that hardly ever moves is allowed to."""

RUN_MARGIN, RUN_ALLOWANCE = 3, 30
"""A channel may stand still, or be absent, three times as long as it ever did in the recordings, and 30 readings."""

RESTART_INTERVALS = 1000
"""A gap of more typical intervals restarts a stream."""

OUT_OF_REACH = 1e6
"""Event threshold of the scan from which one is learned. The memory of events is capped at twice the threshold: a cap
of 2, with thresholds at 1, cut the event part of 20 channels short, and 0.127 of live readings lay above the
threshold learned for 0.01 (0.5 with 38 channels)."""

LEAST_THRESHOLD = 1e-3
"""Of recordings in which nothing ever happens."""

MOST_PASSES, PASS_TOLERANCE = 10, 0.01

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

    The error scale and the event threshold come from the held-out parts alone, since the network knows the rest by
    heart; the level's threshold, for which nothing was fitted but mean and spread, from whole recordings. Each gets
    half of the false-alarm rate.

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
    held_out = np.concatenate([s.residual[split.held_out_from :] for s, split in zip(scans, splits, strict=True)])
    observed = np.concatenate([np.isfinite(split.recording.values[split.held_out_from :]) for split in splits])
    squares = np.where(observed, held_out.astype(np.float64) ** 2, 0.0).sum(axis=0)
    error_scale = np.maximum(np.sqrt(squares / np.maximum(observed.sum(axis=0), 1)), ERROR_FLOOR)
    still, absent = _run_limits(recordings)
    channels = [
        channel.model_copy(
            update={
                "error_scale": float(error_scale[at]),
                "still_limit": float(still[at]) if np.isfinite(still[at]) else None,
                "absent_limit": float(absent[at]),
            }
        )
        for at, channel in enumerate(provisional.channels)
    ]
    scaled = provisional.model_copy(update={"channels": channels})

    event, parts = _event_threshold(scaled, graph, splits, false_alarm_rate / 2)
    level = calibrate([p[:, 1] for p in parts], false_alarm_rate / 2)
    calibration = scaled.calibration.model_copy(
        update={
            "event_threshold": event.value,
            "level_threshold": max(level.value, LEAST_THRESHOLD),
            "false_alarm_rate": false_alarm_rate,
            "confidence": "high" if event.confidence == level.confidence == "high" else "low",
            "effective_readings": min(event.effective_readings, level.effective_readings),
            "rebuild_readings": _rebuild_readings(scaled, graph, splits),
        }
    )
    return scaled.model_copy(update={"calibration": calibration})


def _event_threshold(
    scaled: Manifest, graph: bytes, splits: Sequence[Split], false_alarm_rate: float
) -> tuple[Threshold, list[NDArray[np.float64]]]:
    """The threshold of events, learned with the memory that it will have in service; and the parts of all scores.

    The first scan remembers events whole. Where the cap that belongs to the threshold found would have cut a memory
    short (after a wild reading, say), the recordings are scanned again with that threshold, until it stays.
    """
    tried = OUT_OF_REACH
    for _ in range(MOST_PASSES):
        calibration = scaled.calibration.model_copy(update={"event_threshold": tried})
        detector = _detector(scaled.model_copy(update={"calibration": calibration}), graph)
        parts = [found.parts for found in scan_together(detector, [split.recording for split in splits])]
        events = [part[:, 0] * tried for part in parts]
        found = calibrate([e[s.held_out_from :] for e, s in zip(events, splits, strict=True)], false_alarm_rate)
        found = replace(found, value=max(found.value, LEAST_THRESHOLD))
        cut_short = max(event.max() for event in events) > EVENT_MEMORY * found.value
        if not cut_short or found.value > (1 - PASS_TOLERANCE) * tried:
            break
        tried = found.value
    return found, parts


def neutral(scaling: Scaling, names: Sequence[str], units: Sequence[str]) -> tuple[list[Channel], Calibration]:
    """Channels and calibration in which every scale and threshold is 1 and every limit is out of reach."""
    channels = [
        Channel(
            name=name,
            unit=unit,
            center=float(center),
            spread=float(spread),
            error_scale=1.0,
            still_limit=None,
            absent_limit=1e9,
        )
        for name, unit, center, spread in zip(names, units, scaling.center, scaling.spread, strict=True)
    ]
    calibration = Calibration(
        event_threshold=1.0,
        level_threshold=1.0,
        false_alarm_rate=0.5,
        confidence="low",
        effective_readings=1.0,
        warm_up=WARM_UP,
        restart_gap_s=RESTART_INTERVALS * scaling.interval_s,
        rebuild_readings=WARM_UP,
    )
    return channels, calibration


def _detector(manifest: Manifest, graph: bytes) -> Detector:
    return Detector(Artefact(manifest, graph, bytes(8)))


def _run_limits(recordings: Sequence[Recording]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) and (C,): how many readings a channel may stand still and be absent; no limit for one that never moved."""
    channels = recordings[0].values.shape[1]
    still, absent, moved = np.zeros(channels), np.zeros(channels), np.zeros(channels, bool)
    for recording in recordings:
        for channel in range(channels):
            values = recording.values[:, channel]
            absent[channel] = max(absent[channel], _longest_run(np.isnan(values)))
            values = values[np.isfinite(values)]
            same = np.diff(values) == 0
            moved[channel] |= bool((~same).any())
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
