"""Recordings to (T, B, C) windows: split by time, cut into lanes that run side by side, fed in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import TrainingError
from models.recordings import Recording
from models.scaling import Scaling

LEAST_TRAIN, LEAST_HELD_OUT = 32, 8
"""Readings that a recording must give to be of use."""

LANE_WINDOWS = 4
"""Windows in the shortest lane that a long recording is cut into: every cut costs a burn-in."""


@dataclass(frozen=True)
class Window:
    """T readings of B lanes.

    Attributes:
        x, observed: (T, B, C) standardised readings, 0 where missing, and where there are values.
        elapsed: (T, B, 1).
        counted: (T, B, C) 1 where an error counts: observed, inside the lane, and behind its burn-in.
        first: whether the lanes begin here, so that the state before it is the initial one.
    """

    x: Tensor
    observed: Tensor
    elapsed: Tensor
    counted: Tensor
    first: bool


@dataclass(frozen=True)
class _Lane:
    """A piece of a recording, ready for the network; its first `burn_in` readings do not count."""

    x: NDArray[np.float32]
    elapsed: NDArray[np.float32]
    burn_in: int


def held_out_row(recording: Recording, held_out: float) -> int:
    """The row at which a recording's held-out part begins."""
    return _cut_at(len(recording), held_out)


def _cut_at(length: int, held_out: float) -> int:
    return int(length * (1 - held_out))


def _is_enough(length: int, held_out: float) -> bool:
    row = _cut_at(length, held_out)
    return row >= LEAST_TRAIN and length - row >= LEAST_HELD_OUT


def usable(recordings: Sequence[Recording], held_out: float) -> list[Recording]:
    """The recordings long enough to train on.

    Raises:
        TrainingError: none is; says how long they are and how long they must be.
    """
    least = next(length for length in count(1) if _is_enough(length, held_out))
    fitting = [recording for recording in recordings if _is_enough(len(recording), held_out)]
    if not fitting:
        longest = max(map(len, recordings), default=0)
        raise TrainingError(
            f"{longest} readings in the longest of {len(recordings)} recordings; at least {least} are needed, "
            f"{LEAST_TRAIN} to train on and {LEAST_HELD_OUT} to calibrate with"
        )
    return fitting


def train_windows(
    recordings: Sequence[Recording], scaling: Scaling, held_out: float, window: int, lanes: int
) -> list[Window]:
    """The training parts as windows in order; states are carried from one to the next until `first`.

    Long parts are cut into contiguous lanes, so that about `lanes` run side by side. A lane that begins in the middle
    of a recording starts cold: its first half window does not count.
    """
    parts = [_lane(recording, scaling, 0, held_out_row(recording, held_out), 0) for recording in recordings]
    total = sum(len(part.x) for part in parts)
    length = max(LANE_WINDOWS * window, -(-total // lanes))
    pieces = []
    for part in parts:
        for start in range(0, len(part.x), length):
            stop = min(start + length, len(part.x))
            if stop - start > window // 2 or start == 0:
                pieces.append(_Lane(part.x[start:stop], part.elapsed[start:stop], window // 2 if start else 0))
    pieces.sort(key=lambda piece: -len(piece.x))
    groups = (pieces[at : at + lanes] for at in range(0, len(pieces), lanes))
    return [cut for group in groups for cut in _cut(group, window)]


def held_out_windows(
    recordings: Sequence[Recording], scaling: Scaling, held_out: float, window: int, lanes: int
) -> list[Window]:
    """The held-out parts as windows, each led in by the end of its training part, which warms the state up."""
    parts = []
    for recording in recordings:
        row = held_out_row(recording, held_out)
        lead = min(row, LANE_WINDOWS * window)
        parts.append(_lane(recording, scaling, row - lead, len(recording), lead))
    parts.sort(key=lambda part: -len(part.x))
    groups = (parts[at : at + lanes] for at in range(0, len(parts), lanes))
    return [cut for group in groups for cut in _cut(group, window)]


def _lane(recording: Recording, scaling: Scaling, start: int, stop: int, burn_in: int) -> _Lane:
    delta_ms = np.diff(recording.timestamps_ms, prepend=recording.timestamps_ms[:1])
    elapsed = scaling.elapsed(delta_ms)
    elapsed[0] = 0  # a stream's first reading
    return _Lane(scaling.standardise(recording.values[start:stop]), elapsed[start:stop], burn_in)


def _cut(lanes: Sequence[_Lane], window: int) -> Iterator[Window]:
    """Lanes of different lengths as windows of at most `window` readings; a lane that has ended is padded."""
    longest, channels = len(lanes[0].x), lanes[0].x.shape[1]
    for start in range(0, longest, window):
        stop = min(start + window, longest)
        x = np.zeros((stop - start, len(lanes), channels), np.float32)
        observed, counted = np.ones_like(x), np.zeros_like(x)
        elapsed = np.zeros((stop - start, len(lanes), 1), np.float32)
        for at, lane in enumerate(lanes):
            piece = lane.x[start:stop]
            there = np.isfinite(piece)
            x[: len(piece), at] = np.where(there, piece, 0)
            observed[: len(piece), at] = there
            elapsed[: len(piece), at, 0] = lane.elapsed[start:stop]
            counted[: len(piece), at] = there
            counted[: max(0, lane.burn_in - start), at] = 0
        tensors = [torch.from_numpy(array) for array in (x, observed, elapsed, counted)]
        yield Window(tensors[0], tensors[1], tensors[2], tensors[3], first=start == 0)
