"""A small causal Transformer over the last M readings, which the LSTM is measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.errors import TrainingError
from gatewatch.models.training.architectures.attention import attend, band
from gatewatch.models.training.architectures.base import Shapes, State
from gatewatch.models.training.architectures.cells import CellForecaster

MOST_HEADS = 4


class _Block(nn.Module):
    """Attention to the last S readings, then two layers for each reading alone, both added to what came in.

    u ← u + O attention(LN u)        u ← u + P SiLU(Q LN u)
    """

    def __init__(self, hidden: int, span: int, dropout: float) -> None:
        super().__init__()
        self.heads = next(heads for heads in range(MOST_HEADS, 0, -1) if hidden % heads == 0)
        self.before, self.between = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.into = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.wide, self.narrow = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.age = nn.Parameter(torch.zeros(self.heads, span))
        self.hidden, self.dropout = hidden, dropout

    def forward(self, u: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, H), and keys and values (B, S - 1, H) of the readings before, to (B, T, H) and those of after."""
        length = u.shape[1]
        query, key, value = torch.split(self.into(self.before(u)), self.hidden, dim=-1)
        keys, values = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)  # (B, S - 1 + T, H)
        found = attend(self._split(query), self._split(keys), self._split(values), band(self.age, length))
        u = u + self._drop(self.out(found.transpose(1, 2).flatten(2)))
        u = u + self._drop(self.narrow(functional.silu(self.wide(self.between(u)))))
        return u, keys[:, length:], values[:, length:]

    def _split(self, rows: Tensor) -> Tensor:
        """(B, S, H) to (B, N, S, H/N), one part a head."""
        return torch.stack(torch.split(rows, self.hidden // self.heads, dim=-1), dim=1)

    def _drop(self, rows: Tensor) -> Tensor:
        return functional.dropout(rows, self.dropout, self.training)


class TransformerForecaster(CellForecaster):
    """L blocks of H units; the head sees the newest reading's row. Keys and values of the past are the stream's state.

    Every block sees S = 1 + ⌊(M - 1)/L⌋ readings, so that all together reach back M at most, and the state has the
    same size whatever L. A key's place is its age, for which each head has a bias. Before a stream's first reading,
    keys and values are 0.

    Source: Vaswani et al. 2017, normed first (Xiong et al. 2020), with a sliding window and a cache.
    """

    def __init__(self, channels: int, layers: int, hidden: int, dropout: float, memory: int) -> None:
        super().__init__(channels, hidden)
        if memory <= layers:
            raise TrainingError(f"memory {memory} and {layers} layers; a transformer needs more readings than layers")
        self.layers, self.hidden, self.span = layers, hidden, 1 + (memory - 1) // layers
        self.embed = nn.Linear(2 * channels + 1, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, self.span, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def cell_shapes(self) -> Shapes:
        """Keys and values of each block's last S - 1 readings, and what the head sees."""
        ring = (self.layers, self.span - 1, self.hidden)
        return {"keys": ring, "values": ring, "top": (self.hidden,)}

    def top(self, cells: State) -> Tensor:
        """The newest reading's row."""
        return cells["top"]

    def take(self, seen: Tensor, cells: State) -> State:
        """One reading through all blocks."""
        return self.run(seen[None], cells)[1]

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """All T readings at once."""
        u, keys, values = self.embed(seen.transpose(0, 1)), [], []
        for layer, block in enumerate(self.blocks):
            u, key, value = block(u, cells["keys"][:, layer], cells["values"][:, layer])
            keys.append(key)
            values.append(value)
        tops = self.norm(u).transpose(0, 1)
        return tops, {"keys": torch.stack(keys, dim=1), "values": torch.stack(values, dim=1), "top": tops[-1]}
