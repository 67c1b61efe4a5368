"""What several tests share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.trained.windows import Window

UNSCALED = Scaling(np.zeros(2), np.full(2, 1000.0), 60.0)
"""Values below 10,000 pass unclipped, divided by 1000."""


def counting(length: int, first: int = 0, missing: tuple[int, ...] = ()) -> Recording:
    """Reading n holds the value n in its first channel and -n in its second; one a minute."""
    rows = np.arange(first, first + length)
    values = np.stack([rows, -rows], axis=1).astype(np.float32)
    values[list(missing), 0] = np.nan
    return Recording(f"from-{first}", ("up", "down"), rows.astype(np.int64) * 60_000, values)


def lanes(windows: Iterable[Window], counted: bool = False) -> list[list[int]]:
    """The readings that went through each lane, in order, by their number; or only those whose error counts."""
    found: list[list[int]] = []
    current: list[list[int]] = []
    for window in windows:
        if window.first:
            current = [[] for _ in range(window.x.shape[1])]
            found += current
        for lane, readings in enumerate(current):
            numbers = (-window.x[:, lane, 1] * 1000).round().int()
            there = window.counted[:, lane, 1] > 0 if counted else numbers > 0
            readings += numbers[there].tolist()
    return found
