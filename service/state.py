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
    size = records.dtype.itemsize
    records = np.ascontiguousarray(records)
    raw = memoryview(records.view(np.uint8))  # type: ignore[arg-type]
    starts = range(0, len(raw), size)
    records["checksum"] = [zlib.crc32(raw[start + CHECKED_FROM : start + size]) for start in starts]
    whole = raw.tobytes()
    return [whole[start : start + size] for start in starts]


def unpack(
    packed: Sequence[bytes | None], dtype: np.dtype[Any], model: bytes, history: int
) -> tuple[Records, dict[int, str]]:
    """(B,) records from bytes, and which of them cannot be scored on by this model, with the reason.

    Reasons: `missing`, `corrupt`, `format`, `model`, or `history` (another length of the ring). A record that cannot be
    used is zero, but for `history`, which is otherwise sound.
    """
    size = dtype.itemsize
    flaws: dict[int, str] = {}
    blank = bytes(size)
    whole = bytearray(b"".join([p if p is not None and len(p) == size else blank for p in packed]))
    records = np.frombuffer(whole, dtype)
    raw = memoryview(whole)
    checksums = [zlib.crc32(raw[start + CHECKED_FROM : start + size]) for start in range(0, len(raw), size)]
    sound = (records["checksum"] == checksums) & (records["magic"] == MAGIC) & (records["format"] == FORMAT)
    sound &= (records["model"] == np.void(model)) & (records["history"] == history)
    for at in np.flatnonzero(~sound).tolist():
        flaws[at] = _flaw(packed[at], size, model)
        if flaws[at] != "history":
            raw[at * size : (at + 1) * size] = blank
    return records, flaws


def _flaw(packed: bytes | None, size: int, model: bytes) -> str:
    if packed is None:
        return "missing"
    if len(packed) < FENCE.stop or packed[:2] != MAGIC:
        return "corrupt"
    if int.from_bytes(packed[2:4], "little") != FORMAT:
        return "format"
    if zlib.crc32(memoryview(packed)[CHECKED_FROM:]) != int.from_bytes(packed[4:CHECKED_FROM], "little"):
        return "corrupt"
    if packed[8:16] != model:
        return "model"
    return "history" if len(packed) == size else "format"


def chain(tag: bytes, payload: bytes) -> bytes:
    """The tag after one more reading: BLAKE2b-128 over the tag before and the reading's payload.

    Equal tags prove that exactly the same readings were applied in the same order.
    """
    return hashlib.blake2b(tag + payload, digest_size=16).digest()


def payloads(seqs: Sequence[int], timestamps_ms: Sequence[int], values: NDArray[np.float32]) -> list[bytes]:
    """What is chained of each of B readings: seq (-1 without) and Unix ms as int64, then the float32 values.

    All little-endian, values in the model's order of channels, missing ones as the canonical NaN (00 00 c0 7f).
    """
    rows = np.zeros(len(seqs), [("seq", "<i8"), ("timestamp_ms", "<i8"), ("values", "<f4", values.shape[1:])])
    rows["seq"], rows["timestamp_ms"], rows["values"] = seqs, timestamps_ms, values
    whole, size = rows.tobytes(), rows.dtype.itemsize
    return [whole[start : start + size] for start in range(0, len(whole), size)]


VALUES_FROM: Final = 16
"""Where the values stand in a payload; their CRC-32 is what a retry is compared by."""


def values_digest(payload: bytes) -> int:
    """CRC-32 of a payload's values."""
    return zlib.crc32(payload[VALUES_FROM:])
