"""What is the LSTM's own, and what settings a network takes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gatewatch.models.errors import TrainingError
from gatewatch.models.training.architectures import LARGEST_INPUT, build
from gatewatch.models.training.config import TrainConfig

CHANNELS = 3


def test_an_untrained_cell_remembers() -> None:
    """The forget gate's bias starts at 1, split over torch's two biases as 0 and 1; all others at 0."""
    network = build(TrainConfig(layers=2, hidden=4), CHANNELS)
    for layer in range(2):
        biases = dict(network.named_parameters())
        bias = biases[f"cells.bias_ih_l{layer}"] + biases[f"cells.bias_hh_l{layer}"]
        assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


@pytest.mark.parametrize("channels", [0, LARGEST_INPUT + 1])
def test_a_number_of_channels_out_of_bounds_is_refused(channels: int) -> None:
    with pytest.raises(TrainingError, match=f"{channels} channels; expected 1 to {LARGEST_INPUT}"):
        build(TrainConfig(hidden=3), channels)


@pytest.mark.parametrize(
    ("field", "value"),
    [("layers", 0), ("hidden", 1025), ("dropout", 1.0), ("learning_rate", float("nan")), ("memory", 1)],
)
def test_a_setting_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        TrainConfig.model_validate({field: value})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="momentum"):
        TrainConfig.model_validate({"momentum": 0.9})


@pytest.mark.parametrize("field", ["layers", "hidden", "memory"])
@pytest.mark.parametrize("value", [0, 1_000_000])
def test_sizes_of_zero_and_of_a_million_are_refused(field: str, value: int) -> None:
    with pytest.raises(ValidationError, match=rf"(?s){field}.*should be (greater|less) than or equal to"):
        TrainConfig.model_validate({field: value})


def test_an_unknown_architecture_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValidationError, match="'lstm', 'peephole', 'gru'.*'bilstm'"):
        TrainConfig.model_validate({"architecture": "elman"})


def test_a_state_too_large_to_carry_is_refused() -> None:
    config = TrainConfig(architecture="attention", hidden=1024, memory=4096)
    with pytest.raises(TrainingError, match=r"state would have \d+ bytes; at most 1048576 are allowed: lower"):
        build(config, CHANNELS)


def test_a_transformer_with_more_layers_than_memory_is_refused() -> None:
    with pytest.raises(TrainingError, match="memory 2 and 2 layers; a transformer needs more readings than layers"):
        build(TrainConfig(architecture="transformer", memory=2), CHANNELS)
