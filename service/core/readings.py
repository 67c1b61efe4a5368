"""Readings: what comes into the core, in columns; whatever door it came through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.service.core.stream_key import StreamKey

NO_TIME: Final = -1
NO_SEQ: Final = -1


@dataclass(frozen=True)
class Readings:
    """N readings that can be scored, in columns.

    Attributes:
        streams: their streams.
        timestamps_ms: Unix time, NO_TIME where the sender gave none.
        seqs: the sender's count, NO_SEQ where there is none.
        values: (N, C) float64 in the model's order of channels, NaN where missing.
    """

    streams: list[StreamKey]
    timestamps_ms: NDArray[np.int64]
    seqs: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.streams)
