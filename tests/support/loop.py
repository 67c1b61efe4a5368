"""What several tests share."""

from __future__ import annotations

import numpy as np

from gatewatch.models.recordings.recording import Recording


def waves(
    length: int = 300, seed: int = 0, missing: float = 0.0, noise: float = 0.1, stream: str = "wave"
) -> Recording:
    """Two sine waves of 20 and 33 readings, one reading a minute; in units of nothing near 0 and 1."""
    rng = np.random.default_rng(seed)
    t = np.arange(length)
    values = np.stack([50 + 4 * np.sin(2 * np.pi * t / 20), 0.1 * np.sin(2 * np.pi * t / 33)], axis=1)
    values += rng.normal(0, noise, values.shape) * [4, 0.1]
    values[rng.random(values.shape) < missing] = np.nan
    return Recording(stream, ("a", "b"), t.astype(np.int64) * 60_000, values.astype(np.float32))
