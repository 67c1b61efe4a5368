"""Architectures side by side on somebody's recordings: trained alike, measured on readings that nothing was chosen by.

Each recording is cut by time. Without events: a beginning to train on (its end, `held_out`, stops the training and
calibrates the thresholds) and an end that is unseen. With events, detection is judged from the middle one on, with all
that comes after; what is before is normal once its events are cut out, and each piece is taken as a recording without
events. So losses and false alarms are of normal readings, detection figures of later ones, both unseen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import CalibrationError, TrainingError
from gatewatch.models.evaluation.evaluate import Evaluation, Scored, check_names, evaluate
from gatewatch.models.recordings.labels import Labelled, Span
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan_together
from gatewatch.models.training.architectures import Forecaster
from gatewatch.models.training.checkpoint import EpochReport
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.trained.loop import FREEDOM, negative_log_likelihood, torch_set
from gatewatch.models.training.trained.train import Trained, same_channels, train
from gatewatch.models.training.trained.windows import usable

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)

UNSEEN = 0.2
"""Share of each normal piece, its end, that neither trains nor calibrates."""

LEAD = 2048
"""Readings before the part that is judged: what a state remembers, and the warm-up."""

PIECE = 1024
"""Readings unrolled at once, where the state can be carried on."""

BLOCKS = 20
"""Of consecutive unseen readings, whose mean losses tell the standard error."""

LEVELS = np.arange(1, 20) / 20
"""Shares of the values that are to lie below the forecast's quantiles of these."""

STEPPED = 1000
"""Streams in the larger of the two batches that are timed."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """What one architecture came to.

    Attributes:
        live: whether a running stream can be scored with it; else it knows the readings after the one forecast.
        trained: the detector and its training.
        loss: of the unseen readings, nats a value.
        block_losses: (BLOCKS,) the same of blocks of them.
        calibration_error: how far the forecast distributions are from what came, see there.
        false_alarm_rate: share of judged unseen readings above the threshold.
        judged: how many those were.
        evaluation: of the labelled part; None without labels.
        parameters: of the network.
        step_us: microseconds of the processor for one reading, alone and in a batch of STEPPED; None if not live.
        state_bytes: of a stream, network and residual; None if not live.
    """

    architecture: str
    live: bool
    trained: Trained
    loss: float
    block_losses: Floats
    calibration_error: float
    false_alarm_rate: float
    judged: int
    evaluation: Evaluation | None
    parameters: int
    step_us: tuple[float, float] | None
    state_bytes: int | None

    @property
    def standard_error(self) -> float:
        """Of the loss, by its blocks."""
        return _standard_error(self.block_losses)


@dataclass(frozen=True)
class Comparison:
    """All architectures that could be trained, why the others could not, and which is recommended.

    Attributes:
        compared: in the order given.
        failed: architecture to reason.
        asked: the false-alarm rate that the thresholds were calibrated to.
        recommended: the architecture to take; empty if none is live.
        reason: a sentence.
    """

    compared: list[Compared]
    failed: dict[str, str]
    asked: float
    recommended: str
    reason: str


@dataclass(frozen=True)
class _Part:
    """A recording of which the rows from `start` on are judged."""

    recording: Recording
    start: int
    events: Sequence[Span] = ()

    def led_in(self) -> tuple[Recording, int]:
        """The rows to feed, and at which of them judging begins."""
        first = max(0, self.start - LEAD)
        return self.recording.rows(first), self.start - first


def compare(
    labelled: Sequence[Labelled],
    architectures: Sequence[str],
    config: TrainConfig,
    *,
    on_epoch: Callable[[str, EpochReport], None] = lambda *_: None,
) -> Comparison:
    """Train each architecture alike on the same parts of the recordings, and measure it on the others.

    Args:
        labelled: recordings that share their channels; of normal operation where they have no events.
        config: of all trainings, but for the architecture.
        on_epoch: told of each epoch, and of which architecture.

    Raises:
        RecordingError: the recordings' channels differ.
        TrainingError: too few normal readings, none of whose channels changes, or no architecture could be trained.
        EvaluationError: there are events, but none that can be judged.
    """
    aligned = same_channels([one.recording for one in labelled])
    given = [Labelled(recording.rows(0), one.events) for recording, one in zip(aligned, labelled, strict=True)]
    normal, eventful = _parts(given, config.held_out)
    check_names([part.recording.stream for part in eventful])
    _require_change([part.recording for part in normal])
    compared, failed = [], {}
    for architecture in architectures:
        own = config.model_validate(config.model_dump() | {"architecture": architecture})
        told = _Told(architecture, on_epoch)
        try:
            trained = train([part.recording.rows(0, part.start) for part in normal], own, on_epoch=told)
        except (TrainingError, CalibrationError) as error:
            failed[architecture] = str(error)
            continue
        compared.append(_measure(architecture, trained, normal, eventful))
    if not compared:
        names = {reason: [name for name in failed if failed[name] == reason] for reason in failed.values()}
        raise TrainingError("; ".join(f"{', '.join(names[reason])}: {reason}" for reason in names))
    return Comparison(compared, failed, config.false_alarm_rate, *recommend(compared))


def _require_change(recordings: Sequence[Recording]) -> None:
    values = np.concatenate([recording.values for recording in recordings])
    if not any(np.unique(own[np.isfinite(own)]).size > 1 for own in values.T):
        raise TrainingError(
            f"no channel ever changes in the normal parts of the recordings ({', '.join(recordings[0].channels)}): "
            "there is nothing to learn; expected at least one that does"
        )


@dataclass(frozen=True)
class _Told:
    """Tells of an epoch with the architecture's name."""

    architecture: str
    on_epoch: Callable[[str, EpochReport], None]

    def __call__(self, report: EpochReport) -> None:
        self.on_epoch(self.architecture, report)


def recommend(compared: Sequence[Compared]) -> tuple[str, str]:
    """The cheapest a reading of those whose loss is within one standard error of the best's; and why, in a sentence.

    The standard error is that of the difference to the best, block by block of the same readings (the rule of one
    standard error of Breiman et al. 1984, paired). Detection figures do not enter: a few events would choose by chance.
    """
    live = [one for one in compared if one.step_us is not None]
    if not live:
        return "", "None can be recommended: none of these architectures can score a running stream."
    best = min(live, key=lambda one: one.loss)
    near = [one for one in live if one.loss - best.loss <= _standard_error(one.block_losses - best.block_losses)]
    chosen = min(near, key=lambda one: (one.step_us or (0, 0))[1])
    cost = f"{(chosen.step_us or (0, 0))[1]:.3g} µs a reading in a batch of {STEPPED:,}"
    if len(live) == 1:
        return chosen.architecture, (
            f"There is nothing to choose: of these, {chosen.architecture} alone can score a running stream. Its loss "
            f"on unseen readings is {chosen.loss:.4f} nats a value, and it costs {cost}."
        )
    loss = f"Take {chosen.architecture}: its loss on unseen readings, {chosen.loss:.4f} nats a value, is"
    if len(near) == 1:
        return (
            chosen.architecture,
            f"{loss} the least, and no other is within one standard error of it; it costs {cost}.",
        )
    others = ", ".join(one.architecture for one in near if one is not chosen)
    return chosen.architecture, (
        f"{loss} within one standard error of the best ({best.architecture}, {best.loss:.4f}), and of those that are "
        f"(also {others}) it is the cheapest, at {cost}."
    )


def _standard_error(block_losses: Floats) -> float:
    return float(block_losses.std(ddof=1) / np.sqrt(len(block_losses))) if len(block_losses) > 1 else 0.0


def _parts(given: Sequence[Labelled], held_out: float) -> tuple[list[_Part], list[_Part]]:
    """Normal pieces, unseen from `start` on, and the recordings with events, judged from `start` on."""
    pieces: list[Recording] = []
    eventful: list[_Part] = []
    for one in given:
        recording, events, begin = one.recording, one.events or [], 0
        middle = len(events) // 2
        for first, last in events[:middle]:
            pieces.append(recording.rows(begin, first))
            begin = last + 1
        pieces.append(recording.rows(begin, events[middle][0] if events else None))
        if events:
            eventful.append(_Part(recording, events[middle][0], events[middle:]))
    normal = [_Part(piece, int(len(piece) * (1 - UNSEEN))) for piece in pieces]
    seen = [part.recording.rows(0, part.start) for part in normal]
    fitting = usable(seen, held_out)
    return [part for part, rows in zip(normal, seen, strict=True) if any(rows is one for one in fitting)], eventful


def _measure(architecture: str, trained: Trained, normal: Sequence[_Part], eventful: Sequence[_Part]) -> Compared:
    network = trained.network
    detector = TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))
    loss, z, x = (np.concatenate(rows) for rows in zip(*_unseen(network, detector.scaling, normal), strict=True))
    blocks = [block for block in np.array_split(loss, BLOCKS) if np.isfinite(block).any()]
    score = np.concatenate([one.judged().score for one in _scored(detector, normal)])
    live = network.kind == "live"
    return Compared(
        architecture,
        live,
        trained,
        float(np.nanmean(loss)),
        np.array([np.nanmean(block) for block in blocks]),
        calibration_error(z, x),
        float((score > 1).mean()) if len(score) else float("nan"),
        len(score),
        evaluate(_scored(detector, eventful)) if eventful else None,
        sum(parameter.numel() for parameter in network.parameters()),
        _step_us(detector, normal[0].recording) if live else None,
        detector.state_dtype.itemsize if live else None,
    )


def _unseen(network: Forecaster, scaling: Scaling, parts: Sequence[_Part]) -> list[tuple[Floats, Floats, Floats]]:
    """Of the unseen values of each part (N, C) losses, distances from the forecast in scales, and the values.

    NaN where missing.
    """
    found = []
    for part in parts:
        recording, start = part.led_in()
        x, mean, scale = forecasts(network, scaling, recording)
        loss = negative_log_likelihood(*map(torch.from_numpy, (x, mean, scale))).numpy()
        rows = np.stack([loss, (x - mean) / scale, x])[:, start:].astype(np.float64)
        found.append((rows[0], rows[1], rows[2]))
    return found


def calibration_error(z: Floats, x: Floats) -> float:
    """How far the shares of values below the forecast's quantiles are from what these promise.

    |share below the quantile - LEVELS|, the mean over levels and channels: 0 if the forecast distributions are right,
    about 1/4 if every value is at their median, 1/2 if all lie on one side. A channel that stands still is left out.

    Args:
        z: (N, C) distances from the forecast in scales, NaN where missing.
        x: (N, C) the values.

    Source: Kuleshov et al. 2018, with absolute differences.
    """
    found = []
    for own, values in zip(z.T, x.T, strict=True):
        own, values = own[np.isfinite(values)], values[np.isfinite(values)]
        if len(values) and values.max() > values.min():
            below = (student_share(own)[:, None] <= LEVELS).mean(axis=0)
            found.append(float(np.abs(below - LEVELS).mean()))
    return float(np.mean(found)) if found else float("nan")


def student_share(z: Floats) -> Floats:
    """The share of a Student's t with 4 degrees of freedom that lies below z, in closed form."""
    w = z / np.sqrt(1 + z * z / FREEDOM)
    return np.asarray(0.5 + 0.375 * w * (1 - w * w / 12))


@torch.no_grad()
def forecasts(
    network: Forecaster, scaling: Scaling, recording: Recording
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Readings, NaN where missing, and the location and scale forecast for each: (N, C), standardised units."""
    x = scaling.standardise(recording.values)
    elapsed = scaling.elapsed(np.diff(recording.timestamps_ms, prepend=recording.timestamps_ms[:1]))
    elapsed[0] = 0
    length = PIECE if network.kind == "live" else len(x)
    state, means, scales = network.eval().initial(1), [], []
    with torch_set(0):
        for start in range(0, len(x), length):
            shown = torch.from_numpy(x[start : start + length])[:, None]  # (T, 1, C)
            since = torch.from_numpy(elapsed[start : start + length])[:, None, None]
            observed = torch.isfinite(shown)
            mean, scale, state = network.unroll(shown.nan_to_num(), observed.float(), since, state)
            means.append(mean[:, 0])
            scales.append(scale[:, 0])
    return x, torch.cat(means).numpy(), torch.cat(scales).numpy()


def _scored(detector: TrainedDetector, parts: Sequence[_Part]) -> list[Scored]:
    """The judged rows of each part, the state carried on into them."""
    led_in = [part.led_in() for part in parts]
    found = []
    for one, part, (_, start) in zip(scan_together(detector, [rows for rows, _ in led_in]), parts, led_in, strict=True):
        events = [(first - part.start, last - part.start) for first, last in part.events]
        stream, times_ms = part.recording.stream, part.recording.timestamps_ms[part.start :]
        found.append(Scored(stream, times_ms, one.score[start:].astype(np.float64), one.status[start:], events))
    return found


def _step_us(detector: TrainedDetector, recording: Recording, repeats: int = 10) -> tuple[float, float]:
    """Of the processor for a reading alone, and a reading in a batch: the least of some, since others use it too."""
    found = []
    for streams in (1, STEPPED):
        states = detector.initial(streams)
        seconds = []
        for row in range(repeats):
            values = np.repeat(recording.values[None, row % len(recording)].astype(np.float64), streams, axis=0)
            now = np.full(streams, 1000 * row, np.int64)
            began = time.process_time()
            states = detector.step(values, now, states).states
            seconds.append(time.process_time() - began)
        found.append(1e6 * min(seconds) / streams)
    return found[0], found[1]
