"""GeneralDetector: watches streams that nobody trained on, each channel for itself, by one network for all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.artefact import Artefact, GeneralManifest, load_artefact, record_dtype
from models.budget import budget_fields, joined, take_time, thresholds, young_thresholds
from models.detector import JOIN_READINGS, LARGEST_SCORE, Detector, Records, Step, float32
from models.errors import ArtefactError
from models.graph import check_steps, open_session, settle
from models.running import FEATURES, HORIZONS, observe, running_fields, seasonal
from models.surprise import (
    RANGE,
    due_forecasts,
    forget_forecasts,
    judge_general,
    miss_for,
    remember_forecasts,
    surprise_fields,
    usual_miss,
)

RESTART_INTERVALS = 100
"""A gap of more typical intervals restarts the network's state; what the stream has shown of itself stays."""

RANGE_ALERT_READINGS, RANGE_NEWS = 50, 0.05
"""Within an incident a reading outside the range alerts too, so many readings after the last and by this share of the
range: the incident has become worse than anything before it. On NAB, without: four windows of 50 missed."""

BAND_NATS = 6.0
"""One miss beyond the band expected is as rare as one reading in 400."""

FORECAST_LIMIT = 50.0
"""Steps; a forecast farther from the last value is cut there."""


def load_detector(folder: Path, channels: Sequence[str] = (), alerts_per_week: float | None = None) -> Detector:
    """Load and verify the artefact in `folder`, trained or general.

    Args:
        channels: what the general model is to watch; of a trained model, its own or none.
        alerts_per_week: of the general model.

    Raises:
        ArtefactError: the artefact cannot be used, or `channels` are not what it needs.
    """
    artefact = load_artefact(folder)
    if isinstance(artefact.manifest, GeneralManifest):
        if not channels:
            raise ArtefactError(
                f"{folder} is the general model, which has no channels of its own: name those it is to watch"
            )
        return GeneralDetector(artefact, channels, alerts_per_week)
    detector = Detector(artefact)
    if alerts_per_week is not None:
        raise ArtefactError(f"{folder} is a trained model, whose thresholds are learned; alerts a week are not for it")
    if channels and set(channels) != set(detector.channels):
        raise ArtefactError(f"{folder} has the channels {', '.join(detector.channels)}; found {', '.join(channels)}")
    return detector


def _bound(digest: bytes, channels: Sequence[str]) -> bytes:
    """8 bytes that identify a model bound to channels: states of other channels are then never taken for its own."""
    return hashlib.sha256(digest + repr(tuple(channels)).encode()).digest()[:8]


class GeneralDetector(Detector):
    """The general model, bound to the channels of a stream; one record of `state_dtype` is a stream's state.

    The network is shown each channel by `models.running`, and forecasts its value 1, 3, 10 and 30 readings ahead, in
    steps from the last one; `models.surprise` makes a score of how far that was off. A state has some 1.6 KB a
    channel, of which 1 KB is the network's.
    """

    def __init__(self, artefact: Artefact, channels: Sequence[str], alerts_per_week: float | None = None) -> None:
        """Take a verified artefact of the general model into use for streams of these channels.

        Args:
            alerts_per_week: false alerts of a stream that are allowed; the model's if None.

        Raises:
            ArtefactError: the graph cannot be run, its inputs and outputs are not what the manifest says, or the
                artefact is that of a trained model.
        """
        manifest = artefact.manifest
        if not isinstance(manifest, GeneralManifest):
            raise ArtefactError("this is a trained model, with channels of its own, not the general one")
        self.manifest = manifest
        self.channels = tuple(channels)
        self.alerts_per_week = alerts_per_week or manifest.calibration.alerts_per_week
        self.digest = _bound(artefact.digest, self.channels)
        self.forecasts = 2 * len(self.channels)
        self.warm_up = manifest.calibration.warm_up
        self._rare = miss_for(BAND_NATS)
        self._tensors = {name: tuple(shape) for name, shape in manifest.state.items()}
        count = len(self.channels)
        self.state_dtype = record_dtype(
            [
                ("last_ms", "<i8"),
                ("readings", "<u4"),
                ("calm", "<u2"),
                ("stuck", "?"),
                ("inside", "<u2"),
                *budget_fields(),
                *running_fields(count),
                *surprise_fields(count),
                *((name, "<f4", (count, *shape)) for name, shape in self._tensors.items()),
            ]
        )
        self._session = open_session(artefact.graph)
        self._outputs = ["mean", *(f"{name}_next" for name in self._tensors)]
        check_steps(self._session, {"x": (FEATURES,)}, self._tensors, (len(HORIZONS),))

    def initial(self, streams: int) -> Records:
        """(B,) states of streams that have not seen a reading."""
        states = np.zeros(streams, self.state_dtype)
        states["calm"] = JOIN_READINGS
        states["inside"] = RANGE_ALERT_READINGS
        states["ahead"] = np.nan
        return states

    def advance(self, values: NDArray[np.float32], timestamps_ms: NDArray[np.int64], states: Records) -> Step:
        """Feed one reading of each of B streams and write the states after it into `states`; see Detector.advance."""
        self._check_shapes(values, timestamps_ms, states)
        self._forget_after_gaps(timestamps_ms, states)
        readings = states["readings"].astype(np.int64)
        due = due_forecasts(states, readings)
        expected, _ = seasonal(states, timestamps_ms)
        forecast = self._forecast(due[..., 0], states)
        threshold = thresholds(states, self.alerts_per_week)
        within = states["calm"] < joined(threshold, JOIN_READINGS)
        asked = young_thresholds(threshold, readings)
        judged = judge_general(values, due, expected, states, readings, asked, within)
        self._look_ahead(observe(states, values, timestamps_ms), states, readings)
        take_time(states, timestamps_ms, readings)
        states["last_ms"] = timestamps_ms
        outside = judged.parts[:, RANGE] > 1.0
        news = np.maximum.reduce(judged.signals, 1) > RANGE_NEWS
        worse = outside & (states["inside"] >= RANGE_ALERT_READINGS) & news
        states["inside"] = np.minimum(states["inside"] + 1, RANGE_ALERT_READINGS) * ~outside
        return self._take_in(judged, forecast, states, worse | ~within)

    def expected(self, forecast: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., 2C) forecasts to (..., C, 3) low, mid, high, physical units, see BAND_NATS; NaN of one never seen."""
        mid, band = np.split(forecast.astype(np.float64), 2, axis=-1)
        expected = float32(np.stack([mid - band, mid, mid + band], axis=-1))
        return np.where((band < LARGEST_SCORE)[..., None], expected, np.float32(np.nan))

    def residual(self, values: NDArray[np.float32], forecast: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., C) reading minus forecast in mean errors of the channel so far, signed; 0 where missing."""
        mid, band = np.split(forecast.astype(np.float64), 2, axis=-1)
        residual = (values - mid) / np.maximum(band / self._rare, 1e-30)
        return float32(np.where(np.isfinite(values), residual, 0.0))

    def _forget_after_gaps(self, timestamps_ms: NDArray[np.int64], states: Records) -> None:
        interval = states["interval_ms"]
        restart = (interval > 0) & (timestamps_ms - states["last_ms"] > RESTART_INTERVALS * interval)
        if np.count_nonzero(restart):
            forget_forecasts(states, restart)
            for name in self._tensors:
                states[name][restart] = 0

    def _forecast(self, due: NDArray[np.float64], states: Records) -> NDArray[np.float32]:
        """(B, 2C) what is expected of the reading, and how far off it may be: LARGEST_SCORE, of one never seen."""
        streams, channels = due.shape
        forecast = np.empty((streams, 2, channels))
        forecast[:, 0] = np.where(np.isfinite(due), due, states["last"])
        forecast[:, 1] = np.where(states["count"] > 0, self._rare * usual_miss(states), LARGEST_SCORE)
        return float32(forecast.reshape(streams, 2 * channels))

    def _look_ahead(self, features: NDArray[np.float32], states: Records, readings: NDArray[np.int64]) -> None:
        """Run the network on every channel of all streams, and keep what it forecasts."""
        streams, channels, _ = features.shape
        feed = {"x": features.reshape(streams * channels, -1)}
        for name, shape in self._tensors.items():
            feed[name] = np.ascontiguousarray(states[name]).reshape(streams * channels, *shape)
        mean, *tensors = self._session.run(self._outputs, feed)
        settle(mean, tensors)
        for name, tensor in zip(self._tensors, tensors, strict=True):
            states[name] = tensor.reshape(states[name].shape)
        steps = np.minimum(np.maximum(mean.reshape(streams, channels, -1), -FORECAST_LIMIT), FORECAST_LIMIT)
        ahead = states["last"][..., None] + states["step"][..., None] * steps.astype(np.float64)
        unseen = states["count"] == 0
        if np.count_nonzero(unseen):
            ahead[unseen] = np.nan
        remember_forecasts(states, ahead, readings)
