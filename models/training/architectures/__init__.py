"""One file per network; `build` makes the one that a config names."""

from __future__ import annotations

import math
from collections.abc import Callable

from gatewatch.models.errors import TrainingError
from gatewatch.models.training.architectures.attention import AttentionForecaster
from gatewatch.models.training.architectures.base import Forecaster
from gatewatch.models.training.architectures.bilstm import BiLSTMForecaster
from gatewatch.models.training.architectures.cells import CellForecaster
from gatewatch.models.training.architectures.gru import GRUForecaster
from gatewatch.models.training.architectures.lstm import LSTMForecaster
from gatewatch.models.training.architectures.minlstm import MinLSTMForecaster
from gatewatch.models.training.architectures.peephole import PeepholeForecaster
from gatewatch.models.training.architectures.rnn import RNNForecaster
from gatewatch.models.training.architectures.slstm import SLSTMForecaster
from gatewatch.models.training.architectures.ssm import SSMForecaster
from gatewatch.models.training.architectures.transformer import TransformerForecaster
from gatewatch.models.training.architectures.window import WindowForecaster
from gatewatch.models.training.config import TrainConfig

LARGEST_INPUT = 4096
"""Channels."""

LARGEST_STATE = 2**20
"""Bytes of a stream's state, which travel to Redis and back with each reading."""

PLAIN: dict[str, Callable[[int, int, int, float], Forecaster]] = {
    "lstm": LSTMForecaster,
    "peephole": PeepholeForecaster,
    "gru": GRUForecaster,
    "rnn": RNNForecaster,
    "minlstm": MinLSTMForecaster,
    "slstm": SLSTMForecaster,
    "ssm": SSMForecaster,
    "bilstm": BiLSTMForecaster,
}
"""Made from channels, layers, hidden and dropout."""

WITH_MEMORY: dict[str, Callable[[int, int, int, float, int], Forecaster]] = {
    "attention": AttentionForecaster,
    "window": WindowForecaster,
    "transformer": TransformerForecaster,
}
"""Made from channels, layers, hidden, dropout and memory."""


def build(config: TrainConfig, channels: int) -> Forecaster:
    """An untrained network; its weights come from torch's random state.

    Raises:
        TrainingError: a number of channels that no network takes, or a state too large for a stream to carry, or
            `chrono` for a network without gates.
    """
    if not 1 <= channels <= LARGEST_INPUT:
        raise TrainingError(f"{channels} channels; expected 1 to {LARGEST_INPUT}")
    sizes = channels, config.layers, config.hidden, config.dropout
    name = config.architecture
    network = PLAIN[name](*sizes) if name in PLAIN else WITH_MEMORY[name](*sizes, config.memory)
    if config.chrono is not None:
        network.remember(config.chrono)
    if state_bytes(network) > LARGEST_STATE:
        raise TrainingError(
            f"a stream's state would have {state_bytes(network)} bytes; at most {LARGEST_STATE} are allowed: lower "
            f"hidden (now {config.hidden}), layers ({config.layers}) or memory ({config.memory})"
        )
    return network


def state_bytes(network: Forecaster) -> int:
    """What the network adds to a stream's state."""
    return 4 * sum(math.prod(shape) for shape in network.state_shapes().values())


__all__ = ["PLAIN", "WITH_MEMORY", "CellForecaster", "Forecaster", "build", "state_bytes"]
