"""A stream's last W readings with their answers, as a ring in one Redis string.

It begins with the names of its channels, so that it can be read when the stream's record is lost.

The ring answers readings that are sent again, rebuilds a state after loss or under another model, and feeds the page.
Slot n mod W holds reading n (counted from 0); a slot is written in one transaction with the state it belongs to. Its
columns are the stream's channels (see layout.py), whatever model has scored it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.service.core.layout import Layout, entry_dtype

Entries = NDArray[Any]

_CHECKED: Final = 4
_CHANNELS: Final = ("values", "mid", "half", "attribution")
"""The fields with a column for each channel."""


def spread(entries: Entries, layout: Layout) -> Entries:
    """Entries in the model's channels to entries in the stream's."""
    if layout.whole:
        return entries
    kept = np.empty(len(entries), layout.entry)
    for name in entries.dtype.names or ():
        if name in _CHANNELS:
            kept[name] = np.nan
            kept[name][:, layout.columns] = entries[name]
        else:
            kept[name] = entries[name]
    return kept


def gathered(kept: Entries, layout: Layout) -> Entries:
    """Entries in the stream's channels to entries in the model's: the readings as the model takes them."""
    if layout.whole:
        return kept
    entries = np.empty(len(kept), entry_dtype(len(layout.model)))
    for name in entries.dtype.names or ():
        entries[name] = kept[name][:, layout.columns] if name in _CHANNELS else kept[name]
    return entries


def rearranged(kept: Entries, before: Layout, after: Layout) -> Entries:
    """Entries in the channels of one layout of a stream to those of a later one; new channels are missing in them."""
    if before.channels == after.channels:
        return kept
    moved = np.empty(len(kept), after.entry)
    places = [after.channels.index(name) for name in before.channels]
    for name in kept.dtype.names or ():
        if name in _CHANNELS:
            moved[name] = np.nan
            moved[name][:, places] = kept[name]
        else:
            moved[name] = kept[name]
    return moved


def without(kept: Entries, before: Layout, after: Layout) -> Entries:
    """Entries in the channels of a stream to those of a later layout, which lacks some of them."""
    left = np.empty(len(kept), after.entry)
    places = [before.channels.index(name) for name in after.channels]
    for name in kept.dtype.names or ():
        left[name] = kept[name][:, places] if name in _CHANNELS else kept[name]
    return left


def pack_entries(kept: Entries, seeds: Iterable[int]) -> list[bytes]:
    """Slots to bytes, each with its checksum; `seeds`: where those begin, see `Layout.slot_seed`."""
    raw, size = kept.tobytes(), kept.dtype.itemsize  # whatever stands in the checksum field is written over
    slots = []
    for start, seed in zip(range(0, len(raw), size), seeds, strict=False):
        body = raw[start + _CHECKED : start + size]
        slots.append(zlib.crc32(body, seed).to_bytes(_CHECKED, "little") + body)
    return slots


def unpack_entries(ring: bytes, layout: Layout, seed: int) -> Entries:
    """The readings of a ring in order, up to the newest: the longest run without a gap or a damaged slot."""
    body = ring[len(layout.ring_header) :]
    return unpack_slots(body, layout.entry, layout.slot_seed(seed))


def unpack_slots(body: bytes, dtype: np.dtype[Any], seed: int) -> Entries:
    """The same, of slots of any dtype that begins with a checksum and `n`."""
    size = dtype.itemsize
    whole = body[: len(body) // size * size]
    intact = [
        start
        for start in range(0, len(whole), size)
        if zlib.crc32(whole[start + _CHECKED : start + size], seed)
        == int.from_bytes(whole[start : start + _CHECKED], "little")
    ]
    if not intact:
        return np.empty(0, dtype)
    entries = np.frombuffer(b"".join(whole[start : start + size] for start in intact), dtype)
    entries = entries[np.argsort(entries["n"], kind="stable")]
    gaps = np.flatnonzero(np.diff(entries["n"].astype(np.int64)) != 1)
    return entries[gaps[-1] + 1 :] if len(gaps) else entries


def newest_first(ring: bytes, layout: Layout, seed: int) -> Iterator[Any]:
    """The readings of `unpack_entries` from the newest back, each checked only once it is asked for."""
    body, size = ring[len(layout.ring_header) :], layout.entry.itemsize
    entries, start = np.frombuffer(body, layout.entry, len(body) // size), layout.slot_seed(seed)
    expected: int | None = None
    for at in np.argsort(entries["n"], kind="stable")[::-1].tolist():
        entry = entries[at]
        if zlib.crc32(body[at * size + _CHECKED : (at + 1) * size], start) != entry["checksum"]:
            continue
        if expected is not None and entry["n"] != expected:
            return
        yield entry
        expected = int(entry["n"]) - 1


def times_in(ring: bytes, layout: Layout) -> NDArray[np.int64]:
    """(N,) the times of the newest readings of a ring, in their order; unlike `unpack_entries` it checks no slot."""
    body, dtype = ring[len(layout.ring_header) :], layout.entry
    entries = np.frombuffer(body, dtype, len(body) // dtype.itemsize)
    order = np.argsort(entries["n"], kind="stable")
    n, times = entries["n"][order], entries["timestamp_ms"][order]
    return np.asarray(times[n + len(n) > n[-1]] if len(n) else times)


def find_each(
    ring: bytes, layout: Layout, seed: int, seqs: Sequence[int], times_ms: Sequence[int], values: NDArray[np.float64]
) -> list[Entries]:
    """`find` for many readings of a stream: the ring is put in order once, instead of being searched for each."""
    if len(seqs) == 1:
        return [find(ring, layout, seed, seqs[0], times_ms[0], values[0]).copy()]  # the ring itself is not kept
    body, size = ring[len(layout.ring_header) :], layout.entry.itemsize
    entries = np.frombuffer(body, layout.entry, len(body) // size)
    numbers, times = entries["seq"], entries["timestamp_ms"]
    by_number = np.argsort(numbers, kind="stable")
    unnumbered = np.flatnonzero(numbers < 0)
    by_time = unnumbered[np.argsort(times[unnumbered], kind="stable")]
    found = []
    for order, column, keys in ((by_number, numbers, seqs), (by_time, times, times_ms)):
        first, last = (np.searchsorted(column[order], keys, side).tolist() for side in ("left", "right"))
        found.append([order[start:stop].tolist() for start, stop in zip(first, last, strict=True)])
    known = []
    for seq, time_ms, row, numbered, timed in zip(seqs, times_ms, values, *found, strict=True):
        slots = b"".join(body[at * size : (at + 1) * size] for at in (timed if seq < 0 else numbered))
        known.append(_find(slots, layout, seed, seq, time_ms, row))
    return known


def find(ring: bytes, layout: Layout, seed: int, seq: int, timestamp_ms: int, values: NDArray[np.float64]) -> Entries:
    """(0 or 1,) the sound entry, in the stream's channels, that a reading repeats or stands in conflict with.

    It has the reading's seq or, where `seq` is -1, none and the reading's time. Of several (a sender that counts anew,
    channels that come one by one) it is one with the same values, else one with the same time, else the newest; where
    there is no seq, only one that shares a channel with the reading.

    Args:
        seed: of the stream.
        values: (C,) of the reading, in the model's order.
    """
    return _find(ring[len(layout.ring_header) :], layout, seed, seq, timestamp_ms, values)


def _find(body: bytes, layout: Layout, seed: int, seq: int, timestamp_ms: int, values: NDArray[np.float64]) -> Entries:
    dtype, start = layout.entry, layout.slot_seed(seed)
    size = dtype.itemsize
    entries = np.frombuffer(body, dtype, len(body) // size)
    same = entries["seq"] == seq
    if seq < 0:
        same &= entries["timestamp_ms"] == timestamp_ms
    found = [
        at
        for at in np.flatnonzero(same).tolist()
        if zlib.crc32(body[at * size + _CHECKED : (at + 1) * size], start) == entries["checksum"][at]
    ]
    if not found:
        return entries[:0]
    known = entries[found]
    rank = 4 * same_values(known, layout, values) + 2 * (known["timestamp_ms"] == timestamp_ms)
    if seq < 0:
        shared = np.isfinite(known["values"][:, layout.columns]) & np.isfinite(values)
        known, rank = known[(shared.any(axis=1)) | (rank >= 4)], rank[(shared.any(axis=1)) | (rank >= 4)]
        if not len(known):
            return entries[:0]
    best = max(range(len(known)), key=lambda at: (int(rank[at]), int(known["n"][at])))
    return known[best : best + 1]


def same_values(known: Entries, layout: Layout, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(K,) which entries hold these values, (C,) in the model's order: those of before format 4 only as float32.

    What the stream has sent of channels that the model does not know is not compared.
    """
    kept = known["values"][:, layout.columns]
    single = (known["single"] > 0)[:, None]
    with np.errstate(over="ignore"):
        sent = np.where(single, values.astype(np.float32).astype(np.float64), values)
    equal = (kept == sent) | (np.isnan(kept) & np.isnan(sent))
    return np.asarray(equal.all(axis=1))
