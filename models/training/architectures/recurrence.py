"""Linear recurrences over time, computed for many moments at once, and networks of blocks around them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatewatch.models.training.architectures.base import Shapes, State
from gatewatch.models.training.architectures.cells import CellForecaster


def recurrence(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    """z_t = a_t ∘ z_{t-1} + b_t for all t: a, b (T, B, H), real or complex, and z (B, H) before to (T, B, H).

    In some 2 √T steps, whose order of operations is that of chunks of √T: first in all chunks at once from 0, then from
    chunk to chunk. |a| ≤ 1 is expected; nothing is divided, and no logarithm needed, so any such a is exact.
    """
    return torch.as_tensor(_Recurrence.apply(a, b, z))  # type: ignore[no-untyped-call]


class _Recurrence(torch.autograd.Function):
    """Its gradient is a recurrence too, backwards in time: g_t = ∂z_t + ā_{t+1} ∘ g_{t+1}."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, z: Tensor) -> Tensor:
        after = _in_chunks(a, b, z)
        ctx.save_for_backward(a, z, after)
        return after

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, z, after = ctx.saved_tensors
        (gradient,) = gradients
        a = a.conj()
        following = torch.cat([a[1:], torch.zeros_like(a[:1])])
        g = _in_chunks(following.flip(0), gradient.flip(0), torch.zeros_like(z)).flip(0)
        return g * torch.cat([z[None], after[:-1]]).conj(), g, g[0] * a[0]


def _in_chunks(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    length, size = len(a), math.isqrt(len(a))
    chunks = -(-length // size)
    padding = [0, 0] * (a.ndim - 1) + [0, chunks * size - length]
    a, b = (functional.pad(c, padding).clone().view(chunks, size, *c.shape[1:]) for c in (a, b))
    for at in range(1, size):
        b[:, at].addcmul_(a[:, at], b[:, at - 1])
        a[:, at].mul_(a[:, at - 1])
    for chunk in range(chunks):
        b[chunk].addcmul_(a[chunk], z)
        z = b[chunk, -1]
    return b.flatten(0, 1)[:length]


class Block(nn.Module, ABC):
    """z' = a recurrence over LN u            u ← u + P SiLU(Q [z', LN u])."""

    def __init__(self, hidden: int, width: int, dropout: float) -> None:
        """`width` units of z for `hidden` units of u."""
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(hidden)
        self.wide, self.narrow = nn.Linear(width + hidden, hidden), nn.Linear(hidden, hidden)
        self.dropout = dropout

    @abstractmethod
    def step(self, v: Tensor, z: Tensor) -> Tensor:
        """One reading: v = LN u (B, H) and z (B, W) before it, to z after it."""

    @abstractmethod
    def run(self, v: Tensor, z: Tensor) -> Tensor:
        """T readings at once: v (T, B, H) and z (B, W) before them, to (T, B, W)."""

    def forward(self, u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """(..., H), for one reading or T of them, and z (B, W) before, to u and to z after each reading."""
        v = self.norm(u)
        after = self.step(v, z) if u.ndim == z.ndim else self.run(v, z)
        mixed = functional.silu(self.wide(torch.cat([after, v], dim=-1)))
        return u + functional.dropout(self.narrow(mixed), self.dropout, self.training), after


class BlocksForecaster(CellForecaster):
    """u = E [x̃, observed, elapsed] + e through L blocks; the head sees LN u of the newest reading.

    A block's recurrence is linear in z, and what drives it knows only the blocks below: so all T readings are computed
    at once, block by block.
    """

    def __init__(self, channels: int, hidden: int, blocks: list[Block]) -> None:
        super().__init__(channels, hidden)
        self.hidden = hidden
        self.embed = nn.Linear(2 * channels + 1, hidden)
        self.blocks = nn.ModuleList(blocks)
        self.shape = len(blocks), blocks[0].width
        self.norm = nn.LayerNorm(hidden)

    def cell_shapes(self) -> Shapes:
        """z of each block (L, W), and what the head sees (H,)."""
        return {"z": self.shape, "top": (self.hidden,)}

    def top(self, cells: State) -> Tensor:
        """The newest reading's LN u."""
        return cells["top"]

    def take(self, seen: Tensor, cells: State) -> State:
        """One reading through all blocks."""
        u, after = self.embed(seen), []
        for layer, block in enumerate(self.blocks):
            u, z = block(u, cells["z"][:, layer])
            after.append(z)
        return {"z": torch.stack(after, dim=1), "top": self.norm(u)}

    def run(self, seen: Tensor, cells: State) -> tuple[Tensor, State]:
        """All T readings at once."""
        u, after = self.embed(seen), []
        for layer, block in enumerate(self.blocks):
            u, z = block(u, cells["z"][:, layer])
            after.append(z[-1])
        tops = self.norm(u)
        return tops, {"z": torch.stack(after, dim=1), "top": tops[-1]}
