"""The stacked LSTM forecaster, the default."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.architectures.base import LOG_SCALE_LIMITS, Forecaster, State
from models.training.architectures.gaps import Filler, unroll_with_gaps

Gates = list[tuple[Tensor, Tensor]]
"""Per layer [W R] (4H, inputs + H) and b (4H,)."""


def remember(cells: nn.LSTM) -> None:
    """Start the forget gates' biases at 1, the others at 0: an untrained cell remembers (Gers et al. 2000)."""
    with torch.no_grad():
        for layer in range(cells.num_layers):
            getattr(cells, f"bias_ih_l{layer}").zero_()
            bias = getattr(cells, f"bias_hh_l{layer}").zero_()
            bias[cells.hidden_size : 2 * cells.hidden_size] = 1.0


def gates(cells: nn.LSTM) -> Gates:
    """The weights as `step_cells` takes them: one matrix product a layer is what exports to few nodes."""
    return [
        (torch.cat([w, r], dim=1), b + d) for w, r, b, d in (cells.all_weights[at] for at in range(cells.num_layers))
    ]


def step_cells(
    weights: Gates, hidden: int, below: Tensor, h: Tensor, c: Tensor, dropout: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of every layer, as nn.LSTM makes it.

    Args:
        hidden: H, which shapes alone would not make a constant of the exported graph.
        below: (B, inputs).
        h, c: (B, L, H) before it.
        dropout: share of units dropped between layers.

    Returns:
        The top layer's h (B, H), and h and c (B, L, H) after it.
    """
    next_h, next_c = [], []
    for layer, (weight, bias) in enumerate(weights):
        # split, not chunk: chunk exports to 12 nodes more a layer (106 nodes and 79 µs a step against 58 and 64)
        i, f, g, o = torch.split(
            functional.linear(torch.cat([below, h[:, layer]], dim=-1), weight, bias), hidden, dim=-1
        )
        next_c.append(torch.sigmoid(f) * c[:, layer] + torch.sigmoid(i) * torch.tanh(g))
        next_h.append(torch.sigmoid(o) * torch.tanh(next_c[-1]))
        below = functional.dropout(next_h[-1], dropout, dropout > 0 and layer + 1 < len(weights))
    return next_h[-1], torch.stack(next_h, dim=1), torch.stack(next_c, dim=1)


class LSTMForecaster(Forecaster):
    """L layers of H units over [x̃, observed, elapsed], and a linear head over [h of the top layer, elapsed].

    i, f, o = σ(W x + R h + b)    g = tanh(W x + R h + b)
    c' = f ∘ c + i ∘ g            h' = o ∘ tanh(c')
    mean = V [h, elapsed] + d + k ∘ last        ln scale = U [h, elapsed] + e

    k, one weight a channel, lets a slow channel be forecast by its last value (k near 1) and a noisy one by its
    level (k near 0); a tanh cell alone cannot carry a value exactly. Units are dropped between layers only, never over
    time (Zaremba et al. 2014).

    Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.layers, self.hidden = layers, hidden
        self.dropout = dropout if layers > 1 else 0.0
        self.cells = nn.LSTM(2 * channels + 1, hidden, layers, dropout=self.dropout)
        self.head = nn.Linear(hidden + 1, 2 * channels)
        self.keep = nn.Parameter(torch.full((channels,), 0.5))
        remember(self.cells)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """h and c, each (L, H), and the last reading (C,) with its gaps filled."""
        return {"h": (self.layers, self.hidden), "c": (self.layers, self.hidden), "last": (self.channels,)}

    def forecast(self, state: State, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """From the top layer's h and the last reading; see Forecaster."""
        return self._read(state["h"][:, -1], state["last"], elapsed)

    def advance(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> State:
        """One step of every layer; see Forecaster."""
        return self._advance(gates(self.cells), x, observed, elapsed, state)

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """torch's fused kernel where every value is observed; else step by step, since a forecast fills a gap."""
        if not bool(observed.all()):
            return self._unroll_with_gaps(x, observed, elapsed, state)
        h0, c0 = state["h"].transpose(0, 1).contiguous(), state["c"].transpose(0, 1).contiguous()
        top, (h, c) = self.cells(torch.cat([x, observed, elapsed], dim=-1), (h0, c0))  # top (T, B, H)
        before, last = torch.cat([h0[-1:], top[:-1]]), torch.cat([state["last"][None], x[:-1]])
        mean, scale = self._read(before, last, elapsed)
        return mean, scale, {"h": h.transpose(0, 1), "c": c.transpose(0, 1), "last": x[-1]}

    def _unroll_with_gaps(
        self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        """The same where values are missing."""
        location = self.head.weight[: self.channels]  # (C, H + 1)
        offset = self.head.bias[: self.channels] + elapsed * location[:, -1]
        masks = [
            functional.dropout(x.new_ones(*x.shape[:2], self.hidden), self.dropout)
            for _ in range(self.layers - 1)
            if self.training and self.dropout
        ]
        before = state["h"].transpose(0, 1), state["c"].transpose(0, 1), state["last"]
        filler = Filler(location[:, :-1], offset, self.keep)
        top, filled, h, c = unroll_with_gaps(x, observed, elapsed, before, gates(self.cells), filler, masks)
        mean, scale = self._read(
            torch.cat([before[0][-1:], top[:-1]]), torch.cat([state["last"][None], filled[:-1]]), elapsed
        )
        return mean, scale, {"h": h.transpose(0, 1), "c": c.transpose(0, 1), "last": filled[-1]}

    def _advance(self, weights: Gates, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> State:
        below = torch.cat([x, observed, elapsed], dim=-1)
        dropout = self.dropout if self.training else 0.0
        _, h, c = step_cells(weights, self.hidden, below, state["h"], state["c"], dropout)
        return {"h": h, "c": c, "last": x}

    def _read(self, h: Tensor, last: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = torch.split(self.head(torch.cat([h, elapsed], dim=-1)), self.channels, dim=-1)
        return location + self.keep * last, torch.exp(log_scale.clamp(*LOG_SCALE_LIMITS))
