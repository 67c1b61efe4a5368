"""Detector: scale, forecast, compare, score, judge; what the service and `gatewatch scan` call. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact, GeneralManifest, Manifest, load_artefact, record_dtype
from gatewatch.models.artefact.graph import check_steps, open_session, settle
from gatewatch.models.detectors.clock import NEVER, clock_fields, take_time
from gatewatch.models.detectors.trained.scaling import Scaling, shown
from gatewatch.models.detectors.trained.score import (
    REASONS,
    Judged,
    ResidualCalibration,
    begin,
    judge,
    set_apart,
    state_fields,
)
from gatewatch.models.detectors.version_1 import trained_dtype_1
from gatewatch.models.errors import ArtefactError, ShapeError

Records = NDArray[Any]
Floats = NDArray[np.float64]

WARMING_UP, NORMAL, ANOMALOUS = 0, 1, 2
STATUSES = ("warming_up", "normal", "anomalous")

OPEN_READINGS = 30
"""An incident stays open for so many normal readings after its last anomalous one."""

JOIN_READINGS = 200
"""Anomalous readings with fewer than so many normal ones between them are one incident, with one alert.

On NAB, 50 / 200 / 500 rows gave 66.7 / 67.1 / 67.9 points and none 62.5 (measured on a prototype)."""

JOIN_S, LEAST_JOIN = 4 * 3600, 8
"""Of a slower stream, those within four hours are one incident, but within 8 readings at least: 200 readings an hour
apart are 8 days, and of the events found by their status a quarter had an alert."""

MOST_READINGS = np.uint32(2**32 - 1)
"""Counted of a stream; more are not."""

LARGEST_SCORE = float(np.finfo(np.float32).max)

STATE_VERSION = 2
"""Of the layout and meaning of states; 1 held values as float32, see `Detector.from_version_1`."""


@dataclass(frozen=True)
class Step:
    """What a detector says of one reading of each of B streams.

    Attributes:
        score: (B,) float32, 1.0 = threshold.
        status: (B,) index into STATUSES.
        reason: (B,) index into models.detectors.trained.score.REASONS: which part of the score was largest.
        alert: (B,) true for the reading with which an incident begins.
        mid: (B, C) what was expected of the reading, physical units; NaN where nothing was.
        half: (B, C) half width of the band around it, physical units; infinite where nothing is known. A channel that
            stays outside the band is by itself enough for an alarm.
        residual: (B, C) reading minus expectation, signed, in errors that are usual for the channel; 0 where missing.
        attribution: (B, C) float32 shares of the channels in the score; each row sums to 1.
        parts: (B, 4) the parts of the score, in the order of REASONS.
        states: (B,) records: the streams' states after the reading.
    """

    score: NDArray[np.float32]
    status: NDArray[np.uint8]
    reason: NDArray[np.uint8]
    alert: NDArray[np.bool_]
    mid: Floats
    half: NDArray[np.float32]
    residual: NDArray[np.float32]
    attribution: NDArray[np.float32]
    parts: NDArray[np.float64]
    states: Records


def expected_band(mid: Floats, half: NDArray[np.float32]) -> Floats:
    """(..., C, 3) low, mid and high in physical units, from (..., C) each; NaN where nothing was expected."""
    known = np.isfinite(half)
    wide, mid = np.where(known, half, np.nan).astype(np.float64), np.where(known, mid, np.nan)
    return np.stack([mid - wide, mid, mid + wide], axis=-1)


def calm_step(interval_s: float) -> int:
    """What a normal reading counts of OPEN_READINGS and JOIN_READINGS, in a stream with so many seconds between two."""
    joined = min(max(JOIN_S / interval_s, LEAST_JOIN), JOIN_READINGS)
    return round(JOIN_READINGS / joined)


def incident_fields(channels: int) -> list[Any]:
    """The fields of a stream's state that say how its incidents stand: 4 bytes, and 2 a channel.

    Readings, each counted as `calm_step` says, at most JOIN_READINGS, since the stream was last anomalous, since its
    last alert, and since each channel was last anomalous by itself.
    """
    return [("calm", "<u2"), ("told", "<u2"), ("channel_calm", "<u2", (channels,))]


def calms(states: Records) -> NDArray[np.uint16]:
    """(B, 2 + C) a view of what `incident_fields` keep, in their order."""
    return np.asarray(states.view(_calms(states.dtype))["calms"])


@lru_cache
def _calms(dtype: np.dtype[Any]) -> np.dtype[Any]:
    fields: Any = dtype.fields
    block = ("<u2", (2 + fields["channel_calm"][0].shape[0],))
    return np.dtype(
        {"names": ["calms"], "formats": [block], "offsets": [fields["calm"][1]], "itemsize": dtype.itemsize}
    )


class Detector:
    """A trained network and its calibration, stepping any number of streams by one reading each.

    A stream's state is one record of the numpy dtype `state_dtype`: the network's tensors, the residual's memory,
    what its clock did, readings since the start, and how long it has been calm since its
    incidents.
    """

    def __init__(self, artefact: Artefact) -> None:
        """Take a verified artefact into use.

        Raises:
            ArtefactError: the graph cannot be run, or its inputs and outputs are not what the manifest says.
        """
        manifest = artefact.manifest
        if isinstance(manifest, GeneralManifest):
            raise ArtefactError("this is the general model, which needs the names of the channels it is to watch")
        self.manifest: Manifest | GeneralManifest = manifest
        self.digest = artefact.digest
        self.channels = tuple(channel.name for channel in manifest.channels)
        self.scaling = Scaling(
            np.array([channel.center for channel in manifest.channels]),
            np.array([channel.spread for channel in manifest.channels]),
            manifest.interval_s,
        )
        self.calibration = _residual_calibration(manifest)
        calm = self.calibration.event_mean + self.calibration.event_threshold * self.calibration.event_variance**0.5
        self.half = float32(calm * self.calibration.event_scale * self.scaling.spread)[None]
        self._error_scale = np.array([channel.error_scale for channel in manifest.channels])
        self.warm_up = manifest.calibration.warm_up
        self._calm_step = calm_step(manifest.interval_s)
        self._restart_gap_ms = int(manifest.calibration.restart_gap_s * 1000)
        self._tensors = {name: tuple(shape) for name, shape in manifest.state.items()}
        self.state_dtype = record_dtype(
            [
                *clock_fields(),
                ("readings", "<u4"),
                *incident_fields(len(self.channels)),
                *state_fields(len(self.channels)),
                *((name, "<f4", shape) for name, shape in self._tensors.items()),
            ]
        )
        self.state_dtype_1 = trained_dtype_1(len(self.channels), self._tensors)
        self._session = open_session(artefact.graph)
        self._outputs = ["mean", *(f"{name}_next" for name in self._tensors)]
        channels = (len(self.channels),)
        check_steps(self._session, {"x": channels, "observed": channels, "elapsed": (1,)}, self._tensors, channels)

    @classmethod
    def load(cls, folder: Path) -> Detector:
        """Load and verify the artefact of a trained model in `folder`. Raises ArtefactError."""
        return cls(load_artefact(folder))

    @property
    def name(self) -> str:
        """How replies and metrics call the model: the digest in hexadecimal."""
        return self.digest.hex()

    def initial(self, streams: int) -> Records:
        """(B,) states of streams that have not seen a reading."""
        states = np.zeros(streams, self.state_dtype)
        begin(states, self.calibration)
        states["last_ms"] = NEVER
        return self.with_incidents_ended(states)

    def from_version_1(self, states: Records) -> Records:
        """(B,) states from those of `state_dtype_1`."""
        taken = taken_over(states, self.initial(len(states)))
        taken["long"] = states["stuck"]
        reach = np.maximum(states["accepted"], 0.0)[:, None] * self.calibration.level_scale
        taken["accepted"] = np.clip(taken["level"], -reach, reach)
        return taken

    @staticmethod
    def is_open(states: Records) -> NDArray[np.bool_]:
        """(B,) whether each stream's incident is open."""
        return np.asarray(states["calm"] < OPEN_READINGS)

    @staticmethod
    def with_incidents_ended(states: Records) -> Records:
        """(B,) the same states with no incident to join: the next anomalous reading raises an alert."""
        ended = states.copy()
        calms(ended)[:] = JOIN_READINGS
        return ended

    @staticmethod
    def open_channels(states: Records) -> NDArray[np.bool_]:
        """(B, C) whether each channel has an incident of its own open."""
        return np.asarray(states["channel_calm"] < OPEN_READINGS)

    def set_apart(self, states: Records) -> NDArray[np.bool_]:
        """(B, C) channels that have stood still, or been absent, for so long that they no longer count in the score."""
        return set_apart(states, self.calibration)

    def keeps_budget(self, states: Records) -> NDArray[np.bool_]:
        """(B,) whether the alerts allowed can be kept at the pace of each stream; a rate of false alarms always can."""
        return np.ones(len(states), bool)

    def step(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> Step:
        """Feed one reading of each of B streams.

        Args:
            values: (B, C) float64, physical units, NaN where missing.
            timestamps_ms: (B,) Unix time.
            states: (B,) states before the reading; left as they are.
        """
        return self.advance(values, timestamps_ms, states.copy())

    def advance(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> Step:
        """Feed one reading of each of B streams, as `step` does, and write the states after it into `states`.

        Raises:
            ShapeError: the shapes do not fit each other or the model's channels.
        """
        self.require_live()
        self._check_shapes(values, timestamps_ms, states)
        elapsed = self._take_time(timestamps_ms, states)
        deviation = self.scaling.deviation(values)
        forecast = self._advance(deviation, elapsed, states)
        return self._compare(values, deviation, forecast, states)

    def require_live(self) -> None:
        """Raise ArtefactError if no stream can be scored while it runs: the network reads finished recordings."""
        if self.manifest.kind == "recording":
            raise ArtefactError(
                f"a {self.manifest.architecture} model needs the readings after a reading, which a live stream does "
                "not have yet: score finished recordings with `gatewatch scan`, or train another architecture to serve"
            )

    def hindsight(self, values: Floats, timestamps_ms: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """(N, C) forecasts of the N readings of a recording by those before and after each; None of a live model.

        Args:
            values: (N, C) physical units, NaN where missing.
            timestamps_ms: (N,) Unix time. A gap longer than restart_gap_s parts a recording in two.
        """
        if self.manifest.kind != "recording":
            return None
        delta_ms = np.diff(timestamps_ms, prepend=timestamps_ms[:1])
        starts = [0, *np.flatnonzero(delta_ms > self._restart_gap_ms), len(values)]
        deviation, elapsed = self.scaling.deviation(values), self.scaling.elapsed(delta_ms)[:, None]
        elapsed[starts[:-1]] = 0
        pieces = [slice(start, stop) for start, stop in pairwise(starts) if stop > start]
        return np.concatenate([self._session.run(["mean"], _seen(deviation[at], elapsed[at]))[0] for at in pieces])

    def advance_knowing(
        self,
        forecast: NDArray[np.float32],
        values: Floats,
        timestamps_ms: NDArray[np.int64],
        states: Records,
    ) -> Step:
        """`advance` with forecasts (B, C) already made, by `hindsight`."""
        self._check_shapes(values, timestamps_ms, states)
        self._take_time(timestamps_ms, states)
        return self._compare(values, self.scaling.deviation(values), forecast, states)

    def _compare(
        self,
        values: Floats,
        deviation: Floats,
        forecast: NDArray[np.float32],
        states: Records,
    ) -> Step:
        judged = judge(values, deviation, forecast, states, self.calibration)
        mid = self.scaling.restore(forecast)
        half = self.half if len(mid) == 1 else np.broadcast_to(self.half, mid.shape)
        residual = float32(judged.missed / self._error_scale)
        return self._take_in(judged, mid, half, residual, states, np.False_, self._calm_step)

    def _check_shapes(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> None:
        if values.shape != (len(states), len(self.channels)) or timestamps_ms.shape != states.shape:
            raise ShapeError(
                f"values {values.shape}, timestamps {timestamps_ms.shape}, states {states.shape}; "
                f"expected ({len(states)}, {len(self.channels)}) and ({len(states)},)"
            )

    def _take_in(
        self,
        judged: Judged,
        mid: Floats,
        half: NDArray[np.float32],
        residual: NDArray[np.float32],
        states: Records,
        urgent: NDArray[np.bool_] | np.bool_,
        step: int = 1,
    ) -> Step:
        """Status and alert of what was judged, counted in the states; `urgent` alerts within an open incident too.

        So does a channel that begins to stand still or to be missing, and one whose own incident begins, unless an
        alert has just gone out: what spreads from one channel to others is one incident.

        Args:
            step: what a normal reading counts, see `calm_step`.
        """
        readings, calm = states["readings"], calms(states)
        warm = readings >= self.warm_up
        strange = judged.score > 1.0
        calmer = np.minimum(calm + step, JOIN_READINGS)
        if np.count_nonzero(strange):
            anomalous = warm & strange
            alone = anomalous[:, None] if judged.alone is None else judged.alone & anomalous[:, None]
            begins = np.logical_or.reduce(alone & (calm[:, 2:] >= JOIN_READINGS), 1)
            begins |= np.False_ if judged.stops is None else judged.stops
            begins &= calm[:, 1] >= OPEN_READINGS
            alert = anomalous & ((calm[:, 0] >= JOIN_READINGS) | urgent | begins)
            calmer[:, 0] *= ~anomalous
            calmer[:, 1] *= ~alert
            calmer[:, 2:] *= ~alone
        else:
            anomalous = alert = strange
        states["readings"] = readings + (readings < MOST_READINGS)
        calm[:] = calmer
        return Step(
            score=float32(judged.score),
            status=warm.view(np.uint8) + anomalous,  # WARMING_UP 0, NORMAL 1, ANOMALOUS 2
            reason=judged.reason.astype(np.uint8),
            alert=alert,
            mid=mid,
            half=half,
            residual=residual,
            attribution=judged.attribution.astype(np.float32),
            parts=judged.parts,
            states=states,
        )

    def _take_time(self, timestamps_ms: NDArray[np.int64], states: Records) -> NDArray[np.float32]:
        """(B, 1) the network's elapsed input, 0 for the usual time and where the clock tells nothing.

        After a gap longer than restart_gap_s that is not of its rhythm a stream starts anew.
        """
        elapsed_ms, anew = take_time(states, timestamps_ms, self._restart_gap_ms)
        elapsed = self.scaling.elapsed(elapsed_ms)
        if anew is not None:
            elapsed[elapsed_ms < 0] = 0
            for name in (*self._tensors, "event", "plain", "readings"):
                states[name][anew] = 0
        return elapsed[:, None]

    def _advance(self, deviation: Floats, elapsed: NDArray[np.float32], states: Records) -> NDArray[np.float32]:
        """Run the network's step on all streams; returns the forecast (B, C) in standardised units."""
        feed = _seen(deviation, elapsed)
        for name in self._tensors:
            feed[name] = np.ascontiguousarray(states[name])
        forecast, *tensors = self._session.run(self._outputs, feed)
        settle(forecast, tensors)
        for name, tensor in zip(self._tensors, tensors, strict=True):
            states[name] = tensor
        return cast("NDArray[np.float32]", forecast)


def _seen(deviation: Floats, elapsed: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The network's inputs but for the state."""
    x = shown(deviation)
    observed = np.isfinite(x)
    x[~observed] = 0
    return {"x": x, "observed": observed.astype(np.float32), "elapsed": elapsed}


def _residual_calibration(manifest: Manifest) -> ResidualCalibration:
    channels, calibration = manifest.channels, manifest.calibration
    return ResidualCalibration(
        event_scale=np.array([channel.event_scale for channel in channels]),
        usual_miss=np.array([channel.usual_miss for channel in channels]),
        level_scale=np.array([channel.level_scale for channel in channels]),
        change_scale=np.array([channel.change_scale for channel in channels]),
        usual_lively=np.array([channel.usual_lively for channel in channels]),
        quiet_scale=np.array([channel.quiet_scale or np.inf for channel in channels]),
        still_limit=np.array([channel.still_limit or np.inf for channel in channels]),
        absent_limit=np.array([channel.absent_limit for channel in channels]),
        event_mean=calibration.event_mean,
        event_variance=calibration.event_variance,
        event_threshold=calibration.event_threshold,
        level_threshold=calibration.level_threshold,
        lively_scale=calibration.lively_scale,
        constant=np.array([channel.constant for channel in channels]),
    )


def taken_over(before: Records, states: Records) -> Records:
    """`states`, with every field that `before`, of version 1, has of the same name; an open incident stays open."""
    names = set(before.dtype.names or ())
    for name in states.dtype.names or ():
        if name in names and before[name].shape == states[name].shape:
            states[name] = before[name]
    states["channel_calm"], states["told"] = before["calm"][:, None], before["calm"]
    states["last_ms"][before["readings"] == 0] = NEVER
    return states


def float32(values: Floats) -> NDArray[np.float32]:
    """Float64 to float32, with what float32 cannot hold at its largest value instead of infinity."""
    return np.minimum(np.maximum(values, -LARGEST_SCORE), LARGEST_SCORE).astype(np.float32)


__all__ = ["ANOMALOUS", "NORMAL", "REASONS", "STATUSES", "WARMING_UP", "Detector", "Step", "expected_band"]
