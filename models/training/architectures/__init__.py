"""One file per network; `build` makes the one that a config names."""

from __future__ import annotations

from collections.abc import Callable

from models.errors import TrainingError
from models.training.architectures.base import Forecaster
from models.training.architectures.lstm import LSTMForecaster
from models.training.config import TrainConfig

LARGEST_INPUT = 4096
"""Channels."""

ARCHITECTURES: dict[str, Callable[[TrainConfig, int], Forecaster]] = {
    "lstm": lambda config, channels: LSTMForecaster(channels, config.layers, config.hidden, config.dropout),
}


def build(config: TrainConfig, channels: int) -> Forecaster:
    """An untrained network; its weights come from torch's random state.

    Raises:
        TrainingError: a number of channels that no network takes.
    """
    if not 1 <= channels <= LARGEST_INPUT:
        raise TrainingError(f"{channels} channels; expected 1 to {LARGEST_INPUT}")
    return ARCHITECTURES[config.architecture](config, channels)


__all__ = ["ARCHITECTURES", "Forecaster", "build"]
