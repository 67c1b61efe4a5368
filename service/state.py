"""StreamState: what one stream's value in Redis holds, to bytes and back.

A record is one item of a fixed numpy dtype, so that a batch of B records is one array and packing is copying:

    bytes   field       what for
    2       magic       "GW"
    2       format      version of this layout
    4       checksum    CRC-32 over everything behind it
    8       model       digest of the model that produced the state   ┐ the fence: what the compare-and-set
    16      tag         chain over the readings applied, in order     ┘ compares
    8       readings    how many were applied
    8       last_seq    sequence number of the last one, -1 without
    4       history     slots of the stream's history ring
    17 x K  results     of the last K readings: identity, digest of the values, score, status; answers for retries
    ...     detector    network state and residual memory, see Detector.state_dtype
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Records = NDArray[Any]

MAGIC: Final = b"GW"
FORMAT: Final = 1
RESULTS: Final = 32
"""K: how many of a stream's last readings are answered again when they are sent again."""

CHECKED_FROM: Final = 8
FENCE: Final = slice(8, 32)
"""Where the fence stands in a record's bytes; the script in save.lua compares the same range."""

FRESH_TAG: Final = bytes(16)
SEQ_KIND, ALERT, STATUS_BITS = 0x80, 0x40, 0x0F
"""Bits of a result's status: identified by seq; began an incident; index into STATUSES."""

_READING = struct.Struct("<qq")


def state_dtype(detector_state: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a record around a detector's state."""
    return np.dtype(
        [
            ("magic", "S2"),
            ("format", "<u2"),
            ("checksum", "<u4"),
            ("model", "V8"),
            ("tag", "V16"),
            ("readings", "<u8"),
            ("last_seq", "<i8"),
            ("history", "<u4"),
            ("identity", "<i8", (RESULTS,)),
            ("digest", "<u4", (RESULTS,)),
            ("score", "<f4", (RESULTS,)),
            ("status", "u1", (RESULTS,)),
            ("detector", detector_state),
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
    records["identity"] = -1
    records["detector"] = detector_states
    return records


def pack(records: Records) -> list[bytes]:
    """Records to bytes, each with its checksum."""
    raw = bytearray(records.tobytes())
    size = records.dtype.itemsize
    packed = []
    for start in range(0, len(raw), size):
        checksum = zlib.crc32(memoryview(raw)[start + CHECKED_FROM : start + size])
        raw[start + 4 : start + CHECKED_FROM] = checksum.to_bytes(4, "little")
        packed.append(bytes(raw[start : start + size]))
    return packed


def flaw(packed: bytes, dtype: np.dtype[Any], model: bytes, history: int) -> str | None:
    """Why bytes cannot be scored on by this model, or None if they can: `corrupt`, `format`, `model` or `history`."""
    if len(packed) < FENCE.stop or packed[:2] != MAGIC:
        return "corrupt"
    if int.from_bytes(packed[2:4], "little") != FORMAT:
        return "format"
    if zlib.crc32(memoryview(packed)[CHECKED_FROM:]) != int.from_bytes(packed[4:CHECKED_FROM], "little"):
        return "corrupt"
    if packed[8:16] != model:
        return "model"
    if len(packed) != dtype.itemsize:
        return "format"
    if int(np.frombuffer(packed, dtype)["history"][0]) != history:
        return "history"
    return None


def unpack(packed: Sequence[bytes], dtype: np.dtype[Any]) -> Records:
    """(B,) records from bytes without a flaw."""
    return np.frombuffer(bytearray(b"".join(packed)), dtype)


def chain(tag: bytes, seq: int, timestamp_ms: int, values: bytes) -> bytes:
    """The tag after one more reading: BLAKE2b-128 over tag before, seq (-1 without), Unix ms and float32 values.

    All little-endian, values in the model's order of channels, missing ones as the canonical NaN (00 00 c0 7f).
    Equal tags prove that exactly the same readings were applied in the same order.
    """
    return hashlib.blake2b(tag + _READING.pack(seq, timestamp_ms) + values, digest_size=16).digest()


def values_digest(values: bytes) -> int:
    """What a retry is compared by: CRC-32 of the float32 values."""
    return zlib.crc32(values)
