"""The last value in the network's place: all that a trained model has but its network, for `gatewatch-last`.

Scales, thresholds and score are those of `gatewatch scan --train`, calibrated on what the last value misses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatewatch.models.artefact.files import FORMAT_VERSION, Artefact, Manifest
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan_after
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.export import export_step
from gatewatch.models.training.trained.calibration import calibrate_manifest, neutral
from gatewatch.models.training.trained.sample import splits_to_calibrate
from gatewatch.models.training.trained.train import prepare


class LastValue(nn.Module):
    """What was seen last of each channel, kept as it is: a forecaster, as far as `export_step` goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"last": (self.channels,)}

    def initial(self, batch: int) -> dict[str, Tensor]:
        return {"last": torch.zeros(batch, self.channels)}

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: dict[str, Tensor]) -> tuple[Any, ...]:
        last = state["last"]
        after = observed * x + (1 - observed) * last
        return last + 0 * elapsed, torch.ones_like(last), {"last": after}


def scan_by_last_value(normal: Recording, recording: Recording) -> Scan:
    """Calibrate on `normal`, then score `recording` with the state carried on, as `gatewatch scan --train` does."""
    config = TrainConfig()
    prepared = prepare([normal], config)
    names = prepared.used[0].channels
    network = LastValue(len(names))
    channels, calibration = neutral(prepared.scaling, names, [""] * len(names))
    graph = export_step(network)  # type: ignore[arg-type]
    provisional = Manifest(
        format_version=FORMAT_VERSION,
        architecture="last value",
        architecture_settings={},
        state={name: list(shape) for name, shape in network.state_shapes().items()},
        channels=channels,
        interval_s=prepared.scaling.interval_s,
        calibration=calibration,
        training={},
        files={},
    )
    splits = splits_to_calibrate(prepared.used, config.held_out)
    manifest = calibrate_manifest(provisional, graph, splits, config.false_alarm_rate)
    detector = TrainedDetector(Artefact(manifest, graph, np.zeros(8, np.uint8).tobytes()))
    return scan_after(detector, normal, recording)
