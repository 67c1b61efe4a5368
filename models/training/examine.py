"""Look through recordings for what is odd about them, before time is spent on training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.trained.scaling import STANDARDISED_LIMIT, Scaling
from gatewatch.models.evaluation.threshold import EVENT_SHARE, TRUSTED
from gatewatch.models.recordings.recording import Recording, Source, pieces
from gatewatch.models.recordings.tables import block_rows
from gatewatch.models.training.suitability import KINDS, Finding, Suitability

GAP_INTERVALS = 10
"""A time between two readings of more typical intervals is reported as a gap."""

STUCK_READINGS, STUCK_TIMES = 100, 50
"""A channel stood still if it did so for that many readings, and that many times longer than it usually does."""

PLACES, PLACE_ROWS = 8, 32
"""Places in each piece of a recording where the level is looked at, and readings a place."""

STEADY, UNIT_TOLERANCE, MOST_JUMPS = 0.25, 0.1, 2
"""A level that changes tenfold, a hundredfold or a thousandfold, give or take 10 %, is taken for a change of unit where
it is steady before and after (its quartiles lie within a quarter of it). More than two in a recording are none: a
machine that is switched on and off."""

RULED = 20.0
"""Outliers rule a channel's spread where it is so many times what its quartiles say."""

SAMPLE_ROWS = 4096
"""Readings from which those quartiles are taken, at most."""

COUNTED = 30
"""Changes of a channel, all of them up or all down, that make it a counter."""

PLACED = ("duplicate time", "backward time", "gap in time", "missing", "stuck", "outlier", "unit change")
"""Those that have a place in a recording."""

Floats = NDArray[np.float64]


def examine(
    given: Sequence[Source],
    used: Sequence[Source],
    scaling: Scaling,
    false_alarm_rate: float,
    labels: Sequence[Source] = (),
) -> Suitability:
    """Look through recordings once, piece by piece.

    Args:
        given: all recordings, with the same channels.
        used: those long enough to be trained on.
        scaling: learned from those.
        false_alarm_rate: what the thresholds are to be calibrated to.
        labels: the label columns that were left out, each for itself.
    """
    channels = given[0].channels
    all_of_them = _Channels(channels)
    for recording in given:
        all_of_them.take(_Look(recording, scaling))
    for column in labels:
        all_of_them.take_labels(column)
    findings = all_of_them.findings(scaling)
    left_out = [recording for recording in given if not any(recording is one for one in used)]
    if left_out:
        findings.append(Finding("too short", "", len(left_out), 0.0, left_out[0].stream))
    shown = sum(map(len, used))
    needed = math.ceil(TRUSTED / (EVENT_SHARE * false_alarm_rate))
    if shown < needed:
        findings.append(Finding("too little", "", shown, needed, f"for a false-alarm rate of {false_alarm_rate:g}"))
    readings = sum(map(len, given))
    missing = sum(finding.count for finding in findings if finding.kind == "missing")
    order = list(KINDS)
    findings.sort(key=lambda finding: order.index(finding.kind))
    return Suitability(len(given), readings, missing / (readings * len(channels)), findings)


class _Look:
    """One pass over one recording. A run is followed within a piece only, of some 260,000 values."""

    def __init__(self, recording: Source, scaling: Scaling) -> None:
        channels = len(recording.channels)
        self.stream, self._scaling = recording.stream, scaling
        self.counts = {kind: np.zeros(channels, np.int64) for kind in PLACED}
        self.extents = {kind: np.zeros(channels) for kind in PLACED}
        self.places = {kind: np.zeros((channels, 2), np.int64) for kind in PLACED}
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.sample: list[Floats] = []
        self._levels: list[Floats] = []
        self._level_places: list[tuple[int, int]] = []
        self.rises, self.falls = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
        self._changes = np.zeros(channels, np.int64)
        rows = block_rows(channels)
        for start in range(0, len(recording), rows):
            before = min(start, 1)
            self._look(recording.rows(start - before, start + rows), before, start)
        usual_run = len(recording) / np.maximum(self._changes, 1)
        usual = self.extents["stuck"] < np.maximum(STUCK_READINGS, STUCK_TIMES * usual_run)
        usual |= self.low >= self.high  # constant, which is told elsewhere
        self.counts["stuck"] = np.where(usual, 0, 1)
        levels = np.array(self._levels)  # (places, C)
        self._note_unit_changes(levels)
        quarter, median, three_quarters = _quartiles(levels)
        # around 0 a level is what is left of a wave: it says nothing of the unit
        self.level = np.where(three_quarters - quarter <= np.abs(median), median, np.nan)

    def _look(self, piece: Recording, before: int, start: int) -> None:
        """A piece, led by `before` rows of the one before it; it begins at row `start` of the recording."""
        times, values = piece.timestamps_ms[before:], piece.values[before:]
        steps = np.diff(piece.timestamps_ms)[:, None] / 1000  # seconds
        late = len(times) - len(steps)  # 1 in the first piece, whose first reading has none before it
        self._note("duplicate time", steps == 0, np.ones_like(steps), times[late:], start + late)
        self._note("backward time", steps < 0, -steps, times[late:], start + late)
        self._note("gap in time", steps > GAP_INTERVALS * self._scaling.interval_s, steps, times[late:], start + late)
        absent = np.isnan(values)
        self._note("missing", absent, _runs(absent), times, start)
        moves = np.diff(piece.values, axis=0)
        self.rises += (moves > 0).sum(axis=0)
        self.falls += (moves < 0).sum(axis=0)
        same = moves == 0
        self._note("stuck", same, _runs(same), times[late:], start + late)
        self._changes += (~same).sum(axis=0)
        off = np.abs(self._scaling.deviation(values))
        self._note("outlier", off > STANDARDISED_LIMIT, off, times, start)
        self.low = np.minimum(self.low, np.where(absent, np.inf, values).min(axis=0))
        self.high = np.maximum(self.high, np.where(absent, -np.inf, values).max(axis=0))
        for at in np.unique(np.linspace(0, max(0, len(values) - PLACE_ROWS), PLACES).astype(int)).tolist():
            place = values[at : at + PLACE_ROWS].astype(np.float64)
            quarter, median, three_quarters = _quartiles(place)
            steady = three_quarters - quarter <= STEADY * np.abs(median)
            self._levels.append(np.where(steady & (median != 0), median, np.nan))
            self.sample.append(place[len(place) // 2])
            self._level_places.append((start + at, int(times[at])))

    def _note(
        self, kind: str, odd: NDArray[np.bool_], extent: NDArray[Any], times: NDArray[np.int64], start: int
    ) -> None:
        """Count what is odd, and keep the place of the worst; odd, extent (N, C), or (N, 1) for all channels."""
        if not odd.any():
            return
        extent = np.where(odd, extent, 0)
        largest = extent.max(axis=0)
        better = largest > self.extents[kind]  # (C,)
        worst = np.broadcast_to(extent.argmax(axis=0), better.shape)
        self.counts[kind] += odd.sum(axis=0)
        self.extents[kind] = np.maximum(self.extents[kind], largest)
        self.places[kind][better] = np.stack([start + worst, times[worst]], axis=1)[better]

    def _note_unit_changes(self, levels: Floats) -> None:
        """Two places alike, then two alike on another level."""
        a, b, c, d = (levels[at : len(levels) - 3 + at] for at in range(4))
        factor = np.where(_alike(a, b) & _alike(c, d), _unit_factor(b, c), 0)
        factor[:, (factor > 0).sum(axis=0) > MOST_JUMPS] = 0
        rows, times = np.array(self._level_places[2:-1] or [(0, 0)]).T
        if len(factor):
            self._note("unit change", factor > 0, factor, times, 0)
            self.places["unit change"][:, 0] = rows[factor.argmax(axis=0)]


class _Channels:
    """What was found in all recordings so far."""

    def __init__(self, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self._found: dict[tuple[str, str], Finding] = {}
        self._low, self._high = np.full(len(channels), np.inf), np.full(len(channels), -np.inf)
        self._rises, self._falls = np.zeros(len(channels), np.int64), np.zeros(len(channels), np.int64)
        self._sample: list[Floats] = []
        self._levels: list[tuple[str, Floats]] = []

    def take(self, look: _Look) -> None:
        """One recording more."""
        for kind in PLACED:
            of_all = kind.endswith("time")
            for at in np.flatnonzero(look.counts[kind])[: 1 if of_all else None].tolist():
                row, ms = look.places[kind][at].tolist()
                moment = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
                where = f"{look.stream}, reading {row + 1}, {moment}"
                channel = "" if of_all else self.channels[at]
                self._add(kind, channel, int(look.counts[kind][at]), float(look.extents[kind][at]), where)
        self._low, self._high = np.minimum(self._low, look.low), np.maximum(self._high, look.high)
        self._rises, self._falls = self._rises + look.rises, self._falls + look.falls
        self._sample += look.sample[: SAMPLE_ROWS - len(self._sample)]
        self._levels.append((look.stream, look.level))

    def take_labels(self, column: Source) -> None:
        """The label column of one recording."""
        marked = sum(int((piece.values > 0).sum()) for piece in pieces(column))
        self._add("label", column.channels[0], marked, float(marked), column.stream)

    def _add(self, kind: str, channel: str, count: int, extent: float, where: str) -> None:
        had = self._found.get((kind, channel), Finding(kind, channel, 0, -1.0, ""))
        worst = (extent, where) if extent > had.extent else (had.extent, had.where)
        self._found[kind, channel] = Finding(kind, channel, had.count + count, *worst)

    def findings(self, scaling: Scaling) -> list[Finding]:
        """All of them, with those that only show in all recordings together."""
        quarter, _, three_quarters = _quartiles(np.array(self._sample))
        expected = (three_quarters - quarter) / 1.349  # the spread of a normal distribution with these quartiles
        for at, channel in enumerate(self.channels):
            if self._low[at] > self._high[at]:
                self._add("empty", channel, 1, 0.0, "")
            elif self._low[at] == self._high[at]:
                self._add("constant", channel, 1, float(self._low[at]), "")
            elif expected[at] > 0 and scaling.spread[at] > RULED * expected[at]:
                self._add("spread of outliers", channel, 1, float(scaling.spread[at] / expected[at]), "")
        for at in np.flatnonzero(np.minimum(self._rises, self._falls) == 0).tolist():
            if (changes := int(self._rises[at] + self._falls[at])) >= COUNTED:
                self._add("counter", self.channels[at], changes, float(self._high[at] - self._low[at]), "")
        levels = np.array([level for _, level in self._levels])  # (recordings, C)
        for at, channel in enumerate(self.channels):
            known = np.isfinite(levels[:, at])
            usual = np.median(levels[known, at]) if known.any() else np.nan
            factors = _unit_factor(np.full(len(levels), usual), levels[:, at])
            for other in np.flatnonzero(factors).tolist():
                self._add(
                    "unit change", channel, 1, float(factors[other]), f"{self._levels[other][0]} beside the others"
                )
        return list(self._found.values())


def _runs(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N, C) how long the run of true values is that ends in each row; 0 where false."""
    rows = np.arange(1, len(flags) + 1)[:, None]
    return rows - np.maximum.accumulate(np.where(flags, 0, rows), axis=0)


def _quartiles(values: Floats) -> tuple[Floats, Floats, Floats]:
    """(C,) each, of (N, C) values of which some are NaN."""
    ordered = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    at = [np.minimum(count * share // 4, np.maximum(count - 1, 0)) for share in (1, 2, 3)]
    first, second, third = (np.take_along_axis(ordered, rows[None], axis=0)[0] for rows in at)
    return first, second, third


def _alike(one: Floats, other: Floats) -> NDArray[np.bool_]:
    return np.abs(one - other) <= STEADY * np.maximum(np.abs(one), np.abs(other))


def _unit_factor(before: Floats, after: Floats) -> Floats:
    """10, 100 or 1000 where a level has grown or shrunk so many times, else 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = np.abs(np.log10(after / before))  # NaN of unlike signs, and where a level is not known
    nearest = np.round(powers)
    hit = (nearest >= 1) & (nearest <= 3) & (np.abs(powers - nearest) <= np.log10(1 + UNIT_TOLERANCE))
    return np.where(hit, 10.0 ** np.where(hit, nearest, 0), 0.0)
