"""A stacked LSTM that fills gaps with its own forecasts, over T readings, with its gradient written out.

torch's fused kernel cannot: what stands in a gap depends on the step before. Left to autograd, some fifty small
operations a step, and the sums over steps among them, cost 4 to 12 times what the kernel does; here a step back takes
half a dozen, and the gradients of the weights are one matrix product over all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gatewatch.models.detectors.trained.scaling import STANDARDISED_LIMIT


@dataclass(frozen=True)
class Filler:
    """What a gap is filled with: mean = V h + offset + k ∘ last, within ±STANDARDISED_LIMIT.

    Attributes:
        weight: V (C, H).
        offset: (T, B, C) all that does not depend on the state.
        keep: k (C,).
    """

    weight: Tensor
    offset: Tensor
    keep: Tensor


def unroll_with_gaps(
    x: Tensor, observed: Tensor, elapsed: Tensor, state: tuple[Tensor, Tensor, Tensor],
    weights: list[tuple[Tensor, Tensor]], filler: Filler, masks: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Fill each reading's gaps from the state before it, and take it in.

    Args:
        x, observed: (T, B, C) readings, and 1 where there is a value, else 0.
        elapsed: (T, B, 1).
        state: h, c (L, B, H) and the last reading (B, C) before the first.
        weights: per layer [W R] (4H, inputs + H) and b (4H,), gates in the order i, f, g, o.
        masks: of the dropout above each layer but the last, (T, B, H) each; empty for none.

    Returns:
        The top layer's h (T, B, H), the readings with their gaps filled (T, B, C), and h and c (L, B, H) after the
        last. No gradient goes to `observed` and `elapsed`.
    """
    flat = [tensor for pair in weights for tensor in pair]
    filling = filler.weight, filler.offset, filler.keep
    found = _Recurrence.apply(x, observed, elapsed, *state, masks, *filling, *flat)  # type: ignore[no-untyped-call]
    top, filled, h, c = found
    return top, filled, h, c


class _Recurrence(torch.autograd.Function):
    """Forward keeps inputs, gates and cells of all steps; backward goes through them once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, observed: Tensor, elapsed: Tensor, h0: Tensor, c0: Tensor, last: Tensor,
        masks: list[Tensor], v: Tensor, offset: Tensor, keep: Tensor, *flat: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        weights, biases = flat[::2], flat[1::2]
        steps, streams, channels = x.shape
        layers, _, hidden = h0.shape
        gap = observed == 0
        gappy = gap.flatten(1).any(dim=1).tolist()
        inputs = [
            x.new_empty(steps, streams, weight.shape[1]) for weight in weights
        ]  # below and h before, side by side
        gates = x.new_empty(layers, steps, streams, 4, hidden)
        cells, tanhs = x.new_empty(layers, steps + 1, streams, hidden), x.new_empty(layers, steps, streams, hidden)
        cells[:, 0] = c0
        inputs[0][:, :, :channels] = x
        inputs[0][:, :, channels:-hidden] = torch.cat([observed, elapsed], dim=-1)
        filled = inputs[0][:, :, :channels]
        across = v.t(), [weight.t() for weight in weights]
        # views of each step, made all at once: one by one they took as long as the arithmetic
        taken = [one.unbind() for one in inputs]
        before = [one[:, :, -hidden:].unbind() for one in inputs]
        below = [one[:, :, :-hidden].unbind() for one in inputs]
        z = [one.view(steps, streams, 4 * hidden).unbind() for one in gates]
        split = [[part.unbind() for part in one.unbind(dim=2)] for one in gates]
        c, tanh_c = [one.unbind() for one in cells], [one.unbind() for one in tanhs]
        h, first = list(h0), last
        for now, (reading, offset_now, is_gap) in enumerate(zip(filled.unbind(), offset, gap, strict=True)):
            if gappy[now]:
                mean = torch.addmm(offset_now, h[-1], across[0]).addcmul_(keep, last)
                torch.where(is_gap, mean.clamp_(-STANDARDISED_LIMIT, STANDARDISED_LIMIT), reading, out=reading)
            last = reading
            for layer in range(layers):
                i, f, g, o = (part[now] for part in split[layer])
                before[layer][now].copy_(h[layer])
                torch.addmm(biases[layer], taken[layer][now], across[1][layer], out=z[layer][now])
                torch.tanh(g, out=g)
                for gate in (i, f, o):
                    torch.sigmoid(gate, out=gate)
                torch.mul(f, c[layer][now], out=c[layer][now + 1]).addcmul_(i, g)
                h[layer] = o * torch.tanh(c[layer][now + 1], out=tanh_c[layer][now])
                if layer + 1 < layers:
                    below[layer + 1][now].copy_(h[layer] * masks[layer][now] if masks else h[layer])
        top = gates[-1, :, :, 3] * tanhs[-1]
        ctx.save_for_backward(gap, first, v, keep, *weights)
        ctx.kept = inputs, gates, cells, tanhs, gappy, masks
        return top, filled.clone(), torch.stack(h), cells[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, d_top: Tensor, d_filled: Tensor, d_h: Tensor, d_c: Tensor) -> Any:
        gap, first, v, keep, *weights = ctx.saved_tensors
        inputs, gates, cells, tanhs, gappy, masks = ctx.kept
        layers, steps, streams, _, hidden = gates.shape
        channels = gap.shape[-1]
        i, f, g, o = gates.unbind(dim=3)  # (L, T, B, H) each
        through_cell = torch.stack([g * i * (1 - i), cells[:, :-1] * f * (1 - f), i * (1 - g * g)], dim=3)
        through_output, to_cell = tanhs * o * (1 - o), o * (1 - tanhs * tanhs)
        filled = inputs[0][:, :, :channels]
        free = gap & (filled.abs() < STANDARDISED_LIMIT)  # a forecast that was cut has no gradient
        d_z = torch.empty_like(gates)
        d_mean, d_x = torch.zeros_like(d_filled), torch.empty_like(d_filled)
        dh, dc, d_last = list(d_h), list(d_c), torch.zeros_like(d_filled[0])
        z = [one.view(steps, streams, 4 * hidden).unbind() for one in d_z]
        z_ifg, z_o = [one[:, :, :3].unbind() for one in d_z], [one[:, :, 3].unbind() for one in d_z]
        kept = [list(zip(*parts, strict=True)) for parts in zip(to_cell, through_cell, through_output, f, strict=True)]
        for now in reversed(range(steps)):
            dh[-1] = dh[-1] + d_top[now]
            for layer in reversed(range(layers)):
                of_cell, through_c, through_o, forget = kept[layer][now]
                dc[layer] = torch.addcmul(dc[layer], dh[layer], of_cell)
                torch.mul(dc[layer][:, None], through_c, out=z_ifg[layer][now])
                torch.mul(dh[layer], through_o, out=z_o[layer][now])
                dc[layer] = dc[layer] * forget
                d_taken = z[layer][now] @ weights[layer]
                dh[layer] = d_taken[:, -hidden:]
                if layer:
                    below = d_taken[:, :-hidden]
                    dh[layer - 1] = dh[layer - 1] + (below * masks[layer - 1][now] if masks else below)
            d_x[now] = d_filled[now] + d_taken[:, :channels] + d_last
            d_last = torch.zeros_like(d_last)
            if gappy[now]:
                d_mean[now] = torch.where(free[now], d_x[now], 0.0)
                dh[-1] = dh[-1] + d_mean[now] @ v
                d_last = d_mean[now] * keep
        d_flat = []
        for layer in range(layers):
            over_all = d_z[layer].view(-1, 4 * hidden)
            d_flat += [over_all.t() @ inputs[layer].flatten(0, 1), over_all.sum(dim=0)]
        d_v = d_mean.flatten(0, 1).t() @ inputs[-1][:, :, -hidden:].flatten(0, 1)
        last = torch.cat([first[None], filled[:-1]])
        d_keep = (d_mean * last).sum(dim=(0, 1))
        d_state = torch.stack(dh), torch.stack(dc), d_last
        return torch.where(gap, 0.0, d_x), None, None, *d_state, None, d_v, d_mean, d_keep, *d_flat
