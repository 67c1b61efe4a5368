"""Recordings to (T, B, C) windows: split by time, cut into lanes that run side by side, fed in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import overload

import numpy as np
import torch
from torch import Tensor

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import AnySource, Source
from gatewatch.models.training.processes import ALONE, Processes

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

    def to(self, device: torch.device) -> Window:
        """The same where the network is."""
        x, observed, elapsed, counted = (t.to(device) for t in (self.x, self.observed, self.elapsed, self.counted))
        return Window(x, observed, elapsed, counted, self.first)


@dataclass(frozen=True)
class _Lane:
    """The rows of a recording from `start` to `stop`; its first `burn_in` readings do not count."""

    recording: Source
    start: int
    stop: int
    burn_in: int

    def __len__(self) -> int:
        return self.stop - self.start


class Windows(Sequence[Window]):
    """Groups of lanes as windows in order, each cut from the recordings when it is asked for.

    The lanes of a group run side by side, the longest first; one that has ended is padded. Of several processes each
    gets its share of every group's lanes, and as many windows as the others.
    """

    def __init__(
        self, groups: Sequence[Sequence[_Lane]], scaling: Scaling, window: int, processes: Processes = ALONE
    ) -> None:
        self._scaling = scaling
        self._places = [
            (lanes[processes.rank :: processes.size] or [replace(lanes[0], stop=lanes[0].start)], start, stop)
            for lanes in groups
            for start, stop in pairwise([*range(0, len(lanes[0]), window), len(lanes[0])])
        ]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Window: ...

    @overload
    def __getitem__(self, at: slice) -> list[Window]: ...

    def __getitem__(self, at: int | slice) -> Window | list[Window]:
        if isinstance(at, slice):
            return [self._cut(*place) for place in self._places[at]]
        return self._cut(*self._places[at])

    def _cut(self, lanes: Sequence[_Lane], start: int, stop: int) -> Window:
        """Readings `start` to `stop` of each lane."""
        length, channels = stop - start, len(lanes[0].recording.channels)
        values = np.zeros((length, len(lanes), channels))
        delta_ms = np.zeros((length, len(lanes)), np.int64)
        inside = np.zeros((length, len(lanes), 1), bool)
        first, counting = np.zeros_like(inside), np.zeros_like(inside)
        for at, lane in enumerate(lanes):
            begin, end = lane.start + start, min(lane.start + stop, lane.stop)
            if begin >= end:
                continue
            rows = lane.recording.rows(max(0, begin - 1), end)  # with the one before, for its time
            count = end - begin
            values[:count, at] = rows.values[-count:]
            delta_ms[:count, at] = np.diff(rows.timestamps_ms, prepend=rows.timestamps_ms[:1])[-count:]
            inside[:count, at] = True
            first[0, at] = begin == 0
            counting[max(0, lane.burn_in - start) : count, at] = True
        there = np.isfinite(values)
        x = np.where(there & inside, self._scaling.standardise(values), 0)
        elapsed = np.where(inside & ~first, self._scaling.elapsed(delta_ms)[..., None], 0)
        tensors = [torch.from_numpy(array.astype(np.float32)) for array in (x, there, elapsed, there & counting)]
        return Window(tensors[0], tensors[1], tensors[2], tensors[3], first=start == 0)


def held_out_row(recording: Source, held_out: float) -> int:
    """The row at which a recording's held-out part begins."""
    return _cut_at(len(recording), held_out)


def _cut_at(length: int, held_out: float) -> int:
    return int(length * (1 - held_out))


def _is_enough(length: int, held_out: float) -> bool:
    row = _cut_at(length, held_out)
    return row >= LEAST_TRAIN and length - row >= LEAST_HELD_OUT


def usable(recordings: Sequence[AnySource], held_out: float) -> list[AnySource]:
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
    recordings: Sequence[Source],
    scaling: Scaling,
    held_out: float,
    window: int,
    lanes: int,
    processes: Processes = ALONE,
) -> Windows:
    """The training parts as windows in order; states are carried from one to the next until `first`.

    Long parts are cut into contiguous lanes, so that about `lanes` run side by side. A lane that begins in the middle
    of a recording starts cold: its first half window does not count.
    """
    rows = [held_out_row(recording, held_out) for recording in recordings]
    length = max(LANE_WINDOWS * window, -(-sum(rows) // lanes))
    pieces = []
    for recording, row in zip(recordings, rows, strict=True):
        for start in range(0, row, length):
            stop = min(start + length, row)
            if stop - start > window // 2 or start == 0:
                pieces.append(_Lane(recording, start, stop, window // 2 if start else 0))
    return Windows(_side_by_side(pieces, lanes), scaling, window, processes)


def held_out_windows(
    recordings: Sequence[Source],
    scaling: Scaling,
    held_out: float,
    window: int,
    lanes: int,
    processes: Processes = ALONE,
) -> Windows:
    """The held-out parts as windows, each led in by the end of its training part, which warms the state up."""
    parts = []
    for recording in recordings:
        row = held_out_row(recording, held_out)
        lead = min(row, LANE_WINDOWS * window)
        parts.append(_Lane(recording, row - lead, len(recording), lead))
    return Windows(_side_by_side(parts, lanes), scaling, window, processes)


def _side_by_side(pieces: Sequence[_Lane], lanes: int) -> list[list[_Lane]]:
    """Groups of at most `lanes`, the longest first."""
    ordered = sorted(pieces, key=lambda piece: -len(piece))
    return [ordered[at : at + lanes] for at in range(0, len(ordered), lanes)]
