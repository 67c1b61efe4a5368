"""Chrono initialisation: gates that begin with the memory of a task, not with one of a few readings."""

from __future__ import annotations

import torch
from torch import Tensor


def remembered(units: int, longest: int) -> Tensor:
    """(H,) biases with which a gate σ(b) keeps a unit for 2 to `longest` readings: b = ln u, u from 1 to longest - 1.

    The gate that lets new values in gets -b. Drawn from torch's random state.

    Source: Tallec & Ollivier 2018, "Can recurrent neural networks warp time?", section 2.
    """
    return torch.empty(units).uniform_(1, longest - 1).log()
