"""Recordings to an artefact: scale, fit, export, calibrate, describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.files import FORMAT_VERSION, Manifest, save_artefact
from gatewatch.models.detectors.canary import canary_of
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import RecordingError, TrainingError
from gatewatch.models.recordings.codes import find_codes
from gatewatch.models.recordings.labels import label_columns, like_labels, without_labels
from gatewatch.models.recordings.recording import Source, pieces
from gatewatch.models.text import as_markdown
from gatewatch.models.training.architectures import CellForecaster, Forecaster
from gatewatch.models.training.checkpoint import EpochReport
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.examine import examine
from gatewatch.models.training.export import export_step, export_whole, weights
from gatewatch.models.training.processes import ALONE, Processes
from gatewatch.models.training.suitability import Finding, Suitability
from gatewatch.models.training.trained.calibration import RESTART_INTERVALS, WARM_UP, calibrate_manifest, neutral
from gatewatch.models.training.trained.last_value import keep_last_values
from gatewatch.models.training.trained.loop import Fitted, fit, torch_set
from gatewatch.models.training.trained.sample import splits_to_calibrate
from gatewatch.models.training.trained.windows import held_out_windows, usable
from gatewatch.models.training.trained.within import within_range

RHYTHM_GAPS, RHYTHM_SHARE, RHYTHM_MARGIN = 5, 0.1, 3.0

FINISHED_ONLY = """

It reads finished recordings from both ends: `gatewatch scan` runs it, a live stream cannot be scored with it."""


@dataclass(frozen=True)
class Prepared:
    """Recordings as they are trained on.

    Attributes:
        used: those long enough, without label columns, their channels in one order.
        too_short: the streams of the others.
        scaling: learned from those used.
        restart_gap_s: a longer gap restarts a stream.
        suitability: what is odd about all of them.
    """

    used: list[Source]
    too_short: list[str]
    scaling: Scaling
    restart_gap_s: float
    suitability: Suitability


@dataclass(frozen=True)
class Trained:
    """A trained and calibrated detector, ready to be saved; how its training went; what forecasts, as in the graph."""

    manifest: Manifest
    graph: bytes
    weights: bytes
    card: str
    fitted: Fitted
    network: Forecaster

    def save(self, folder: Path) -> None:
        """Write the artefact. Raises ArtefactError."""
        canary = canary_of(self.manifest, self.graph)
        save_artefact(folder, self.manifest, self.graph, self.weights, self.card, canary)


def prepare(recordings: Sequence[Source], config: TrainConfig) -> Prepared:
    """Look through recordings before they are trained on. Raises as `train` does."""
    given = same_channels(recordings)
    used = usable(given, config.held_out)
    too_short = [recording.stream for recording in given if not any(recording is one for one in used)]
    labels = [recording.only([name]) for recording in recordings for name in label_columns(recording)]
    scaling = Scaling.fit(used)
    suitability = examine(given, used, scaling, config.false_alarm_rate, labels)
    gap_s, more = _restarts(used, scaling.interval_s)
    more += [Finding("code", code.channel, code.count, code.value, "") for code in find_codes(given)]
    more += [Finding("perhaps a label", name, 1, 1.0, "") for name in {n: 0 for one in given for n in like_labels(one)}]
    return Prepared(used, too_short, scaling, gap_s, suitability.with_more(more))


def _restarts(recordings: Sequence[Source], interval_s: float) -> tuple[float, list[Finding]]:
    """The gap in seconds beyond which a stream starts afresh, and what is to be said of it.

    Gaps so frequent that the warm-ups after them would take RHYTHM_SHARE of the readings, and at least RHYTHM_GAPS,
    are no outages, but how the stream is sampled: in bursts.
    """
    steps_s = [np.diff(times) / 1e6 for times in map(_times_us, recordings)]
    gap_s = RESTART_INTERVALS * interval_s
    long = np.concatenate([steps[steps > gap_s] for steps in steps_s])
    said = []
    if len(long) >= RHYTHM_GAPS and WARM_UP * len(long) >= RHYTHM_SHARE * sum(map(len, recordings)):
        usual = float(np.median(long))
        gap_s = RHYTHM_MARGIN * usual
        said.append(Finding("rhythm of gaps", "", len(long), usual, ""))
    longest = max(_longest_run(steps > gap_s) for steps in steps_s)
    if longest <= WARM_UP:
        said.append(Finding("never judged", "", WARM_UP, float(longest), ""))
    return gap_s, said


def _times_us(recording: Source) -> NDArray[np.int64]:
    return np.concatenate([piece.times_us for piece in pieces(recording)])


def _longest_run(restarts: NDArray[np.bool_]) -> int:
    """Readings in the longest stretch without a restart, given which steps from one reading to the next are one."""
    edges = np.concatenate([[-1], np.flatnonzero(restarts), [len(restarts)]])
    return int(np.diff(edges).max())


def train(
    recordings: Sequence[Source],
    config: TrainConfig,
    *,
    units: Mapping[str, str] | None = None,
    checkpoint: Path | None = None,
    on_examined: Callable[[Suitability], None] = lambda _: None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
    processes: Processes = ALONE,
) -> Trained:
    """Train a detector on normal recordings that share their channels, and calibrate its thresholds on held-out parts.

    Args:
        recordings: normal operation; a few anomalies in them do little harm, many make the thresholds high.
        units: channel to physical unit, for people.
        checkpoint: a folder to resume from and to save to after each epoch, and within it.
        on_examined: told what is odd about the recordings, before training begins.
        processes: those that train this network together.

    Raises:
        RecordingError: the recordings' channels differ, or a unit is for a channel that they do not have.
        TrainingError: too little data, no value at all, or the loss is not a number.
        CalibrationError: no threshold can be learned.
    """
    names = same_channels(recordings)[0].channels
    unknown = [channel for channel in units or {} if channel not in names]
    if unknown:
        raise RecordingError(f"a unit is given for {', '.join(unknown)}; the recordings have {', '.join(names)}")
    prepared = prepare(recordings, config)
    recordings, scaling, suitability = prepared.used, prepared.scaling, prepared.suitability
    on_examined(suitability)
    empty = {finding.channel for finding in suitability.findings if finding.kind == "empty"}
    if empty.issuperset(names):
        raise TrainingError(
            f"no channel has a value in the recordings ({', '.join(names)}): there is nothing to learn; "
            "expected at least one that has"
        )
    fitted = fit(recordings, scaling, config, checkpoint=checkpoint, on_epoch=on_epoch, processes=processes)
    splits = splits_to_calibrate(recordings, config.held_out)
    network = fitted.network
    by_last_value: list[str] = []
    if isinstance(network, CellForecaster):
        held_out = held_out_windows(recordings, scaling, config.held_out, config.window, config.lanes, processes)
        network = within_range(network, recordings, scaling, config.held_out)
        with torch_set(config.seed):  # on one thread, as it was trained
            by_last_value = [names[at] for at in keep_last_values(network, held_out, processes)]
        graph = export_step(network)
    else:
        graph = export_whole(network)
    channels, calibration = neutral(scaling, names, [(units or {}).get(name, "") for name in names])
    calibration = calibration.model_copy(update={"restart_gap_s": prepared.restart_gap_s})
    provisional = Manifest(
        format_version=FORMAT_VERSION,
        architecture=config.architecture,
        architecture_settings=config.model_dump(mode="json"),
        kind=network.kind,
        state={name: list(shape) for name, shape in network.state_shapes().items() if network.kind == "live"},
        channels=channels,
        interval_s=scaling.interval_s,
        calibration=calibration,
        training={
            "recordings": len(recordings),
            "too_short_and_left_out": prepared.too_short,
            "readings": sum(map(len, recordings)),
            "epochs": len(fitted.history),
            "best_epoch": fitted.best_epoch,
            "held_out_loss": fitted.history[fitted.best_epoch - 1].held_out_loss,
            "stopped_because": fitted.stopped_because,
            "by_last_value": by_last_value,
            "calibrated_on": sum(len(split.recording) for split in splits),
            "suitability": suitability.as_json(),
        },
        files={},
    )
    manifest = calibrate_manifest(provisional, graph, splits, config.false_alarm_rate)
    return Trained(manifest, graph, weights(fitted.network), model_card(manifest), fitted, network)


def model_card(manifest: Manifest) -> str:
    """The artefact for people: what it is, what it was trained on, how far to trust it."""
    calibration, training = manifest.calibration, manifest.training
    rows = "\n".join(
        f"| {as_markdown(c.name)} | {as_markdown(c.unit) or '-'} | {c.center:.6g} | {c.spread:.6g} |"
        f" {c.error_scale * c.spread:.6g} |"
        for c in manifest.channels
    )
    by_last_value = as_markdown(", ".join(training.get("by_last_value", [])))
    plain = f"""
Channels whose forecast is their last value, which the network did not beat in the held-out parts: {by_last_value}.
"""
    switches = as_markdown(", ".join(training.get("switches", [])))
    commands = f"""
Channels of two values, taken for commands, which the forecast is shown and which hardly raise the score: {switches}.
"""
    trust = (
        "They were enough for this rate."
        if calibration.confidence == "high"
        else "**They were too few for this rate, which may be missed by far, mostly by fewer alarms. Train on more.**"
    )
    return f"""# Model card

A {manifest.architecture} forecaster ({manifest.architecture_settings.get("layers")} layers of
{manifest.architecture_settings.get("hidden")} units) with its calibrated anomaly score; 1.0 is the threshold.

Trained on {training.get("readings")} readings of {training.get("recordings")} recordings, typically one every
{manifest.interval_s:g} s, for {training.get("epochs")} epochs ({training.get("stopped_because")}); held-out loss
{training.get("held_out_loss", float("nan")):.4f} nats a value.

| channel | unit | mean | spread | error of a forecast |
|---|---|---|---|---|
{rows}

False-alarm rate aimed at: {calibration.false_alarm_rate:g} of normal readings, on calibration readings worth
{calibration.effective_readings:.0f} independent ones. {trust}

The first {calibration.warm_up} readings of a stream are scored, not judged. A gap of more than
{calibration.restart_gap_s:g} s starts a stream afresh. A lost state comes back from {calibration.rebuild_readings}
readings of history.

{_found(training)}{plain if by_last_value else ""}{commands if switches else ""}
Meant for streams of the same kind as the recordings, in the same units. It says that a reading is unusual for them,
not what is broken.{"" if manifest.kind == "live" else FINISHED_ONLY}
"""


def _found(training: Mapping[str, Any]) -> str:
    """What was odd about the recordings, a line each."""
    lines = Suitability.of_json(training["suitability"]).lines() if "suitability" in training else []
    return "\n".join(["Found in the recordings:", "", *(f"- {as_markdown(line)}" for line in lines), ""])


def same_channels(recordings: Sequence[Source]) -> list[Source]:
    """The recordings without label columns, with their channels in the first one's order."""
    if not recordings:
        raise RecordingError("no recording to train on")
    sensors = [without_labels(recording) for recording in recordings]
    names = sensors[0].channels
    for recording in sensors:
        if set(recording.channels) != set(names):
            differing = sorted(set(recording.channels) ^ set(names))
            raise RecordingError(
                f"{recording.stream}: its channels differ from those of {sensors[0].stream} in {', '.join(differing)}; "
                "recordings of one model have the same channels"
            )
    return [recording if recording.channels == names else recording.only(names) for recording in sensors]
