"""The gate: whether a new version is better than the one it is to replace, by its figures on the newest readings.

    enough            both judged LEAST_READINGS of the newest readings that are not left out
    forecasts         its loss is at most that of the version before
    false alarms      it keeps the rate that it was made for, within the factor that is promised (1.5) and what chance
                      adds; or its false alarms take no more readings than those of the version before
    faults            it finds no fewer of the labelled faults

The loss of a channel is the mean absolute error of its forecasts, in that of taking the last value for the next one
(MASE, Hyndman & Koehler 2006); that of the model is their geometric mean. It has no unit, models of different scales
can be compared, and no channel outweighs the others because it hardly moves.

False alarms come in bursts: with n readings in k false alarms of N usual ones, expected are 1.5 rate N k/n false
alarms, and too many are so many as a Poisson variable of that mean reaches with a probability below CHANCE.

Both models see the same readings, those before the newest ones first, as they would live. What is left out, labelled or
judged anomalous by a model, is no false alarm and has no part in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gatewatch.models.artefact.files import Artefact, GeneralManifest
from gatewatch.models.artefact.gate_report import Figures, Rule
from gatewatch.models.detectors.detector import ANOMALOUS, WARMING_UP, Scanner
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.models.detectors.incidents import calm_step
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import EvaluationError
from gatewatch.models.evaluation.evaluate import WEEK_S, false_alarms
from gatewatch.models.recordings.labels import Span
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.review import Mask, Reviewed
from gatewatch.models.scan import Scan, scan_together
from gatewatch.models.text import listed

LEAST_READINGS: Final = 100
RATE_FACTOR: Final = 1.5
CHANCE: Final = 0.05

LEAST_LOSS: Final = 1e-6
"""Of a channel that is forecast exactly."""

LEAD_READINGS: Final = 2048
"""Before the newest readings of a stream, so that both models know it: more than any model takes to come back."""

MOST_VALUES: Final = 2_000_000
"""Of the newest readings of all streams; of more, the newest."""

SIDE_BY_SIDE: Final = 64


@dataclass(frozen=True)
class Newest:
    """The newest readings of a stream, with those before them.

    Attributes:
        recording: in memory.
        begins: the row at which the newest ones begin.
        left_out: (N,) see Reviewed.
        events: first and last row of the labelled faults among the newest.
    """

    recording: Recording
    begins: int
    left_out: Mask
    events: Sequence[Span]


@dataclass(frozen=True)
class Parts:
    """Recordings divided by time: what may be trained on, and what comes after that.

    Attributes:
        trained: of each recording, how many of its rows; what is left out of these is not trained on.
        newest: the rest, of those recordings that have one.
    """

    trained: Sequence[tuple[Reviewed, int]]
    newest: Sequence[Newest]


def divide(reviewed: Sequence[Reviewed], share: float) -> Parts:
    """Set the newest `share` of each stream's readings apart. 0 < share <= 1.

    A stream may be in several recordings, which are put in the order of their times.
    """
    streams: dict[str, list[Reviewed]] = {}
    for one in reviewed:
        if len(one.source):
            streams.setdefault(one.source.stream, []).append(one)
    values = sum(len(one.source) * len(one.source.channels) for one in reviewed)
    share_held = min(share, MOST_VALUES / values) if values else share
    trained: list[tuple[Reviewed, int]] = []
    newest: list[Newest] = []
    for parts in streams.values():
        parts.sort(key=lambda one: int(one.source.rows(0, 1).timestamps_ms[0]))
        count = sum(len(one.source) for one in parts)
        to_train, to_skip = count - math.ceil(count * share), count - math.ceil(count * share_held)
        before = 0
        for one in parts:
            length = len(one.source)
            trained.append((one, min(length, max(0, to_train - before))))
            begins = min(length, max(0, to_skip - before))
            if begins < length:
                newest.append(_newest(one, begins))
            before += length
    return Parts(trained, newest)


def _newest(one: Reviewed, begins: int) -> Newest:
    first = max(0, begins - LEAD_READINGS)
    spans = [(max(start, begins) - first, end - first) for start, end in one.events if end >= begins]
    return Newest(one.source.rows(first), begins - first, one.left_out[first:], spans)


@dataclass(frozen=True)
class Compared:
    """What two models did on the same readings.

    Attributes:
        usual: readings that both judged and that are not left out.
        weeks: how long these are, of one stream.
        events: labelled faults with a reading that both judged.
    """

    new: Figures
    before: Figures
    usual: int
    weeks: float
    events: int


def detector_for(artefact: Artefact, channels: Sequence[str], what: str) -> Scanner:
    """A model as it scores readings of these channels.

    Raises:
        EvaluationError: it has other channels.
    """
    if isinstance(artefact.manifest, GeneralManifest):
        return GeneralDetector(artefact, channels)
    detector = TrainedDetector(artefact)
    if set(detector.channels) != set(channels):
        raise EvaluationError(
            f"{what} has the channels {listed(detector.channels)}, the recordings have {listed(channels)}: it cannot "
            "score them"
        )
    return detector


def compare(
    new: Scanner, before: Scanner, newest: Sequence[Newest], on_readings: Callable[[int], None] = lambda _: None
) -> Compared:
    """Score the newest readings with both models.

    Args:
        on_readings: called now and then with how many more were scored, by one of them.

    Raises:
        RecordingError: the channels of a recording are not a model's.
    """
    names = new.channels
    sums = _Sums(len(names)), _Sums(len(names))
    usual, events, weeks = 0, 0, 0.0
    for start in range(0, len(newest), SIDE_BY_SIDE):
        some = newest[start : start + SIDE_BY_SIDE]
        recordings = [one.recording for one in some]
        pairs = zip(*(scan_together(model, recordings, None, on_readings) for model in (new, before)), strict=True)
        for one, pair in zip(some, pairs, strict=True):
            judged = (pair[0].status != WARMING_UP) & (pair[1].status != WARMING_UP)
            judged[: one.begins] = False
            counted = judged & ~one.left_out
            seconds = interval_s(one.recording)
            usual += int(counted.sum())
            weeks += int(counted.sum()) * seconds / WEEK_S
            known = [span for span in one.events if judged[span[0] : span[1] + 1].any()]
            events += len(known)
            for total, found in zip(sums, pair, strict=True):
                total.take(found, names, judged, counted, known, calm_step(seconds) if seconds else 1)
    return Compared(sums[0].figures(), sums[1].figures(), usual, weeks, events)


def interval_s(recording: Recording) -> float:
    """The usual time between two readings; 0 where no time goes on."""
    steps = np.diff(recording.times_us)
    return float(np.median(steps[steps > 0])) / 1e6 if (steps > 0).any() else 0.0


class _Sums:
    """What the figures of one model are made of."""

    def __init__(self, channels: int) -> None:
        self._missed, self._moved = np.zeros(channels), np.zeros(channels)
        self._anomalous = self._false_alarms = self._found = 0

    def take(
        self, found: Scan, names: Sequence[str], judged: Mask, counted: Mask, events: Sequence[Span], step: int
    ) -> None:
        """Take in the scan of a stream, its channels in the order of `names`."""
        order = [found.recording.channels.index(name) for name in names]
        values = found.recording.values[:, order].astype(np.float64)
        moved = np.abs(np.diff(values, axis=0, prepend=values[:1]))
        missed = np.abs(values - found.expected[:, order, 1])
        there = np.isfinite(moved) & np.isfinite(missed) & counted[:, None]
        self._missed += np.where(there, missed, 0.0).sum(axis=0)
        self._moved += np.where(there, moved, 0.0).sum(axis=0)
        alarm = judged & (found.status == ANOMALOUS)
        false = alarm & counted  # also where a fault came in between: an endless alarm is one all the same
        self._anomalous += int(false.sum())
        self._false_alarms += len(false_alarms(false, np.zeros(len(false), bool), step))
        self._found += sum(bool(alarm[first : last + 1].any()) for first, last in events)

    def figures(self) -> Figures:
        """What they come to."""
        moving = self._moved > 0
        ratios = np.maximum(self._missed[moving] / self._moved[moving], LEAST_LOSS)
        loss = float(np.exp(np.log(ratios).mean())) if moving.any() else None
        return Figures(loss=loss, anomalous=self._anomalous, false_alarms=self._false_alarms, found=self._found)


def rules_of(found: Compared, asked: Artefact) -> list[Rule]:
    """The rules, and whether each is kept.

    Args:
        asked: the new version, which says what rate of false alarms it was made for.
    """
    new, before = found.new, found.before
    loss = new.loss is not None and before.loss is not None and new.loss <= before.loss
    fewer = new.anomalous <= before.anomalous
    share = new.anomalous / found.usual if found.usual else 0.0
    return [
        Rule(
            rule=f"at least {LEAST_READINGS} of the newest readings",
            kept=found.usual >= LEAST_READINGS,
            figures=f"{found.usual} readings",
        ),
        Rule(
            rule="its forecasts are no worse",
            kept=loss,
            figures=f"loss {_shown(new.loss)} against {_shown(before.loss)}",
        ),
        Rule(
            rule="it keeps the rate of false alarms asked, or has no more of them",
            kept=_keeps_rate(found, asked) or fewer,
            figures=f"{new.anomalous} readings ({share:.2%}) in {new.false_alarms} false alarms against "
            f"{before.anomalous} in {before.false_alarms}, asked {asked_of(asked)}",
        ),
        Rule(
            rule="it finds no fewer of the labelled faults",
            kept=new.found >= before.found,
            figures=f"{new.found} of {found.events} faults against {before.found}",
        ),
    ]


def asked_of(artefact: Artefact) -> str:
    """The rate of false alarms that a model was made for, in words."""
    if isinstance(artefact.manifest, GeneralManifest):
        return f"{artefact.manifest.calibration.alerts_per_week:g} a stream and week"
    return f"{artefact.manifest.calibration.false_alarm_rate:.3%} of the readings"


def _keeps_rate(found: Compared, asked: Artefact) -> bool:
    """Whether so many false alarms may come by chance at RATE_FACTOR times the rate."""
    count, manifest = found.new.false_alarms, asked.manifest
    if not count:
        return True
    if isinstance(manifest, GeneralManifest):
        expected = manifest.calibration.alerts_per_week * found.weeks
    else:
        expected = manifest.calibration.false_alarm_rate * found.usual * count / max(found.new.anomalous, 1)
    return _poisson_tail(count, RATE_FACTOR * expected) >= CHANCE


def _poisson_tail(count: int, mean: float) -> float:
    """The probability of `count` or more."""
    if mean <= 0:
        return float(count == 0)
    below = [at * math.log(mean) - mean - math.lgamma(at + 1) for at in range(count)]
    return 1.0 - math.fsum(map(math.exp, below))


def _shown(loss: float | None) -> str:
    return "none" if loss is None else f"{loss:.4f}"
