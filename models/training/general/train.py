"""The general network, trained on synthetic signals only, so that any channel can be put through it unseen.

    python -m gatewatch.models.training.general.train --out FOLDER --seed 0

Steps are counted, not minutes: one seed gives one network, to the bit, on the same machine.

Mean absolute errors over those of the last value, 1, 3, 10 and 30 readings ahead, on 520 synthetic series not trained
on: 0.84, 0.78, 0.71, 0.73 (20 minutes of a busy core); after a seventh of the updates 0.93, 0.88, 0.89, 0.93. On white
noise 0.71 each, where 0.707 is the least; on a random walk 1.01 to 1.03, where nothing is to be had. Over streams of
12,000 readings, eight times the length trained on, they do not grow. A Laplace likelihood does as well 1 and 3 readings
ahead and is 2 points worse at 10 and 30.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from gatewatch.models.artefact.files import FORMAT_VERSION, GeneralCalibration, GeneralManifest, save_artefact
from gatewatch.models.detectors.canary import canary_of
from gatewatch.models.detectors.general.features import (
    FEATURES,
    HORIZONS,
    OLDEST_READINGS,
    observe,
    placed,
    running_fields,
)
from gatewatch.models.errors import TrainingError
from gatewatch.models.training.architectures.general import GeneralForecaster
from gatewatch.models.training.export import export_graph, weights
from gatewatch.models.training.general.synthetic import KINDS, Corpus, generate
from gatewatch.models.training.trained.loop import negative_log_likelihood, torch_set

FARTHEST = 15.0
"""Steps; a target farther out is taken for this far, so that a jump after long rest does not rule the loss."""

SETTLED = 100
"""Readings after which a channel's scales are settled, and forecasts are compared."""

HELD_OUT_SEED = 2**32
"""Added to the seed for the series that are not trained on."""


ALERTS_PER_WEEK, WARM_UP, REBUILD_READINGS = 1.0, 32, 128


class GeneralConfig(BaseModel):
    """How the general network is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: int = Field(2, ge=1, le=8)
    hidden: int = Field(64, ge=1, le=1024, description="units a layer")
    series: int = Field(6000, ge=1, description="synthetic series trained on")
    held_out: int = Field(520, ge=1, description="synthetic series compared on")
    rows: int = Field(OLDEST_READINGS, ge=128, description="readings a series")
    window: int = Field(256, ge=2, description="readings through which errors are propagated back")
    lanes: int = Field(32, ge=1, description="series trained side by side")
    steps: int = Field(6500, ge=1, description="updates of the weights")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="of Adam at the start; falls to a hundredth as a cosine")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    seed: int = Field(0, ge=0, lt=HELD_OUT_SEED)


@dataclass(frozen=True)
class Examples:
    """N series as the network sees them.

    Attributes:
        features: (T, N, FEATURES).
        targets: (T, N, HORIZONS) change from the last value to the one `ahead` rows later, in steps, clipped.
        counted: (T, N, HORIZONS) 1 where there is a value `ahead` rows later, else 0.
    """

    features: Tensor
    targets: Tensor
    counted: Tensor

    def cut(self, rows: slice, series: NDArray[np.intp] | slice) -> Examples:
        """Some rows of some series."""
        return Examples(*(part[rows][:, series] for part in (self.features, self.targets, self.counted)))


@dataclass(frozen=True)
class Skill:
    """Mean absolute errors of the forecast over those of the last value, per horizon; below 1 is better.

    Attributes:
        pooled: over all readings of all series.
        typical: the geometric mean over the series, each weighing the same.
        loss: nats a value.
    """

    pooled: list[float]
    typical: list[float]
    loss: list[float]


def examples(corpus: Corpus) -> Examples:
    """Put a corpus through `models.detectors.general.features`, as the service puts a stream through it."""
    series, rows = corpus.values.shape
    states = np.zeros(series, running_fields(1))
    features = np.empty((rows, series, FEATURES), np.float32)
    elapsed = np.diff(corpus.timestamps_ms.T, axis=0, prepend=corpus.timestamps_ms.T[:1])  # (T, N)
    last, step = np.empty((rows, series)), np.empty((rows, series))  # until a first value both are 0
    for row in range(rows):
        values = corpus.values[:, row, None].astype(np.float64)
        features[row] = observe(states, values, placed(states, values), corpus.timestamps_ms[:, row], elapsed[row])[
            :, 0
        ]
        last[row], step[row] = states["last"][:, 0], states["step"][:, 0]
    known = np.isfinite(corpus.values).T.cumsum(axis=0) > 0  # (T, N)
    values = corpus.values.T.astype(np.float64)
    targets = np.zeros((rows, series, len(HORIZONS)), np.float32)
    counted = np.zeros_like(targets)
    for at, ahead in enumerate(HORIZONS):
        change = (values[ahead:] - last[:-ahead]) / np.where(known, step, 1)[:-ahead]
        there = np.isfinite(change) & known[:-ahead]
        targets[:-ahead, :, at] = np.where(there, np.clip(change, -FARTHEST, FARTHEST), 0)
        counted[:-ahead, :, at] = there
    return Examples(*(torch.from_numpy(array) for array in (features, targets, counted)))


def train(
    config: GeneralConfig, on_progress: Callable[[int, float], None] = lambda _step, _loss: None
) -> tuple[GeneralForecaster, Skill]:
    """Draw the corpus, train on it, and compare on series not trained on.

    Args:
        on_progress: told the number of updates made and the mean loss since it was last told.

    Raises:
        TrainingError: the loss is not a number.
    """
    with torch_set(config.seed):
        network = GeneralForecaster(config.layers, config.hidden)
        fit_examples(network, examples(generate(config.series, config.rows, config.seed)), config, on_progress)
        held_out = examples(generate(config.held_out, config.rows, config.seed + HELD_OUT_SEED))
        return network, compare(network, held_out)


def fit_examples(
    network: GeneralForecaster, corpus: Examples, config: GeneralConfig, on_progress: Callable[[int, float], None]
) -> None:
    """Updates window by window, groups of series in a new random order each time round; the state is carried on."""
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    order = np.random.default_rng(config.seed)
    network.train()
    done, total, since = 0, 0.0, 0
    while done < config.steps:
        for group in np.array_split(order.permutation(config.series), math.ceil(config.series / config.lanes)):
            h, c = network.initial(len(group))
            for start in range(0, config.rows, config.window):
                if done == config.steps:
                    break
                for settings in optimiser.param_groups:
                    settings["lr"] = _learning_rate(config, done)
                window = corpus.cut(slice(start, start + config.window), group)
                mean, scale, h, c = network.unroll(window.features, h.detach(), c.detach())
                loss = _loss(window, mean, scale)
                optimiser.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
                if not (torch.isfinite(loss) and torch.isfinite(norm)):
                    raise TrainingError(f"the loss is {loss.item()} in update {done}; lower the learning rate")
                optimiser.step()
                done, total, since = done + 1, total + loss.item(), since + 1
                if done % 100 == 0 or done == config.steps:
                    on_progress(done, total / since)
                    total, since = 0.0, 0
    network.eval()


def _loss(window: Examples, mean: Tensor, scale: Tensor) -> Tensor:
    losses = negative_log_likelihood(window.targets, mean, scale) * window.counted
    return losses.sum() / window.counted.sum().clamp(min=1)


def _learning_rate(config: GeneralConfig, done: int) -> float:
    """A cosine from the configured rate to a hundredth of it over all updates."""
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done / config.steps)))


@torch.no_grad()
def compare(network: GeneralForecaster, held_out: Examples) -> Skill:
    """The network's forecasts beside the last value, from SETTLED readings on."""
    h, c = network.initial(held_out.features.shape[1])
    own, last, loss = [], [], []
    for start in range(0, len(held_out.features), 256):
        window = held_out.cut(slice(start, start + 256), slice(None))
        mean, scale, h, c = network.unroll(window.features, h, c)
        counted = window.counted.clone()
        counted[: max(0, SETTLED - start)] = 0
        own.append(((window.targets - mean).abs() * counted).sum(dim=0).double())  # (N, HORIZONS)
        last.append((window.targets.abs() * counted).sum(dim=0).double())
        losses = negative_log_likelihood(window.targets, mean, scale) * counted
        loss.append(torch.stack([losses.sum(dim=(0, 1)), counted.sum(dim=(0, 1))]).double())
    errors, errors_of_last = torch.stack(own).sum(dim=0), torch.stack(last).sum(dim=0)
    moving = (errors_of_last > 0).all(dim=1)
    nats, count = torch.stack(loss).sum(dim=0)
    return Skill(
        pooled=(errors.sum(dim=0) / errors_of_last.sum(dim=0)).tolist(),
        typical=(errors[moving] / errors_of_last[moving]).log().mean(dim=0).exp().tolist(),
        loss=(nats / count).tolist(),
    )


def export(network: GeneralForecaster) -> bytes:
    """The ONNX graph: x (N, FEATURES), h, c (N, L, H) to mean, scale (N, HORIZONS), h_next, c_next."""
    h, c = network.initial(2)
    inputs = {"x": torch.full((2, FEATURES), 0.5), "h": h, "c": c}
    return export_graph(network, inputs, ["mean", "scale", "h_next", "c_next"])


def save(network: GeneralForecaster, config: GeneralConfig, skill: Skill, folder: Path) -> None:
    """Write the artefact of the general model. Raises ArtefactError."""
    manifest = GeneralManifest(
        format_version=FORMAT_VERSION,
        kind="general",
        architecture="lstm",
        architecture_settings=config.model_dump(mode="json"),
        state={"h": [config.layers, config.hidden], "c": [config.layers, config.hidden]},
        calibration=GeneralCalibration(
            alerts_per_week=ALERTS_PER_WEEK, warm_up=WARM_UP, rebuild_readings=REBUILD_READINGS
        ),
        training={"kinds": list(KINDS), "held_out": asdict(skill)},
        files={},
    )
    graph = export(network)
    save_artefact(folder, manifest, graph, weights(network), model_card(manifest, skill), canary_of(manifest, graph))


def model_card(manifest: GeneralManifest, skill: Skill) -> str:
    """The artefact for people: what it is, what it was trained on, what it is good at."""
    settings = manifest.architecture_settings
    rows = "\n".join(
        f"| {horizon} | {pooled:.3f} | {typical:.3f} |"
        for horizon, pooled, typical in zip(HORIZONS, skill.pooled, skill.typical, strict=True)
    )
    return f"""# Model card

The general model: an LSTM ({settings["layers"]} layers of {settings["hidden"]} units) that forecasts any channel.

Trained on {settings["series"]} synthetic series of {settings["rows"]} readings, seed {settings["seed"]}, with
{settings["steps"]} updates: {", ".join(KINDS)}. No recording of anything real was used.

On {settings["held_out"]} series not trained on, mean absolute error against that of the last value:

| readings ahead | pooled | typical series |
|---|---|---|
{rows}

Alert budget: {manifest.calibration.alerts_per_week:g} false alert of a stream a week, at most one reading in 400. The
first {manifest.calibration.warm_up} readings of a stream are scored, not judged.

Meant for numeric streams of which nothing else is known. It says that a reading is unusual for its stream, not what is
broken; a detector trained on recordings of normal operation knows more.
"""


def main() -> None:
    """Train, and write the artefact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the artefact to write")
    default = GeneralConfig()
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.steps, help="updates of the weights")
    parser.add_argument("--series", type=int, default=default.series, help="synthetic series to train on")
    arguments = parser.parse_args()
    config = GeneralConfig(seed=arguments.seed, steps=arguments.steps, series=arguments.series)
    began = time.monotonic()

    def show(step: int, loss: float) -> None:
        print(f"{step:6d} updates  {time.monotonic() - began:6.0f} s  {loss:.4f} nats", flush=True)

    network, skill = train(config, show)
    save(network, config, skill, arguments.out)
    print(f"{time.monotonic() - began:.0f} s; errors against the last value, {HORIZONS} readings ahead:")
    print("pooled ", *(f"{ratio:.3f}" for ratio in skill.pooled))
    print("typical", *(f"{ratio:.3f}" for ratio in skill.typical))


if __name__ == "__main__":
    main()
