"""The readings of one stream, one or many, taken into what its channels remember: shape.py in numbers, to the bit."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.cycles import RING
from gatewatch.models.detectors.general.shape import (
    FIELDS,
    SPAN,
    Shapes,
    begin,
    begins,
    block_after,
    end_blocks,
    forget,
    is_looked_at,
    is_lost,
    is_whole,
    unit_place,
)
from gatewatch.models.detectors.operands import ARRAYS, NUMBERS

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

_ROW = np.zeros(1, np.intp)


class ShapeLayout(NamedTuple):
    """Where a stream's state has what its C channels remember.

    Attributes:
        head: of the fields before the ring.
        begins, ends: bytes.
    """

    head: struct.Struct
    begins: int
    ends: int

    @classmethod
    def of(cls, dtype: np.dtype[Any], channels: int) -> ShapeLayout:
        """In states of this dtype."""
        held: Any = dtype.fields
        kind, last = held[FIELDS[-1]][:2]
        head = struct.Struct(f"<{2 * channels}d{4 * channels}f{2 * channels}H{3 * channels}B")
        return cls(head, held[FIELDS[0]][1], last + kind.itemsize)


class ShapesAlone(NamedTuple):
    """What the C channels of one stream stand at with a reading.

    Attributes:
        sizes: see Shapes.
        folds: a block has 2^fold readings.
        before: what the state held, to be put back where the reading is not taken.
    """

    sizes: tuple[float, ...]
    folds: tuple[int, ...]
    before: bytes

    def put_back(self, states: Records, layout: ShapeLayout) -> None:
        """Have `states` as they were."""
        states.view(np.uint8).data[layout.begins : layout.ends] = self.before

    def heard(self, there: list[bool], sound: int) -> list[float]:
        """Sizes that are judged: of channels that are there, after so many readings without anything odd."""
        each = zip(self.sizes, self.folds, there, strict=True)
        return [size if seen and sound >= SPAN << fold else 0.0 for size, fold, seen in each]


def take_alone(
    states: Records,
    layout: ShapeLayout,
    there: list[bool],
    values: list[float],
    changes: list[float],
    known: tuple[tuple[int, ...], ...],
) -> ShapesAlone | None:
    """Take one reading in; `states` (1,) are changed in place. None, and nothing is changed, where a memory begins.

    Args:
        there, values, changes: by channel, see lone.py.
        known: readings of each channel, moves, and readings for which it has been missing.
    """
    record, c, ended, looked_at = states.view(np.uint8).data, len(values), [], []
    kept = list(layout.head.unpack_from(record, layout.begins))
    origins, units, folds = kept[:c], kept[2 * c : 3 * c], kept[9 * c : 10 * c]
    for at, (unit, fold) in enumerate(zip(units, folds, strict=True)):
        count, moves, absent = (each[at] for each in known)
        if begins(unit, count, moves, changes[at]) or (not there[at] and is_lost(unit, absent, fold)):
            return None
        if unit > 0.0:
            kept[c + at] += unit_place(NUMBERS, values[at], origins[at], unit)
            kept[8 * c + at] += 1
            if kept[8 * c + at] >= 1 << fold:
                ended.append(at)
    before = bytes(record[layout.begins : layout.ends])
    for at in ended:
        blocks = block_after(NUMBERS, kept[6 * c + at])
        if any(is_looked_at(kept[10 * c + at], blocks)):
            looked_at.append(at)
            continue
        states["shape_ring"][0, at, (blocks - 1) % RING] = kept[c + at] / kept[8 * c + at]
        kept[c + at], kept[6 * c + at], kept[8 * c + at] = 0.0, blocks, 0
    layout.head.pack_into(record, layout.begins, *kept)
    if looked_at:
        end_blocks(states, np.zeros(len(looked_at), np.intp), np.array(looked_at))
        kept = list(layout.head.unpack_from(record, layout.begins))
    return ShapesAlone(tuple(kept[3 * c : 4 * c]), tuple(kept[9 * c : 10 * c]), before)


def lead_shapes(
    states: Records, before: Records, values: Float64Array, now: Float64Array, elapsed_ms: NDArray[np.int64]
) -> Shapes:
    """Take T readings of one stream in; `states` (1,) are changed in place.

    Args:
        before: (T,) states before each, without what is remembered.
        values: (T, C) physical units, NaN where missing.
        now: (4, T, C) from `features.placed`.
        elapsed_ms: (T,) since the reading before.
    """
    _, _, change, bounded = now
    first = begins(0.0, before["count"], before["moves"], change)
    sizes, spans = np.zeros(values.shape), np.empty(values.shape, np.int64)
    absent = np.where(np.isnan(values), before["absent"].astype(np.int64), -1).T.tolist()
    for channel in range(values.shape[1]):
        at = 0
        while at < len(values):
            at = _lead(states, channel, at, first, before, bounded, absent[channel], sizes, spans)
    return Shapes(sizes, spans, is_whole(elapsed_ms, before["interval_ms"].astype(np.float64)))


def _lead(
    states: Records,
    channel: int,
    start: int,
    first: NDArray[np.bool_],
    before: Records,
    values: Float64Array,
    absent: list[int],
    sizes: Float64Array,
    spans: NDArray[np.int64],
) -> int:
    """Take the readings of a channel in from `start` on, up to where it begins anew; the row after them."""
    where, rows = (0, channel), len(values)
    if states["shape_unit"][where] == 0.0:
        begun = start + int(first[start:, channel].argmax()) if first[start:, channel].any() else rows
        spans[start:begun, channel] = SPAN << int(states["shape_fold"][where])
        if begun == rows:
            return rows
        begin(states, where, values[begun, channel], before["spread"][begun, channel])
        start = begun
    origin, unit = float(states["shape_origin"][where]), float(states["shape_unit"][where])
    places = unit_place(ARRAYS, values[start:, channel], origin, unit).tolist()
    ring = states["shape_ring"][where]
    names = ("shape_sum", "shape_held", "shape_blocks", "shape_fold", "shape_period", "shape")
    total, held, blocks, fold, period, size = (states[name][where].item() for name in names)
    for row, place in enumerate(places, start):
        if absent[row] >= 0 and is_lost(unit, absent[row], fold):
            forget(states, where)
            return row
        total, held = total + place, held + 1
        if held >= 1 << fold:
            blocks_now = block_after(NUMBERS, blocks)
            if any(is_looked_at(period, blocks_now)):
                states["shape_sum"][where], states["shape_held"][where] = total, held
                states["shape_blocks"][where] = blocks
                end_blocks(states, _ROW, np.array([channel]))
                total, held, blocks, fold, period, size = (states[name][where].item() for name in names)
                if states["shape_unit"][where] == 0.0:
                    sizes[row, channel], spans[row, channel] = size, SPAN << fold
                    return row + 1
            else:
                ring[(blocks_now - 1) % RING] = total / held
                total, held, blocks = 0.0, 0, blocks_now
        sizes[row, channel], spans[row, channel] = size, SPAN << fold
    states["shape_sum"][where], states["shape_held"][where] = total, held
    states["shape_blocks"][where] = blocks
    return rows
