"""The bidirectional LSTM forecaster: each reading from all before it and all after it, for finished recordings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatewatch.models.training.architectures.base import Forecaster, Shapes, State
from gatewatch.models.training.architectures.lstm import remember, remember_long


class BiLSTMForecaster(Forecaster):
    """L layers of H units forwards and as many backwards, which meet in the head only.

    top_t = [→h_{t-1}, ←h_{t+1}, elapsed_{t+1}]        mean += k' ∘ x_{t+1}

    Layers that saw both directions would see the reading itself. A missing value is 0, with observed 0: its forecast
    would need what is forecast from it. In training, the way back begins at the end of each window, the way forward
    carries its state on from window to window.

    Source: Schuster & Paliwal 1997.
    """

    kind = "recording"

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__(channels, 2 * hidden + 1)
        self.layers, self.hidden = layers, hidden
        dropout = dropout if layers > 1 else 0.0
        self.forwards = nn.LSTM(2 * channels + 1, hidden, layers, dropout=dropout)
        self.backwards = nn.LSTM(2 * channels + 1, hidden, layers, dropout=dropout)
        self.keep_next = nn.Parameter(torch.zeros(channels))
        for cells in (self.forwards, self.backwards):
            remember(cells)

    def remember(self, longest: int) -> None:
        """See Forecaster."""
        for cells in (self.forwards, self.backwards):
            remember_long(cells, longest)

    def state_shapes(self) -> Shapes:
        """Of the way forward: h and c (L, H), and the last reading (C,)."""
        return {"h": (self.layers, self.hidden), "c": (self.layers, self.hidden), "last": (self.channels,)}

    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Forecast T readings, each from the state, the readings before it and those after it; see Forecaster."""
        x = observed * x
        before = state["h"].transpose(0, 1).contiguous(), state["c"].transpose(0, 1).contiguous()
        tops, (h, c) = self.forwards(torch.cat([x, observed, elapsed], dim=-1), before)
        until = torch.cat([elapsed[1:], torch.zeros_like(elapsed[:1])])  # the time to the reading after
        back, _ = self.backwards(torch.cat([x, observed, until], dim=-1).flip(0))
        back = back.flip(0)

        past = torch.cat([before[0][-1:], tops[:-1]])
        future = torch.cat([back[1:], torch.zeros_like(back[:1])])
        last, following = torch.cat([state["last"][None], x[:-1]]), torch.cat([x[1:], torch.zeros_like(x[:1])])
        mean, scale = self.read(torch.cat([past, future, until], dim=-1), last, elapsed)
        after = {"h": h.transpose(0, 1), "c": c.transpose(0, 1), "last": x[-1]}
        return mean + self.keep_next * following, scale, after
