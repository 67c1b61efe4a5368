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
    mean = V [h, elapsed] + d + k ∘ last        ln scale = U [h, elapsed] + e

    k, one weight a channel, lets a slow channel be forecast by its last value (k near 1) and a noisy one by its
    level (k near 0); a tanh cell alone cannot carry a value exactly. The forget gate's bias starts at 1, so that an
    untrained cell remembers (Gers et al. 2000). Units are dropped between layers only, never over time (Zaremba et
    al. 2014).

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
        with torch.no_grad():
            for layer in range(layers):
                getattr(self.cells, f"bias_ih_l{layer}").zero_()
                bias = getattr(self.cells, f"bias_hh_l{layer}").zero_()
                bias[hidden : 2 * hidden] = 1.0
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
        return self._advance(self._gates(), x, observed, elapsed, state)

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """torch's fused kernel where every value is observed; else reading by reading, since a forecast fills a gap."""
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
        """`step` over T readings, with the weights put together once for all of them."""
        gates, means, scales = self._gates(), [], []
        for now, there, since in zip(x.unbind(), observed.unbind(), elapsed.unbind(), strict=True):
            mean, scale = self.forecast(state, since)
            state = self._advance(gates, torch.where(there > 0, now, mean), there, since, state)
            means.append(mean)
            scales.append(scale)
        return torch.stack(means), torch.stack(scales), state

    def _gates(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer [W R] (4H, inputs + H) and b (4H,): one matrix product a layer is what exports to few nodes."""
        return [
            (torch.cat([w, r], dim=1), b + d)
            for w, r, b, d in (self.cells.all_weights[at] for at in range(self.layers))
        ]

    def _advance(
        self, gates: list[tuple[Tensor, Tensor]], x: Tensor, observed: Tensor, elapsed: Tensor, state: State
    ) -> State:
        below = torch.cat([x, observed, elapsed], dim=-1)
        next_h, next_c = [], []
        for layer, (weight, bias) in enumerate(gates):
            h, c = state["h"][:, layer], state["c"][:, layer]
            # split, not chunk: chunk exports to 12 nodes more a layer (106 nodes and 79 µs a step against 58 and 64)
            i, f, g, o = torch.split(
                functional.linear(torch.cat([below, h], dim=-1), weight, bias), self.hidden, dim=-1
            )
            next_c.append(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g))
            next_h.append(torch.sigmoid(o) * torch.tanh(next_c[-1]))
            below = functional.dropout(next_h[-1], self.dropout, self.training and layer + 1 < self.layers)
        return {"h": torch.stack(next_h, dim=1), "c": torch.stack(next_c, dim=1), "last": x}

    def _read(self, h: Tensor, last: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = torch.split(self.head(torch.cat([h, elapsed], dim=-1)), self.channels, dim=-1)
        return location + self.keep * last, torch.exp(log_scale.clamp(*LOG_SCALE_LIMITS))
