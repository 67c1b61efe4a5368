"""TrainedDetector: scale, forecast, compare, score, judge; what the service and `gatewatch scan` call. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import (
    Artefact,
    GeneralManifest,
    Manifest,
    artefact_hashes,
    load_artefact,
    record_dtype,
)
from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.clock import NEVER, clock_fields, take_time
from gatewatch.models.detectors.detector import Floats, Records, Step, float32
from gatewatch.models.detectors.incidents import (
    calm_step,
    check_shapes,
    conclude,
    hold,
    incident_fields,
    is_open,
    open_channels,
    with_incidents_ended,
)
from gatewatch.models.detectors.network import Network
from gatewatch.models.detectors.trained.calibrated import ResidualCalibration
from gatewatch.models.detectors.trained.lone import MOST_CHANNELS, Rules, advance_alone
from gatewatch.models.detectors.trained.scaling import Scaling, shown
from gatewatch.models.detectors.trained.score import LEARNED, PARTS, begin, judge, set_apart, state_fields
from gatewatch.models.detectors.version_1 import taken_over, trained_dtype_1
from gatewatch.models.errors import ArtefactError, CalibrationError
from gatewatch.models.evaluation.threshold import threshold_for

REMEMBERED_RATES: Final = 1024
"""Other rates whose thresholds are kept."""


class TrainedDetector:
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
        self.manifest = manifest
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
        self._other_thresholds: dict[tuple[float, float], tuple[float, float]] = {}
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
        channels = (len(self.channels),)
        inputs = {"x": channels, "observed": channels, "elapsed": (1,)}
        self._network = Network(artefact.graph, inputs, self._tensors, channels)

    @classmethod
    def load(cls, folder: Path) -> TrainedDetector:
        """Load and verify the artefact of a trained model in `folder`. Raises ArtefactError."""
        return cls(load_artefact(folder))

    @property
    def name(self) -> str:
        """How replies and metrics call the model: the digest in hexadecimal."""
        return self.digest.hex()

    @property
    def architecture(self) -> str:
        """The kind of its network."""
        return self.manifest.architecture

    @property
    def provenance(self) -> dict[str, Any]:
        """What must be the same elsewhere for the same scores: the hashes of its artefact."""
        return artefact_hashes(self.manifest)

    @property
    def rebuild_readings(self) -> int:
        """How many readings a state that was lost has to be replayed to be whole again."""
        return self.manifest.calibration.rebuild_readings

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

    def held(self, before: Records, after: Records) -> Records:
        """(B,) states after readings that were followed and taught nothing; see Detector.held."""
        return hold(before, after, LEARNED)

    is_open = staticmethod(is_open)
    open_channels = staticmethod(open_channels)
    with_incidents_ended = staticmethod(with_incidents_ended)

    def carried_over(self, state: bytes, channels_before: Sequence[str]) -> None:
        """None: the channels of a trained model are its own."""

    def digest_1(self, channels: Sequence[str]) -> bytes:  # noqa: ARG002
        """What records of format 3 called this model: the same."""
        return self.digest

    def band_1(self, forecast: Floats) -> tuple[Floats, NDArray[np.float32]]:
        """Mid and half width (N, C) of (N, C) forecasts as histories of format 3 kept them: in standardised units."""
        return self.scaling.restore(forecast), np.broadcast_to(self.half, forecast.shape)

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

    def advance(
        self,
        values: Floats,
        timestamps_ms: NDArray[np.int64],
        states: Records,
        asked: Asked | None = None,
    ) -> Step:
        """Feed one reading of each of B streams, as `step` does, and write the states after it into `states`.

        Raises:
            ShapeError: the shapes do not fit each other or the model's channels.
        """
        self.require_live()
        check_shapes(len(self.channels), values, timestamps_ms, states)
        step = None
        if asked is None and len(states) == 1 and len(self.channels) <= MOST_CHANNELS:
            step = self.advance_alone(values, timestamps_ms, states)
        return self.advance_together(values, timestamps_ms, states, asked) if step is None else step

    def advance_alone(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> Step | None:
        """`advance` of one stream; None where arrays have to look at it, see models.detectors.trained.lone."""
        return advance_alone(values, timestamps_ms, states, self._rules, self._forecast)

    @cached_property
    def _rules(self) -> Rules:
        return Rules(
            self.scaling.center.tolist(),
            self.scaling.spread.tolist(),
            self.scaling.interval_s,
            self.calibration,
            self._error_scale.tolist(),
            self.half,
            self._restart_gap_ms,
            self.warm_up,
            self._calm_step,
        )

    def advance_together(
        self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records, asked: Asked | None = None
    ) -> Step:
        """`advance` of any number of streams."""
        if asked is not None:
            values = asked.seen(values)
        elapsed = self._take_time(timestamps_ms, states)
        deviation = self.scaling.deviation(values)
        forecast = self._forecast(_seen(deviation, elapsed), states)
        return self._compare(values, deviation, forecast, states, asked)

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
        return np.concatenate([self._network.mean(_seen(deviation[at], elapsed[at])) for at in pieces])

    @property
    def least_company(self) -> int:
        """See Scanner."""
        return 2

    def advance_rows(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> None:
        """None: readings are taken one by one."""

    def advance_knowing(
        self,
        forecast: NDArray[np.float32],
        values: Floats,
        timestamps_ms: NDArray[np.int64],
        states: Records,
    ) -> Step:
        """`advance` with forecasts (B, C) already made, by `hindsight`."""
        check_shapes(len(self.channels), values, timestamps_ms, states)
        self._take_time(timestamps_ms, states)
        return self._compare(values, self.scaling.deviation(values), forecast, states)

    def _compare(
        self,
        values: Floats,
        deviation: Floats,
        forecast: NDArray[np.float32],
        states: Records,
        asked: Asked | None = None,
    ) -> Step:
        judged = judge(values, deviation, forecast, states, self.calibration)
        if asked is not None:
            asked.forget_runs(states)
        mid = self.scaling.restore(forecast)
        half = self.half if len(mid) == 1 else np.broadcast_to(self.half, mid.shape)
        residual = float32(judged.missed / self._error_scale)
        factors = None if asked is None else self._factors(asked)
        return conclude(
            judged,
            mid,
            half,
            residual,
            states,
            self.warm_up,
            step=self._calm_step,
            factors=factors,
            again=True,
        )

    def _factors(self, asked: Asked) -> Floats:
        """(B, 4) on the parts of scores: thresholds for another rate are the artefact's tails' (contract 16)."""
        factors = np.repeat(asked.sensitivity[:, None], PARTS, axis=1)
        other = np.isfinite(asked.false_alarm_rate) | np.isfinite(asked.alerts_per_week)
        for row in np.flatnonzero(other).tolist():
            event, level = self._thresholds(float(asked.false_alarm_rate[row]), float(asked.alerts_per_week[row]))
            factors[row, 0] *= self.calibration.event_threshold / event
            factors[row, 1] *= self.calibration.level_threshold / level
        return factors

    def _thresholds(self, rate: float, alerts: float) -> tuple[float, float]:
        """Those of events and levels for a rate, or if that is NaN for alerts a week; its own where it has no tails."""
        if (rate, alerts) not in self._other_thresholds:
            calibration = self.manifest.calibration
            with suppress(CalibrationError):  # of an artefact of format 3, as docs/policies.md says
                asked_rate = None if math.isnan(rate) else rate
                calibration = threshold_for(
                    self.manifest, asked_rate, alerts if asked_rate is None else None
                ).calibration
            if len(self._other_thresholds) >= REMEMBERED_RATES:
                self._other_thresholds.clear()
            self._other_thresholds[rate, alerts] = calibration.event_threshold, calibration.level_threshold
        return self._other_thresholds[rate, alerts]

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

    def _forecast(self, feed: dict[str, NDArray[np.float32]], states: Records) -> NDArray[np.float32]:
        """Run the network's step on all streams; returns the forecast (B, C) in standardised units."""
        feed |= {name: states[name] for name in self._tensors}
        forecast, tensors = self._network.step(feed)
        for name, tensor in zip(self._tensors, tensors, strict=True):
            states[name] = tensor
        return forecast


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
