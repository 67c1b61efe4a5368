"""What all networks that a stream can carry have in common: cells that take readings, whose gaps forecasts fill."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.detectors.trained.scaling import STANDARDISED_LIMIT
from gatewatch.models.training.architectures.base import Forecaster, Shapes, State


class CellForecaster(Forecaster):
    """Cells over [x̃, observed, elapsed], whose state and the last reading x̃ are the stream's state.

    A missing value is replaced by its forecast, x̃ = observed ∘ x + (1 - observed) ∘ mean, within the limits of what
    the network is shown: a channel that is missing for ever must not grow on its own forecasts.
    """

    @abstractmethod
    def cell_shapes(self) -> Shapes:
        """Of the cells' state."""

    @abstractmethod
    def top(self, cells: State) -> Tensor:
        """(B, W) what the head sees of the cells' state."""

    @abstractmethod
    def take(self, seen: Tensor, cells: State) -> State:
        """The cells' state that has seen (B, 2C + 1) as well."""

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """`take` over (T, B, 2C + 1); returns (T, B, W), the top after each reading, and the last state."""
        tops = []
        for now in seen.unbind():
            cells = self.take(now, cells)
            tops.append(self.top(cells))
        return torch.stack(tops), cells

    def state_shapes(self) -> Shapes:
        """The cells' state and the last reading (C,) with its gaps filled."""
        return {**self.cell_shapes(), "last": (self.channels,)}

    def forecast(self, state: State, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale, each (B, C), of the next reading, `elapsed` after the one before."""
        return self.read(self.top(state), state["last"], elapsed)

    def step(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Forecast one reading of each of B streams, then take it in; returns mean, scale (B, C) and the next state."""
        mean, scale = self.forecast(state, elapsed)
        filled = observed * x + (1 - observed) * mean.clamp(-STANDARDISED_LIMIT, STANDARDISED_LIMIT)
        cells = self.take(torch.cat([filled, observed, elapsed], dim=-1), state)
        return mean, scale, {**cells, "last": filled}

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """`step` over T readings: all at once where no stream has a gap, one by one where a forecast must fill it."""
        gaps = (observed < 1).flatten(1).any(dim=1).tolist()  # (T,)
        means, scales = [], []
        for at in _stretches(gaps):
            unroll = self._unroll_one if gaps[at.start] else self._unroll_gapless
            mean, scale, state = unroll(x[at], observed[at], elapsed[at], state)
            means.append(mean)
            scales.append(scale)
        return torch.cat(means), torch.cat(scales), state

    def _unroll_one(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        mean, scale, state = self.step(x[0], observed[0], elapsed[0], state)
        return mean[None], scale[None], state

    def _unroll_gapless(
        self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        tops, cells = self.run(torch.cat([x, observed, elapsed], dim=-1), state)
        before = torch.cat([self.top(state)[None], tops[:-1]])
        last = torch.cat([state["last"][None], x[:-1]])
        mean, scale = self.read(before, last, elapsed)
        return mean, scale, {**cells, "last": x[-1]}


def _stretches(gaps: Sequence[bool]) -> Iterator[slice]:
    """Rows without a gap in one piece, as far as they go; each row with one by itself."""
    for gap, rows in groupby(range(len(gaps)), key=gaps.__getitem__):
        found = list(rows)
        yield from (slice(row, row + 1) for row in found) if gap else [slice(found[0], found[-1] + 1)]


class StackedForecaster(CellForecaster):
    """L layers of H units on top of each other, with weights and kernel of torch.nn.

    Units are dropped between layers only, never over time (Zaremba et al. 2014).

    Args:
        cells: nn.LSTM, nn.GRU or nn.RNN.
        carried: names of a layer's state, of which `h` is its output.
        width: units that the head sees, H if None.
    """

    def __init__(self, channels: int, cells: nn.RNNBase, carried: tuple[str, ...], width: int | None = None) -> None:
        super().__init__(channels, width or cells.hidden_size)
        self.layers, self.hidden = cells.num_layers, cells.hidden_size
        self.cells, self.carried = cells, carried

    @abstractmethod
    def cell(self, layer: int, below: Tensor, before: State) -> State:
        """One step of one layer: (B, inputs) and its state, each (B, H), to its next state."""

    def cell_shapes(self) -> Shapes:
        """h and what else a layer carries, each (L, H)."""
        return dict.fromkeys(self.carried, (self.layers, self.hidden))

    def top(self, cells: State) -> Tensor:
        """h of the top layer."""
        return cells["h"][:, -1]

    def take(self, seen: Tensor, cells: State) -> State:
        """One step of every layer."""
        below, after = seen, []
        for layer in range(self.layers):
            after.append(self.cell(layer, below, {name: cells[name][:, layer] for name in self.carried}))
            dropped = self.training and layer + 1 < self.layers
            below = functional.dropout(after[-1]["h"], self.cells.dropout, dropped)
        return {name: torch.stack([state[name] for state in after], dim=1) for name in self.carried}

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """torch's fused kernel."""
        before = [cells[name].transpose(0, 1).contiguous() for name in self.carried]
        tops, after = self.cells(seen, before[0] if len(before) == 1 else tuple(before))
        after = (after,) if len(before) == 1 else after
        return tops, {name: tensor.transpose(0, 1) for name, tensor in zip(self.carried, after, strict=True)}
