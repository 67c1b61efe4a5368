"""The stacked LSTM forecaster, the default."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.architectures.base import LOG_SCALE_LIMITS, Forecaster, State


class LSTMForecaster(Forecaster):
    """L layers of H units over [x̃, observed, elapsed], and a linear head over [h of the top layer, elapsed].

    i, f, o = σ(W x + R h + b)    g = tanh(W x + R h + b)
    c' = f ∘ c + i ∘ g            h' = o ∘ tanh(c')
    mean, ln scale = V [h, elapsed] + d

    The forget gate's bias starts at 1, so that an untrained cell remembers (Gers et al. 2000). Units are dropped
    between layers only, never over time (Zaremba et al. 2014).

    Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.layers, self.hidden = layers, hidden
        self.dropout = dropout if layers > 1 else 0.0
        self.cells = nn.LSTM(2 * channels + 1, hidden, layers, dropout=self.dropout)
        self.head = nn.Linear(hidden + 1, 2 * channels)
        with torch.no_grad():
            for layer in range(layers):
                getattr(self.cells, f"bias_ih_l{layer}").zero_()
                bias = getattr(self.cells, f"bias_hh_l{layer}").zero_()
                bias[hidden : 2 * hidden] = 1.0
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """h and c, each (L, H)."""
        return {"h": (self.layers, self.hidden), "c": (self.layers, self.hidden)}

    def forecast(self, state: State, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """From the top layer's h; see Forecaster."""
        return self._read(state["h"][:, -1], elapsed)

    def advance(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> State:
        """One step of every layer; see Forecaster."""
        h, c = self._cells(torch.cat([x, observed, elapsed], dim=-1), state["h"].unbind(1), state["c"].unbind(1))
        return {"h": torch.stack(h, dim=1), "c": torch.stack(c, dim=1)}

    def _cells(self, below: Tensor, h: Sequence[Tensor], c: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """One step of every layer, each h and c (B, H), spelled out so that it exports to few nodes."""
        next_h, next_c = [], []
        for layer in range(self.layers):
            w, r, b, d = self.cells.all_weights[layer]
            gates = functional.linear(below, w, b + d) + functional.linear(h[layer], r)
            i, f, g, o = gates.chunk(4, dim=-1)
            next_c.append(torch.sigmoid(f) * c[layer] + torch.sigmoid(i) * torch.tanh(g))
            next_h.append(torch.sigmoid(o) * torch.tanh(next_c[-1]))
            below = functional.dropout(next_h[-1], self.dropout, self.training and layer + 1 < self.layers)
        return next_h, next_c

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """torch's fused kernel where every value is observed; else reading by reading, since a forecast fills a gap."""
        if not bool(observed.all()):
            return self._unroll_with_gaps(x, observed, elapsed, state)
        h0, c0 = state["h"].transpose(0, 1).contiguous(), state["c"].transpose(0, 1).contiguous()
        top, (h, c) = self.cells(torch.cat([x, observed, elapsed], dim=-1), (h0, c0))  # top (T, B, H)
        before = torch.cat([h0[-1:], top[:-1]])
        mean, scale = self._read(before, elapsed)
        return mean, scale, {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}

    def _unroll_with_gaps(
        self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State
    ) -> tuple[Tensor, Tensor, State]:
        h, c = list(state["h"].unbind(1)), list(state["c"].unbind(1))
        location = slice(0, self.channels)
        tops = []
        for now in range(len(x)):
            tops.append(h[-1])
            mean = functional.linear(
                torch.cat([h[-1], elapsed[now]], dim=-1), self.head.weight[location], self.head.bias[location]
            )
            filled = torch.where(observed[now] > 0, x[now], mean)
            h, c = self._cells(torch.cat([filled, observed[now], elapsed[now]], dim=-1), h, c)
        mean, scale = self._read(torch.stack(tops), elapsed)
        return mean, scale, {"h": torch.stack(h, dim=1), "c": torch.stack(c, dim=1)}

    def _read(self, h: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.head(torch.cat([h, elapsed], dim=-1)).chunk(2, dim=-1)
        return mean, torch.exp(log_scale.clamp(*LOG_SCALE_LIMITS))
