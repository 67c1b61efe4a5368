"""A stream's last W readings with their answers, as a ring in one Redis string.

The ring answers readings that are sent again, rebuilds a state after loss or under another model, and feeds the page.
Slot n mod W holds reading n (counted from 0); a slot is written in one transaction with the state it belongs to.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Entries = NDArray[Any]

_CHECKED: Final = 4


def entry_dtype(channels: int) -> np.dtype[Any]:
    """One slot: 58 bytes and 20 a channel."""
    return np.dtype(
        [
            ("checksum", "<u4"),
            ("n", "<u8"),
            ("timestamp_ms", "<i8"),
            ("seq", "<i8"),
            ("tag", "V16"),
            ("model", "V8"),
            ("score", "<f4"),
            ("status", "u1"),
            ("reason", "u1"),
            ("values", "<f4", (channels,)),
            ("mid", "<f8", (channels,)),
            ("half", "<f4", (channels,)),
            ("attribution", "<f4", (channels,)),
        ]
    )


def channels_seed(channels: Sequence[str]) -> int:
    """Where a slot's checksum starts: readings of other channels are then never taken for this model's."""
    return zlib.crc32("\0".join(channels).encode())


def pack_entries(entries: Entries, seed: int) -> list[bytes]:
    """Slots to bytes, each with its checksum."""
    raw, size = entries.tobytes(), entries.dtype.itemsize  # whatever stands in the checksum field is written over
    slots = []
    for start in range(0, len(raw), size):
        body = raw[start + _CHECKED : start + size]
        slots.append(zlib.crc32(body, seed).to_bytes(_CHECKED, "little") + body)
    return slots


def unpack_entries(ring: bytes, dtype: np.dtype[Any], seed: int) -> Entries:
    """The readings of a ring in order, up to the newest: the longest run without a gap or a damaged slot."""
    size = dtype.itemsize
    whole = ring[: len(ring) // size * size]
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


def find(ring: bytes, dtype: np.dtype[Any], seed: int, seq: int, timestamp_ms: int) -> Entries:
    """(0 or 1,) the sound entry with this seq, or, where `seq` is -1, with none and this time."""
    size = dtype.itemsize
    entries = np.frombuffer(ring, dtype, len(ring) // size)
    same = entries["seq"] == seq
    if seq < 0:
        same &= entries["timestamp_ms"] == timestamp_ms
    for at in np.flatnonzero(same).tolist():
        if zlib.crc32(ring[at * size + _CHECKED : (at + 1) * size], seed) == entries["checksum"][at]:
            return entries[at : at + 1]
    return entries[:0]
