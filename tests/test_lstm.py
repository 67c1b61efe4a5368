"""The forecaster's laws: stepping equals unrolling, and a gap is what was forecast."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from models.errors import TrainingError
from models.training.architectures import LARGEST_INPUT, Forecaster, build
from models.training.architectures.base import LOG_SCALE_LIMITS, State
from models.training.config import TrainConfig

CHANNELS = 3


def forecaster(layers: int = 2, dropout: float = 0.0) -> Forecaster:
    """H = 4, with weights large enough that every gate has something to say."""
    torch.manual_seed(0)
    network = build(TrainConfig(layers=layers, hidden=4, dropout=dropout), CHANNELS).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def readings(length: int, streams: int, missing: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, observed (T, B, C) and elapsed (T, B, 1)."""
    generator = torch.Generator().manual_seed(seed)
    observed = (torch.rand(length, streams, CHANNELS, generator=generator) >= missing).float()
    x = torch.randn(length, streams, CHANNELS, generator=generator) * observed
    return x, observed, torch.randn(length, streams, 1, generator=generator)


def stepped(
    network: Forecaster, x: Tensor, observed: Tensor, elapsed: Tensor, state: State
) -> tuple[Tensor, Tensor, State]:
    means, scales = [], []
    for now in range(len(x)):
        mean, scale, state = network.step(x[now], observed[now], elapsed[now], state)
        means.append(mean)
        scales.append(scale)
    return torch.stack(means), torch.stack(scales), state


@settings(deadline=None)
@given(
    length=st.integers(1, 12),
    streams=st.integers(1, 4),
    layers=st.integers(1, 3),
    missing=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_stepping_equals_unrolling(length: int, streams: int, layers: int, missing: float, seed: int) -> None:
    """The service sees readings one by one, the trainer sees them whole; both forecast alike, with gaps and without."""
    network = forecaster(layers)
    window = readings(length, streams, missing, seed)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.tanh(torch.randn(streams, *shape, generator=generator))
        for name, shape in network.state_shapes().items()
    }
    torch.testing.assert_close(network.unroll(*window, state), stepped(network, *window, state))


def test_unrolling_both_ways_gives_the_same_gradient() -> None:
    """One missing value anywhere sends a whole window down the slow path; the other lanes must not notice."""
    x, observed, elapsed = readings(8, 2, 0.0, seed=1)
    gaps = observed.clone()
    gaps[3, 1, 0] = 0
    gradients = []
    for seen in (observed, gaps):
        network = forecaster()
        mean, scale, _ = network.unroll(x, seen, elapsed, network.initial(2))
        (mean[:, 0].square().sum() + scale[:, 0].sum()).backward()  # type: ignore[no-untyped-call]
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@torch.no_grad()
def test_unrolling_in_pieces_equals_unrolling_at_once() -> None:
    network = forecaster()
    x, observed, elapsed = readings(12, 2, 0.2, seed=2)
    whole, _, last = network.unroll(x, observed, elapsed, network.initial(2))
    first, _, between = network.unroll(x[:5], observed[:5], elapsed[:5], network.initial(2))
    second, _, end = network.unroll(x[5:], observed[5:], elapsed[5:], between)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)


@torch.no_grad()
def test_what_stands_in_a_gap_does_not_matter() -> None:
    """A missing value is replaced by its forecast, whatever number lies where it would have been."""
    network = forecaster()
    x, observed, elapsed = readings(10, 2, 0.4, seed=3)
    rubbish = torch.where(observed > 0, x, torch.full_like(x, 7.0))
    torch.testing.assert_close(
        network.unroll(rubbish, observed, elapsed, network.initial(2)),
        network.unroll(x, observed, elapsed, network.initial(2)),
    )


@torch.no_grad()
def test_a_forecast_knows_nothing_of_the_reading_it_forecasts() -> None:
    network = forecaster()
    x, observed, elapsed = readings(6, 1, 0.0, seed=4)
    changed = x.clone()
    changed[4] += 5
    before, _, _ = network.unroll(x, observed, elapsed, network.initial(1))
    after, _, _ = network.unroll(changed, observed, elapsed, network.initial(1))
    assert torch.equal(before[:5], after[:5])
    assert not torch.allclose(before[5], after[5])


@torch.no_grad()
def test_a_missing_value_and_a_zero_are_told_apart() -> None:
    network = forecaster()
    nothing, elapsed = torch.zeros(1, CHANNELS), torch.zeros(1, 1)
    _, _, seen = network.step(nothing, torch.ones(1, CHANNELS), elapsed, network.initial(1))
    _, _, missed = network.step(nothing, torch.zeros(1, CHANNELS), elapsed, network.initial(1))
    assert not torch.allclose(seen["h"], missed["h"])


@torch.no_grad()
def test_a_step_leaves_the_state_it_was_given() -> None:
    network = forecaster()
    state = network.initial(2)
    before = {name: tensor.clone() for name, tensor in state.items()}
    network.step(torch.ones(2, CHANNELS), torch.ones(2, CHANNELS), torch.zeros(2, 1), state)
    assert all(torch.equal(state[name], before[name]) for name in before)


@torch.no_grad()
def test_the_scale_stays_within_its_limits() -> None:
    network = forecaster()
    for parameter in network.parameters():
        parameter.mul_(100)
    _, scale, _ = network.unroll(*readings(30, 3, 0.1, seed=5), network.initial(3))
    low, high = torch.tensor(LOG_SCALE_LIMITS).exp()
    assert scale.min() >= low
    assert scale.max() <= high


def test_an_untrained_cell_remembers() -> None:
    """The forget gate's bias starts at 1, split over torch's two biases as 0 and 1; all others at 0."""
    network = build(TrainConfig(layers=2, hidden=4), CHANNELS)
    for layer in range(2):
        biases = dict(network.named_parameters())
        bias = biases[f"cells.bias_ih_l{layer}"] + biases[f"cells.bias_hh_l{layer}"]
        assert bias.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8


def test_dropout_is_for_training_only() -> None:
    network = forecaster(dropout=0.5)
    window = readings(6, 2, 0.3, seed=6)
    once, again = (network.unroll(*window, network.initial(2))[0] for _ in range(2))
    assert torch.equal(once, again)
    network.train()
    once, again = (network.unroll(*window, network.initial(2))[0] for _ in range(2))
    assert not torch.equal(once, again)


@pytest.mark.parametrize("channels", [0, LARGEST_INPUT + 1])
def test_a_number_of_channels_out_of_bounds_is_refused(channels: int) -> None:
    with pytest.raises(TrainingError, match=f"{channels} channels; expected 1 to {LARGEST_INPUT}"):
        build(TrainConfig(hidden=3), channels)


@pytest.mark.parametrize(
    ("field", "value"),
    [("layers", 0), ("hidden", 1025), ("dropout", 1.0), ("learning_rate", float("nan")), ("architecture", "gru")],
)
def test_a_setting_out_of_bounds_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        TrainConfig.model_validate({field: value})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="momentum"):
        TrainConfig.model_validate({"momentum": 0.9})
