"""The gradient of an LSTM that fills gaps, written out by hand, is the one of its steps."""

from __future__ import annotations

import pytest
import torch

from gatewatch.models.training.architectures.cells import CellForecaster
from gatewatch.models.training.architectures.lstm import LSTMForecaster


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("missing", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("far", [0.0, 9.0])
def test_the_gradient_over_gaps_is_that_of_single_steps(layers: int, missing: float, far: float) -> None:
    """In double precision, of forecasts and of the state after them, to weights, readings and the state before.

    Forecasts that are far off are cut, and so is their gradient.
    """
    torch.manual_seed(layers)
    network = LSTMForecaster(3, layers, 5, 0.0).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        network.head.bias[0] += far
    observed = (torch.rand(11, 4, 3) >= missing).double()
    x, elapsed = torch.randn(11, 4, 3).double() * observed, torch.randn(11, 4, 1).double()
    before = {name: torch.tanh(torch.randn(4, *shape).double()) for name, shape in network.state_shapes().items()}
    found = []
    for unroll in (LSTMForecaster.unroll, CellForecaster.unroll):
        readings = x.clone().requires_grad_()
        state = {name: tensor.clone().requires_grad_() for name, tensor in before.items()}
        mean, scale, after = unroll(network, readings, observed, elapsed, state)
        outcomes = [mean, scale, *after.values()]
        total = torch.stack([(each * torch.arange(each.numel()).view_as(each)).sum() for each in outcomes]).sum()
        network.zero_grad()
        total.backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        found.append([*outcomes, *gradients, readings.grad, *(tensor.grad for tensor in state.values())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_the_dropout_over_gaps_is_drawn_between_layers_and_kept_for_the_way_back() -> None:
    """With all units dropped, the upper layer sees nothing of the readings, and no gradient goes below it."""
    torch.manual_seed(0)
    network = LSTMForecaster(2, 2, 4, 0.5)
    network.cells.dropout = 1.0
    with torch.no_grad():
        network.cells.bias_hh_l1.add_(0.5)  # type: ignore[operator]
    observed = torch.ones(6, 3, 2)
    observed[2:4, 1, 0] = 0
    mean, _, _ = network.unroll(torch.randn(6, 3, 2) * observed, observed, torch.zeros(6, 3, 1), network.initial(3))
    mean.sum().backward()
    below, above = network.cells.weight_ih_l0.grad, network.cells.weight_hh_l1.grad
    assert below is not None
    assert above is not None
    assert not below.any()  # type: ignore[operator]
    assert above.any()  # type: ignore[operator]
