"""GeneralDetector: watches streams that nobody trained on, each channel for itself, by one network for all."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import (
    Artefact,
    GeneralManifest,
    Signed,
    artefact_hashes,
    load_artefact,
    record_dtype,
)
from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.clock import LONGEST_MS, NEVER, clock_fields, take_time
from gatewatch.models.detectors.detector import Floats, Records, Scanner, Step
from gatewatch.models.detectors.general.alert_budget import REPEATS, budget_fields, kept, take_pace
from gatewatch.models.detectors.general.codes import without_codes
from gatewatch.models.detectors.general.features import (
    BINS,
    DAY_MS,
    FEATURES,
    HORIZONS,
    PLACES,
    observe,
    placed,
    running_fields,
    seasonal,
)
from gatewatch.models.detectors.general.lone import MOST_CHANNELS, look_ahead, read_alone
from gatewatch.models.detectors.general.misses import miss_for
from gatewatch.models.detectors.general.reading import Rules, judge, look_at
from gatewatch.models.detectors.general.rows import advance_rows
from gatewatch.models.detectors.general.runs import set_apart
from gatewatch.models.detectors.general.score import (
    FORECAST_LIMIT,
    OF_OLD_COUNTERS,
    RANGE_ALERT_READINGS,
    begin_surprise,
    due_forecasts,
    forget_forecasts,
    remember_forecasts,
    surprise_fields,
)
from gatewatch.models.detectors.general.shape import FIELDS, shape_fields, take_shapes
from gatewatch.models.detectors.general.tail import COUNTERS
from gatewatch.models.detectors.incidents import (
    check_shapes,
    hold,
    incident_fields,
    is_open,
    open_channels,
    with_incidents_ended,
)
from gatewatch.models.detectors.network import Network
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.version_1 import general_dtype_1, taken_over
from gatewatch.models.errors import ArtefactError

RESTART_INTERVALS = 100
"""A longer gap, in typical intervals, restarts the network's state unless it is of the stream's rhythm; what the stream
has shown of itself stays."""

RESTART_AGE = 1000
"""Readings from which on gaps are known by the interval. After a burst at the start it is far too short; all that came
later would be gaps, of which nothing is learned."""

LEARNED = (
    *("count", "moves", "lesson", "center", "spread", "step", "low", "high", "reach"),
    *("table", "visits", "table_miss", "tried"),
    *("miss", "misses", "counted", "longest_still", "longest_absent", "changes"),
    *("jump_edge", "jump_excess", "jumps", "home", "drift", "usual", "unrest", *FIELDS),
)
"""The fields of a state that say what is normal for the stream; the others say where it stands."""

BAND_NATS = 6.0
"""One miss beyond the band expected is as rare as one reading in 400."""


def load_detector(
    folder: Path,
    channels: Sequence[str] = (),
    alerts_per_week: float | None = None,
    trust: Signed | None = None,
    unnamed: bool = False,
) -> Scanner:
    """Load and verify the artefact in `folder`, trained or general.

    Args:
        channels: what the general model is to watch; of a trained model, its own or none.
        alerts_per_week: of the general model.
        trust: who must have signed it; None where nobody need.
        unnamed: the general model may be without channels; `GeneralDetector.watching` gives it some.

    Raises:
        ArtefactError: the artefact cannot be used, or `channels` are not what it needs.
    """
    artefact = load_artefact(folder, trust)
    if isinstance(artefact.manifest, GeneralManifest):
        if not channels and not unnamed:
            raise ArtefactError(
                f"{folder} is the general model, which has no channels of its own: name those it is to watch"
            )
        return GeneralDetector(artefact, channels, alerts_per_week)
    detector = TrainedDetector(artefact)
    if alerts_per_week is not None:
        raise ArtefactError(f"{folder} is a trained model, whose thresholds are learned; alerts a week are not for it")
    if channels and set(channels) != set(detector.channels):
        raise ArtefactError(f"{folder} has the channels {', '.join(detector.channels)}; found {', '.join(channels)}")
    return detector


class GeneralDetector:
    """The general model, bound to the channels of a stream; one record of `state_dtype` is a stream's state.

    The network is shown each channel by `models.detectors.general.features`, and forecasts its value 1, 3, 10 and 30
    readings ahead, in steps from the last one; `models.detectors.general.score` makes a score of how far that was off.
    A state has 2.6 KB a channel, of which 1 KB is the network's.
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
        self.digest = artefact.digest
        self.warm_up = manifest.calibration.warm_up
        self._rules = Rules(self.alerts_per_week, miss_for(BAND_NATS), self.warm_up)
        self._tensors = {name: tuple(shape) for name, shape in manifest.state.items()}
        self.state_dtype = self.dtype_of(len(self.channels))
        self.state_dtype_1 = general_dtype_1(len(self.channels), self._tensors)
        self._network = Network(artefact.graph, {"x": (FEATURES,)}, self._tensors, (len(HORIZONS),))

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
        """What must be the same elsewhere for the same scores: the hashes of its artefact, and the alert budget."""
        return {**artefact_hashes(self.manifest), "alerts_per_week": self.alerts_per_week}

    @property
    def rebuild_readings(self) -> int:
        """How many readings a state that was lost has to be replayed to be whole again."""
        return self.manifest.calibration.rebuild_readings

    def held(self, before: Records, after: Records) -> Records:
        """(B,) states after readings that were followed and taught nothing; see Detector.held."""
        states = hold(before, after, LEARNED)
        states["sound"] = 0  # where the hold ends, the phase of a cycle is not what it was
        moved = before["origin"] - after["origin"]
        if np.count_nonzero(moved):
            for name in set(LEARNED) & set(PLACES):
                states[name] += moved.reshape(*moved.shape, *[1] * (states[name].ndim - 2))
        return states

    is_open = staticmethod(is_open)
    open_channels = staticmethod(open_channels)
    with_incidents_ended = staticmethod(with_incidents_ended)

    def require_live(self) -> None:
        """It scores every stream while it runs."""

    def hindsight(self, values: Floats, timestamps_ms: NDArray[np.int64]) -> None:
        """None: it needs no readings after a reading."""

    def advance_knowing(
        self,
        forecast: NDArray[np.float32],  # noqa: ARG002
        values: Floats,
        timestamps_ms: NDArray[np.int64],
        states: Records,
    ) -> Step:
        """`advance`: it makes its own forecasts."""
        return self.advance(values, timestamps_ms, states)

    def watching(self, channels: Sequence[str]) -> GeneralDetector:
        """The same model for other channels; the network is shared."""
        other = copy.copy(self)
        other.channels = tuple(channels)
        other.state_dtype = self.dtype_of(len(other.channels))
        other.state_dtype_1 = general_dtype_1(len(other.channels), self._tensors)
        return other

    def dtype_of(self, channels: int) -> np.dtype[Any]:
        """The dtype of states of streams with so many channels."""
        return record_dtype(
            [
                *clock_fields(),
                ("readings", "<u4"),
                *incident_fields(channels),
                ("inside", "<u2"),
                *budget_fields(),
                *running_fields(channels),
                *surprise_fields(channels),
                *shape_fields(channels),
                *((name, "<f4", (channels, *shape)) for name, shape in self._tensors.items()),
            ]
        )

    def rearranged(self, states: Records, channels_before: Sequence[str]) -> Records:
        """(B,) states for this detector's channels from those of the same model for others, or in another order.

        What is kept of a channel goes with its name, a new channel begins afresh, what is of the whole stream goes on.

        Args:
            states: (B,) of dtype `dtype_of(len(channels_before))`.
        """
        rearranged = self.initial(len(states))
        kept = [name for name in self.channels if name in channels_before]
        to, of = [self.channels.index(name) for name in kept], [channels_before.index(name) for name in kept]
        one, two = self.dtype_of(1), self.dtype_of(2)
        for name in one.names or ():
            if one[name] == two[name]:
                rearranged[name] = states[name]
            else:
                rearranged[name][:, to] = states[name][:, of]
        return rearranged

    def carried_over(self, state: bytes, channels_before: Sequence[str]) -> Records | None:
        """(1,) state for these channels from that of the same model for others; None where it is none.

        One that a version before `shape` wrote, which its length tells, goes on with nothing remembered of cycles.
        """
        before, without_shape = self.dtype_of(len(channels_before)), self.dtype_without_shape(len(channels_before))
        if len(state) == before.itemsize:
            return self.rearranged(np.frombuffer(state, before), channels_before)
        if len(state) != without_shape.itemsize:
            return None
        kept, states = np.frombuffer(state, without_shape), self.watching(channels_before).initial(1)
        for name in without_shape.names or ():
            if name != "counted":
                states[name] = kept[name]
        states["counted"][:, OF_OLD_COUNTERS] = kept["counted"]
        return self.rearranged(states, channels_before)

    def dtype_without_shape(self, channels: int) -> np.dtype[Any]:
        """The dtype of states that versions before `shape` wrote."""
        of_new = ("counted", "sound", *FIELDS)
        fields = [(name, kind) for name, (kind, *_) in (self.dtype_of(channels).fields or {}).items()]
        old: list[Any] = [one for one in fields if one[0] not in of_new]
        at = [name for name, _ in old].index("lasting") + 1
        return np.dtype([*old[:at], ("counted", "<f4", (len(OF_OLD_COUNTERS), COUNTERS)), *old[at:]])

    def digest_1(self, channels: Sequence[str]) -> bytes:
        """What records of format 3 called this model: by its channels too."""
        return hashlib.sha256(self.digest + repr(tuple(channels)).encode()).digest()[:8]

    def band_1(self, forecast: Floats) -> tuple[Floats, NDArray[np.float32]]:
        """Nothing: histories of format 3 kept the general model's band beside its forecasts, and no less."""
        return np.full(forecast.shape, np.nan), np.full(forecast.shape, np.inf, np.float32)

    def from_version_1(self, states: Records) -> Records:
        """(B,) states from those of `state_dtype_1`: places become distances from an origin, the last value."""
        other = ("counted", "table", "visits")
        names = [name for name in states.dtype.names or () if name not in other]
        taken = taken_over(states[names], self.initial(len(states)))
        taken["table"], taken["visits"] = states["table"][:, :, None], states["visits"][:, :, None]
        taken["counted"][:, : states["counted"].shape[1]] = states["counted"]  # without jumps
        taken["changes"] = taken["count"]
        taken["origin"] = 0.0
        at = np.nonzero(taken["count"] > 0)
        for name in PLACES:  # in float64, before they are rounded
            places, origins = taken[name][at].astype(np.float64), taken["last"][at]
            taken[name][at] = places - origins.reshape(-1, *[1] * (places.ndim - 1))
        taken["origin"] = taken["last"]
        old = states["last_ms"] - states["first_ms"] >= DAY_MS  # their tables counted as known
        taken["tried"][old], taken["table_miss"][old] = BINS, states["miss"][old][..., -1:]
        return taken

    def initial(self, streams: int) -> Records:
        """(B,) states of streams that have not seen a reading."""
        states = np.zeros(streams, self.state_dtype)
        states["inside"] = RANGE_ALERT_READINGS
        states["repeats"] = REPEATS
        begin_surprise(states)
        states["last_ms"] = NEVER
        return self.with_incidents_ended(states)

    def keeps_budget(self, states: Records) -> NDArray[np.bool_]:
        """(B,) whether the alerts a week that are allowed can be kept at the pace of each stream."""
        return kept(states, self.alerts_per_week)

    def set_apart(self, states: Records) -> NDArray[np.bool_]:
        """(B, C) channels that have stood still, or been absent, for so long that they no longer count in the score."""
        return set_apart(states)

    def step(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> Step:
        """`advance`, with `states` left as they are."""
        return self.advance(values, timestamps_ms, states.copy())

    def advance(
        self,
        values: Floats,
        timestamps_ms: NDArray[np.int64],
        states: Records,
        asked: Asked | None = None,
    ) -> Step:
        """Feed one reading of each of B streams and write the states after it into `states`; see Detector.advance."""
        check_shapes(len(self.channels), values, timestamps_ms, states)
        step = None
        if asked is None and len(states) == 1 and len(self.channels) <= MOST_CHANNELS:
            step = self.advance_alone(values, timestamps_ms, states)
        return self.advance_together(values, timestamps_ms, states, asked) if step is None else step

    @property
    def least_company(self) -> int:
        """See Scanner: a step of arrays costs as much as a row of eight streams taken with its like."""
        return 8

    def advance_rows(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> Step | None:
        """Feed the first usual ones of a stream's next readings; see models.detectors.general.rows."""
        return advance_rows(values, timestamps_ms, states, self._rules, self._network, self._tensors)

    def advance_alone(self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records) -> Step | None:
        """`advance` of one stream, if its reading is usual; see models.detectors.general.lone."""
        taken = read_alone(values, timestamps_ms, states, self._rules)
        if taken is None:
            return None
        look_ahead(taken, self._forecast(taken.features, states), states)
        return taken.step

    def advance_together(
        self, values: Floats, timestamps_ms: NDArray[np.int64], states: Records, asked: Asked | None = None
    ) -> Step:
        """`advance` of any number of streams."""
        if asked is not None:
            values = asked.seen(values)
        values = without_codes(values, states)
        elapsed = self._note_time(timestamps_ms, states)
        readings = states["readings"].astype(np.int64)
        due = due_forecasts(states, readings)
        now = placed(states, values)
        by_day, shapes = seasonal(states, now[1], timestamps_ms), take_shapes(values, now, elapsed, states)
        look = look_at(values, now, by_day, due, shapes, states, self._rules, asked)
        known_for = None if look.youth is None else look.youth.known
        self._look_ahead(observe(states, values, now, timestamps_ms, elapsed, known_for), states, readings)
        take_pace(states, elapsed, readings)
        return judge(look, states, self._rules, asked)

    def _note_time(self, timestamps_ms: NDArray[np.int64], states: Records) -> NDArray[np.int64]:
        """(B,) time since the reading before, see models.detectors.clock; of gaps the forecasts and the network know
        nothing."""
        interval = states["interval_ms"]
        known = (states["readings"] >= RESTART_AGE) & (interval > 0)
        elapsed, anew = take_time(states, timestamps_ms, np.where(known, RESTART_INTERVALS * interval, LONGEST_MS))
        if anew is not None:
            forget_forecasts(states, states["leapt"])
            for name in self._tensors:
                states[name][anew] = 0
        return elapsed

    def _look_ahead(self, features: NDArray[np.float32], states: Records, readings: NDArray[np.int64]) -> None:
        """Run the network on every channel of all streams, and keep what it forecasts."""
        streams, channels, _ = features.shape
        forecast = self._forecast(features.reshape(streams * channels, -1), states).reshape(streams, channels, -1)
        steps = np.minimum(np.maximum(forecast, -FORECAST_LIMIT), FORECAST_LIMIT)
        place = states["last"] - states["origin"]
        ahead = place[..., None] + states["step"][..., None] * steps.astype(np.float64)
        unseen = states["count"] == 0
        if np.count_nonzero(unseen):
            ahead[unseen] = np.nan
        remember_forecasts(states, ahead, readings)

    def _forecast(self, features: NDArray[np.float32], states: Records) -> NDArray[np.float32]:
        """(rows, horizons) forecasts of the network, in steps, of (rows, FEATURES), a row a channel of a stream."""
        feed = {"x": features}
        for name, shape in self._tensors.items():
            feed[name] = states[name].reshape(len(features), *shape)
        forecast, tensors = self._network.step(feed)
        for name, tensor in zip(self._tensors, tensors, strict=True):
            states[name] = tensor.reshape(states[name].shape)
        return forecast
