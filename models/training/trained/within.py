"""A network is shown of each channel what it was trained on; what lies beyond that is forecast by its last value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings.recording import Source
from gatewatch.models.recordings.tables import block_rows
from gatewatch.models.training.architectures import CellForecaster
from gatewatch.models.training.architectures.base import Shapes, State
from gatewatch.models.training.trained.windows import held_out_row


class WithinRange(CellForecaster):
    """x = x̄ + b, with x̄ what lies within the channel's range: the network forecasts x̄, and the last b is b's forecast.

    A network answers what it has never seen by something; on a level that goes on rising its misses grow without end.
    So they do still beyond STANDARDISED_LIMIT spreads, where x itself ends.
    Within the range nothing is changed. `beyond` (C,) is the last b, a part of the state.

    Args:
        network: trained; its head may still be changed.
        low, high: (C,) the range of each channel, standardised units.
    """

    low: Tensor
    high: Tensor

    def __init__(self, network: CellForecaster, low: Tensor, high: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.channels = network.channels
        self.network, self.head, self.keep = network, network.head, network.keep
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.train(network.training)

    def cell_shapes(self) -> Shapes:
        """The network's, and what lay beyond the range."""
        return {**self.network.cell_shapes(), "beyond": (self.channels,)}

    def top(self, cells: State) -> Tensor:
        """The network's."""
        return self.network.top(cells)

    def take(self, seen: Tensor, cells: State) -> State:
        """The network's, of what lies within."""
        return self.network.take(seen, cells)

    def inside(self, x: Tensor) -> Tensor:
        """(..., C) the nearest value within the range."""
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """The network's step, and the last value of what it is not shown; a missing one stays as it is."""
        inside, beyond = self.inside(x), state["beyond"]
        mean, scale, after = self.network.step(inside, observed, elapsed, state)
        return mean + beyond, scale, {**after, "beyond": observed * (x - inside) + (1 - observed) * beyond}

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """`step` over T readings, as the network does it."""
        inside, beyond = self.inside(x), [state["beyond"]]
        mean, scale, after = self.network.unroll(inside, observed, elapsed, state)
        for now, there in zip((x - inside).unbind(), observed.unbind(), strict=True):
            beyond.append(there * now + (1 - there) * beyond[-1])
        return mean + torch.stack(beyond[:-1]), scale, {**after, "beyond": beyond[-1]}


def within_range(
    network: CellForecaster, recordings: Sequence[Source], scaling: Scaling, held_out: float
) -> WithinRange:
    """The network with the ranges of the parts it was trained on; of a channel without a value, 0."""
    low, high = np.full(network.channels, np.inf), np.full(network.channels, -np.inf)
    for recording in recordings:
        row, together = held_out_row(recording, held_out), block_rows(network.channels)
        for start in range(0, row, together):
            values = recording.rows(start, min(start + together, row)).values
            low, high = np.fmin(low, np.fmin.reduce(values)), np.fmax(high, np.fmax.reduce(values))
    seen = low <= high
    ends = [np.where(seen, scaling.standardise(np.where(seen, end, 0.0)), 0.0) for end in (low, high)]
    return WithinRange(network, *(torch.from_numpy(end.astype(np.float32)) for end in ends))
