"""StreamState: what one stream's value in Redis holds, to bytes and back.

A record is one item of a fixed numpy dtype, so that a batch of B records is one array and packing is copying:

    bytes   field       what for
    2       magic       "GW"
    2       format      version of this layout
    8       model       digest of the model that produced the state   ┐ the fence: what the
    16      tag         chain over the readings applied, in order     │ compare-and-set
    1       hold        1 if the stream waits at gaps in seq          │ compares
    4       reorder_ms  how late a reading may still take its place   ┘
    8       readings    how many were applied
    8       last_seq    sequence number of the last one, -1 without
    4       history     slots of the stream's history ring
    4, 1    score, status   of the last reading
    4, 8    earlier, earlier_ms   earlier records kept, and the time of the newest of them, see corrections.py
    ...     detector    network state and residual memory, see Detector.state_dtype
    4       checksum    CRC-32 over everything before it, begun with a seed that ties the record to its stream
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Records = NDArray[Any]

MAGIC: Final = b"GW"
FORMAT: Final = 3

WHOLE: Final = 0x2144DF1C
"""The CRC-32 of anything that ends in its own CRC-32, whatever both are started from."""

FENCE: Final = slice(4, 33)
"""Where the fence stands in a record's bytes; the script in save.lua compares the same range."""

CORRECTED, ALERT, STATUS_BITS = 0x80, 0x40, 0x0F
"""Bits of a reading's status: scored after a later one, or anew; began an incident; index into STATUSES."""


def state_dtype(detector_state: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a record around a detector's state."""
    return np.dtype(
        [
            ("magic", "S2"),
            ("format", "<u2"),
            ("model", "V8"),
            ("tag", "V16"),
            ("hold", "u1"),
            ("reorder_ms", "<u4"),
            ("readings", "<u8"),
            ("last_seq", "<i8"),
            ("history", "<u4"),
            ("score", "<f4"),
            ("status", "u1"),
            ("earlier", "<u4"),
            ("earlier_ms", "<i8"),
            ("detector", detector_state),
            ("checksum", "<u4"),
        ]
    )


def fresh(dtype: np.dtype[Any], detector_states: Records, model: bytes, history: int) -> Records:
    """(B,) records of streams that have not seen a reading."""
    records = np.zeros(len(detector_states), dtype)
    records["magic"] = MAGIC
    records["format"] = FORMAT
    records["model"] = np.void(model)
    records["last_seq"] = -1
    records["history"] = history
    records["detector"] = detector_states
    return records


def seed(key: bytes) -> int:
    """Where the checksum of the record under a key starts: another stream's record, copied there, is then corrupt."""
    return zlib.crc32(key)


def pack(records: Records, seeds: Sequence[int]) -> list[bytes]:
    """Records to bytes, each with its checksum; `seeds` are those of their streams."""
    size = records.dtype.itemsize
    records = np.ascontiguousarray(records)
    raw = memoryview(records.view(np.uint8))  # type: ignore[arg-type]
    starts = range(0, len(raw), size)
    checksums = [zlib.crc32(raw[start : start + size - 4], seed) for start, seed in zip(starts, seeds, strict=True)]
    records["checksum"] = checksums
    whole = raw.tobytes()
    return [whole[start : start + size] for start in starts]


def unpack(
    packed: Sequence[bytes | None], seeds: Sequence[int], dtype: np.dtype[Any], model: bytes, history: int
) -> tuple[Records, dict[int, str]]:
    """(B,) records from bytes, and which of them cannot be scored on by this model, with the reason.

    Reasons: `missing`, `corrupt` (or another stream's), `format`, `model`, or `history` (another length of the ring). A
    record that cannot be used is zero, but for `history`, which is otherwise sound.
    """
    size = dtype.itemsize
    begin = MAGIC + FORMAT.to_bytes(2, "little") + model
    slots_at = dtype.fields["history"][1]  # type: ignore[index]
    slots = history.to_bytes(4, "little")
    flaws: dict[int, str] = {}
    good: list[bytes] = []
    for at, (p, seed) in enumerate(zip(packed, seeds, strict=True)):
        if (
            p is None
            or len(p) != size
            or p[:12] != begin
            or zlib.crc32(p, seed) != WHOLE
            or p[slots_at : slots_at + 4] != slots
        ):
            flaws[at] = _flaw(p, seed, size, model)
            p = p if p and flaws[at] == "history" else bytes(size)
        good.append(p)
    return sound(good, dtype), flaws


def sound(packed: Sequence[bytes], dtype: np.dtype[Any]) -> Records:
    """(B,) records from bytes that need no check."""
    return np.frombuffer(bytearray().join(packed), dtype)


def _flaw(packed: bytes | None, seed: int, size: int, model: bytes) -> str:
    if packed is None:
        return "missing"
    if len(packed) < FENCE.stop or packed[:2] != MAGIC:
        return "corrupt"
    if int.from_bytes(packed[2:4], "little") != FORMAT:
        return "format"
    if zlib.crc32(packed, seed) != WHOLE:
        return "corrupt"
    if packed[4:12] != model:
        return "model"
    return "history" if len(packed) == size else "format"


@lru_cache
def _link(channels: int) -> np.dtype[Any]:
    return np.dtype([("tag", "V16"), ("seq", "<i8"), ("time_ms", "<i8"), ("values", "<f4", (channels,))])


def chain(tags: Records, seqs: NDArray[np.int64], times_ms: NDArray[np.int64], values: NDArray[np.float32]) -> Records:
    """(B,) tags after one more reading of each of B streams: BLAKE2b-128 over the tag before and the reading.

    Chained are the tag (16 bytes), seq (-1 without) and Unix ms as int64, and the values as float32 in the model's
    order of channels, missing ones as the canonical NaN (00 00 c0 7f), all little-endian. A stream begins with a tag
    of zeros. Equal tags prove that exactly the same readings were applied in the same order.
    """
    links = np.empty(len(tags), _link(values.shape[1]))
    links["tag"], links["seq"], links["time_ms"], links["values"] = tags, seqs, times_ms, values
    whole, size = links.tobytes(), links.dtype.itemsize
    blake2b = hashlib.blake2b
    hashed = [blake2b(whole[at : at + size], digest_size=16).digest() for at in range(0, len(whole), size)]
    return np.frombuffer(b"".join(hashed), "V16")
