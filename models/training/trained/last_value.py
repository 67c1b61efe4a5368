"""A channel that its network forecasts no better than the last value does is forecast by that."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gatewatch.models.training.architectures import CellForecaster
from gatewatch.models.training.processes import ALONE, Processes
from gatewatch.models.training.trained.loop import DEVICE
from gatewatch.models.training.trained.windows import Window


@torch.no_grad()
def keep_last_values(
    network: CellForecaster, windows: Sequence[Window], processes: Processes = ALONE
) -> tuple[int, ...]:
    """Forecast by its last value each channel of which the network misses no less, in the mean square; returns which.

    mean = V [top, elapsed] + d + k ∘ last: there V and d become 0, and k 1. Graph and state have the same shapes as
    ever, and the network goes on to see all channels.

    Args:
        network: in evaluation mode; its head is changed.
        windows: of held-out parts. A value counts if there is one in the reading before, too.
        processes: those that have trained it together.
    """
    squares = torch.zeros(2, network.channels, dtype=torch.float64)
    for window in windows:
        if window.first:
            state = network.initial(window.x.shape[1])
            before, there = torch.zeros_like(window.x[0]), torch.zeros_like(window.observed[0])
        mean, _, state = network.unroll(window.x, window.observed, window.elapsed, state)
        last = torch.cat([before[None], window.x[:-1]])
        counted = window.counted * torch.cat([there[None], window.observed[:-1]])
        for at, forecast in enumerate((mean, last)):
            squares[at] += ((window.x - forecast) ** 2 * counted).double().sum(dim=(0, 1))
        before, there = window.x[-1], window.observed[-1]
    by_network, by_last = processes.sum(squares.to(DEVICE)).cpu()
    kept = by_network >= by_last
    network.head.weight[: network.channels][kept] = 0
    network.head.bias[: network.channels][kept] = 0
    network.keep[kept] = 1
    return tuple(torch.nonzero(kept).flatten().tolist())
