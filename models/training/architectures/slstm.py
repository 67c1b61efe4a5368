"""The scalar LSTM forecaster of xLSTM: its gates are exponential, so that a new value can outweigh all before it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.training.architectures.base import Shapes, State
from gatewatch.models.training.architectures.cells import CellForecaster
from gatewatch.models.training.architectures.chrono import remembered

MOST_HEADS = 4

SHORTEST, LONGEST = 20.0, 400.0
"""Readings that the forget gates keep at the start."""


def log_sigmoid(x: Tensor) -> Tensor:
    """ln σ(x), as a softmax over x and 0.

    ONNX Runtime makes a logarithm's last bits depend on a number's place in the batch, but for those of a softmax; a
    stream must step alike in any company.
    """
    return functional.log_softmax(torch.stack([x, torch.zeros_like(x)], dim=-1), dim=-1)[..., 0]


class SLSTMForecaster(CellForecaster):
    """L layers of H units in N heads, on top of each other as in the LSTM; the head of the network sees the top h.

    ĩ, f̃, z̃, õ = W x + R h + b        i = exp ĩ    f = σ(f̃)    z = tanh z̃    o = σ(õ)        (11 to 14)
    c' = f c + i z                     n' = f n + i                   h' = o c'/n'              (8 to 10)

    R is block-diagonal: a unit is shown the h of its own head. The paper keeps exp from overflowing by a third state,
    the stabiliser m' = max(ln f + m, ĩ) (15), and holds c and n divided by exp m. What is carried here is y = c/n and
    s = ln n, in which the stabiliser cancels: with d = s + ln f - ĩ,

    s' = ĩ + ln(1 + exp d)             y' = y + σ(-d) (z - y)         h' = o y'

    and nothing overflows. A stream begins with y = s = 0, that is c = 0 and n = 1.

    Source: Beck et al. 2024, "xLSTM: extended long short-term memory", section 2.2, whose numbers these are; without
    the normed residual blocks around the cells, so that beside `lstm` only the cell differs.
    """

    own_head: Tensor

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float) -> None:
        super().__init__(channels, hidden)
        self.layers, self.hidden, self.dropout = layers, hidden, dropout
        heads = next(heads for heads in range(MOST_HEADS, 0, -1) if hidden % heads == 0)
        within = hidden // heads
        sizes = [2 * channels + 1, *[hidden] * (layers - 1)]
        self.below = nn.ModuleList(nn.Linear(size, 4 * hidden) for size in sizes)
        self.recurrent = nn.Parameter(torch.empty(layers, 4, heads, within, within).uniform_(-1, 1) / within**0.5)
        self.register_buffer("own_head", torch.eye(heads)[:, None, :, None], persistent=False)
        with torch.no_grad():
            for linear in self._linears():
                linear.bias.zero_()
                linear.bias[hidden : 2 * hidden] = torch.linspace(SHORTEST, LONGEST, hidden).log()

    def remember(self, longest: int) -> None:
        """See Forecaster."""
        with torch.no_grad():
            for linear in self._linears():
                bias = remembered(self.hidden, longest)
                linear.bias[: 2 * self.hidden] = torch.cat([-bias, bias])

    def cell_shapes(self) -> Shapes:
        """h, y = c/n and s = ln n of every layer, each (L, H)."""
        return dict.fromkeys(("h", "y", "s"), (self.layers, self.hidden))

    def top(self, cells: State) -> Tensor:
        """h of the top layer."""
        return cells["h"][:, -1]

    def take(self, seen: Tensor, cells: State) -> State:
        """One step of every layer."""
        return self.run(seen[None], cells)[1]

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """Layer by layer, each over all T readings."""
        below, after = seen, []
        for layer, linear in enumerate(self._linears()):
            dense = (self.recurrent[layer][:, :, :, None] * self.own_head).reshape(4 * self.hidden, self.hidden)
            h, y, s = (cells[name][:, layer] for name in ("h", "y", "s"))
            tops = []
            for now in linear(below).unbind():
                h, y, s = self._recur(now + functional.linear(h, dense), y, s)
                tops.append(h)
            after.append((h, y, s))
            dropped = self.training and layer + 1 < self.layers
            below = functional.dropout(torch.stack(tops), self.dropout, dropped)
        h, y, s = (torch.stack(layers, dim=1) for layers in zip(*after, strict=True))
        return below, {"h": h, "y": y, "s": s}

    def _linears(self) -> list[nn.Linear]:
        """W and b of every layer, i, f, z and o below each other."""
        return cast(list[nn.Linear], list(self.below))

    def _recur(self, sums: Tensor, y: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h, y and s (B, H) after `sums` (B, 4H), which is W x + R h + b."""
        i, f, z, o = torch.split(sums, self.hidden, dim=-1)
        d = s + log_sigmoid(f) - i
        y = y + torch.sigmoid(-d) * (torch.tanh(z) - y)
        return torch.sigmoid(o) * y, y, i - log_sigmoid(-d)
