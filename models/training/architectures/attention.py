"""The LSTM forecaster with attention over its own last M hidden states, which it keeps in a ring."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gatewatch.models.training.architectures.base import Shapes, State
from gatewatch.models.training.architectures.lstm import LSTMForecaster


def band(bias: Tensor, length: int) -> Tensor:
    """What is added to the attention of `length` queries to the rows of a ring and of what came after it.

    Query t may see the rows t to t + M - 1, and its bias for them is that of their age.

    Args:
        bias: (N, M) of N heads, from the oldest row to the newest.

    Returns:
        (N, length, M - 1 + length), -∞ outside the band.
    """
    memory = bias.shape[-1]
    slot = torch.arange(memory - 1 + length) - torch.arange(length)[:, None]
    inside = ((slot >= 0) & (slot < memory)).to(bias.device)
    return torch.where(inside, bias[:, slot.clamp(0, memory - 1)], -torch.inf)


def attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """softmax(q kᵀ/√D + bias) v: (B, N, T, D), twice (B, N, S, D) and (N, T, S) to (B, N, T, D)."""
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return torch.softmax(scores + bias, dim=-1) @ values


class AttentionForecaster(LSTMForecaster):
    """An LSTM whose head sees the top layer's h and what h recalls of the M hidden states before it, r_1 to r_M.

    e_j = h · A r_j / √H + b_j        α = softmax(e)        top = [h, Σ α_j r_j]

    b_j belongs to the age j. Before its first reading a stream's hidden states were 0, and so is the ring. The LSTM
    itself does not see what is recalled, so that it trains as fast as without.

    Source: the bilinear score of Luong et al. 2015, over the network's own past as in Cheng et al. 2016.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float, memory: int) -> None:
        super().__init__(channels, layers, hidden, dropout, width=2 * hidden)
        self.memory = memory
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.age = nn.Parameter(torch.zeros(1, memory))

    def cell_shapes(self) -> Shapes:
        """h and c (L, H), and the ring (M, H), oldest first."""
        return {**super().cell_shapes(), "ring": (self.memory, self.hidden)}

    def top(self, cells: State) -> Tensor:
        """h of the top layer, and what it recalls."""
        h = cells["h"][:, -1:]  # (B, 1, H)
        return self._recall(h, cells["ring"])[:, 0]

    def take(self, seen: Tensor, cells: State) -> State:
        """One step of every layer; the top h of before moves into the ring."""
        ring = torch.cat([cells["ring"][:, 1:], cells["h"][:, -1:]], dim=1)
        return {**super().take(seen, cells), "ring": ring}

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """torch's fused kernel, then all T readings attend at once."""
        tops, after = super().run(seen, cells)
        tops = tops.transpose(0, 1)  # (B, T, H)
        past = torch.cat([cells["ring"][:, 1:], cells["h"][:, -1:], tops[:, :-1]], dim=1)  # (B, M - 1 + T, H)
        ring = past[:, -self.memory :]
        return self._recall(tops, past).transpose(0, 1), {**after, "ring": ring}

    def _recall(self, h: Tensor, past: Tensor) -> Tensor:
        """(B, T, H) and (B, M - 1 + T, H) to (B, T, 2H)."""
        keys = past[:, None]
        recalled = attend(self.query(h)[:, None], keys, keys, band(self.age, h.shape[1]))[:, 0]
        return torch.cat([h, recalled], dim=-1)
