"""Train the general network on, on recordings of one's own: channel by channel, so that any channels will do.

What comes out is a general model again: it watches any numeric stream, and those like the recordings better.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from gatewatch.models.artefact.files import FORMAT_VERSION, WEIGHTS, GeneralManifest, load_artefact, save_artefact
from gatewatch.models.detectors.canary import canary_of
from gatewatch.models.detectors.general.features import HORIZONS
from gatewatch.models.errors import ArtefactError, TrainingError
from gatewatch.models.recordings.recording import Source
from gatewatch.models.training.architectures.general import GeneralForecaster
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.export import weights
from gatewatch.models.training.general.synthetic import Corpus
from gatewatch.models.training.general.train import (
    SETTLED,
    Examples,
    GeneralConfig,
    Skill,
    compare,
    examples,
    export,
    fit_examples,
)
from gatewatch.models.training.trained.loop import torch_set
from gatewatch.models.training.trained.windows import held_out_row

LEAST_ROWS = 256
"""Readings in the shortest series that is trained on or compared on."""

MOST_SERIES = 1000
"""Series of at most 1,536 readings: some 300 MB as the network is shown them."""

SELECTED_ON = 0.2
"""Share of the training parts, their ends, on which the best pass is selected: what is held out stays unseen."""

LEARNING_RATE = 5e-4
"""A sixth of that of the network's own training."""

PATIENCE = 3


@dataclass(frozen=True)
class Tuned:
    """The general network after training on, and what it and the one before are good for.

    Attributes:
        before, after: skills of both on the held-out ends of the recordings.
        passes: over the training parts, up to the best.
    """

    network: GeneralForecaster
    manifest: GeneralManifest
    before: Skill
    after: Skill
    passes: int

    def verdict(self) -> str:
        """One line: by how much the errors fell, at each horizon."""
        gains = [1 - after / before for before, after in zip(self.before.typical, self.after.typical, strict=True)]
        told = ", ".join(f"{gain:+.1%} at {ahead}" for gain, ahead in zip(gains, HORIZONS, strict=True))
        better = "better" if float(np.mean(gains)) > 0 else "no better"
        return f"{better} than the general model on the held-out ends: errors lower by {told} readings ahead"

    def save(self, folder: Path) -> None:
        """Write the artefact. Raises ArtefactError."""
        graph = export(self.network)
        canary = canary_of(self.manifest, graph)
        save_artefact(folder, self.manifest, graph, weights(self.network), self._card(), canary)

    def _card(self) -> str:
        training = self.manifest.training
        rows = "\n".join(
            f"| {ahead} | {before:.3f} | {after:.3f} |"
            for ahead, before, after in zip(HORIZONS, self.before.typical, self.after.typical, strict=True)
        )
        return f"""# Model card

The general model, trained on with {training["series"]} series of {training["recordings"]} recordings, each channel for
itself, in {self.passes} passes; it began as the model {training["began_as"]}. It watches any numeric stream.

On the held-out ends of the recordings, mean absolute error against that of the last value, of the typical series:

| readings ahead | general | trained on |
|---|---|---|
{rows}

It is {self.verdict()}.
"""


def finetune(
    recordings: Sequence[Source], config: TrainConfig, folder: Path, on_pass: Callable[[int, float], None]
) -> Tuned:
    """Train the general network of an artefact on; the pass that forecasts best is kept.

    Args:
        config: its epochs, held_out and seed count.
        folder: the artefact of a general model.
        on_pass: told the number of each pass and the loss by which passes are compared, in nats a value.

    Raises:
        ArtefactError: `folder` holds no general model.
        TrainingError: the recordings are too short, or the loss is not a number.
    """
    artefact = load_artefact(folder)
    if not isinstance(artefact.manifest, GeneralManifest):
        raise TrainingError(f"{folder} is a model with channels of its own; only the general model can be trained on")
    try:
        settings = GeneralConfig.model_validate(artefact.manifest.architecture_settings)
        network = GeneralForecaster(settings.layers, settings.hidden)
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise ArtefactError(f"{folder}: its settings and weights make no general network: {error!s:.300}") from error
    network.eval()
    trained_on, selected_on, held_out = (
        _examples(recordings, config.held_out, part, settings.rows) for part in range(3)
    )
    series = trained_on.features.shape[1]
    steps = -(-series // settings.lanes) * -(-len(trained_on.features) // settings.window)
    own = settings.model_copy(
        update={
            "series": series, "rows": len(trained_on.features), "steps": steps, "learning_rate": LEARNING_RATE,
            "held_out": held_out.features.shape[1],
        }
    )  # fmt: skip
    with torch_set(config.seed):
        before, losses = compare(network, held_out), [_mean_loss(network, selected_on)]
        best = copy.deepcopy(network.state_dict())
        for number in range(1, config.epochs + 1):
            fit_examples(network, trained_on, own.model_copy(update={"seed": number}), lambda _step, _loss: None)
            losses.append(_mean_loss(network, selected_on))
            on_pass(number, losses[-1])
            if losses[-1] == min(losses):
                best = copy.deepcopy(network.state_dict())
            if len(losses) - 1 - int(np.argmin(losses)) >= PATIENCE:
                break
        network.load_state_dict(best)
        after = compare(network, held_out)
    manifest = GeneralManifest(
        format_version=FORMAT_VERSION,
        kind="general",
        architecture="lstm",
        architecture_settings=own.model_dump(mode="json"),
        state=artefact.manifest.state,
        calibration=artefact.manifest.calibration,
        training={
            "began_as": artefact.digest.hex(),
            "recordings": len(recordings),
            "series": series,
            "held_out_before": asdict(before),
            "held_out": asdict(after),
        },
        files={},
    )
    return Tuned(network, manifest, before, after, int(np.argmin(losses)))


def _mean_loss(network: GeneralForecaster, part: Examples) -> float:
    return float(np.mean(compare(network, part).loss))


def _examples(recordings: Sequence[Source], held_out: float, part: int, rows: int) -> Examples:
    """What the network is shown of the training parts (0), their ends (1) or the held-out parts (2)."""
    cuts = []
    for recording in recordings:
        row = held_out_row(recording, held_out)
        middle = int(row * (1 - SELECTED_ON))
        start, stop = ((0, middle), (middle - SETTLED, row), (row - SETTLED, len(recording)))[part]
        begins = range(max(0, start), stop, rows)
        cuts += [(recording, at, min(at + rows, stop)) for at in begins if min(at + rows, stop) - at >= LEAST_ROWS]
    if not cuts:
        longest = max(map(len, recordings), default=0)
        raise TrainingError(
            f"{longest} readings in the longest of {len(recordings)} recordings; to train the general model on, "
            f"{LEAST_ROWS} are needed in each of its three parts: some 1,000 in all"
        )
    allowed = max(1, MOST_SERIES // len(recordings[0].channels))
    chosen = np.unique(np.linspace(0, len(cuts) - 1, min(len(cuts), allowed)).round().astype(int)).tolist()
    longest = max(stop - start for _, start, stop in (cuts[at] for at in chosen))
    values, times = [], []
    for recording, start, stop in (cuts[at] for at in chosen):
        piece = recording.rows(start, stop)
        after = np.arange(1, longest - len(piece) + 1) * 1000  # what pads it has no value
        times += [np.concatenate([piece.timestamps_ms, piece.timestamps_ms[-1] + after])] * len(piece.channels)
        values += list(np.pad(piece.values, ((0, len(after)), (0, 0)), constant_values=np.nan).T)
    return examples(Corpus(np.zeros(len(values), np.intp), np.array(times, np.int64), np.array(values, np.float64)))
