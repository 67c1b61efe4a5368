"""The stacked LSTM forecaster, the default."""

from __future__ import annotations

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
        """One step of every layer, spelled out so that it exports to few nodes; see Forecaster."""
        below = torch.cat([x, observed, elapsed], dim=-1)
        next_h, next_c = [], []
        for layer in range(self.layers):
            h, c = state["h"][:, layer], state["c"][:, layer]
            w, r, b, d = (
                getattr(self.cells, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            gates = functional.linear(torch.cat([below, h], dim=-1), torch.cat([w, r], dim=1), b + d)
            i, f, g, o = gates.chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            next_h.append(h)
            next_c.append(c)
            below = functional.dropout(h, self.dropout, self.training) if layer + 1 < self.layers else h
        return {"h": torch.stack(next_h, dim=1), "c": torch.stack(next_c, dim=1)}

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """torch's fused kernel where every value is observed; else reading by reading, since a forecast fills a gap."""
        if not bool(observed.all()):
            return super().unroll(x, observed, elapsed, state)
        h0, c0 = state["h"].transpose(0, 1).contiguous(), state["c"].transpose(0, 1).contiguous()
        top, (h, c) = self.cells(torch.cat([x, observed, elapsed], dim=-1), (h0, c0))  # top (T, B, H)
        before = torch.cat([h0[-1:], top[:-1]])
        mean, scale = self._read(before, elapsed)
        return mean, scale, {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}

    def _read(self, h: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.head(torch.cat([h, elapsed], dim=-1)).chunk(2, dim=-1)
        return mean, torch.exp(log_scale.clamp(*LOG_SCALE_LIMITS))
