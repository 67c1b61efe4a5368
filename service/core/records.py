"""StreamState: what one stream's value in Redis holds, to bytes and back.

A record has a part of fixed size, one item of a numpy dtype, so that a batch of B records is one array and packing is
copying; behind it the stream's layout (see layout.py), and a checksum over all of it:

    bytes    field        what for
    2, 2     magic        "GW", and the format, 4
    2, 2     stream       length and version of the stream part
    4, 2     detector     length and version of the model part

    16       tag          chain over the readings applied, in order      ┐ the fence: what
    4        takeover     number of the takeover that wrote the record   │ the compare-and-set
    4        session      times that the sender began to count anew      │ compares
    1, 1     hold, join   settings of the stream                         │
    4        reorder_ms   how late a reading may still take its place    ┘
    8        readings     how many were applied
    8        last_seq     sequence number of the last one, -1 without
    8        last_ms      time of the last one
    8        newest_ms    the latest time of any
    8        session_ms   time of the first reading of the session; the least there is in the first session
    4        history      slots of the stream's history ring
    4, 1     score, status   of the last reading
    4, 8     earlier, earlier_ms   earlier records kept, and the time of the newest of them, see corrections.py

    8        model        digest of the model that the rest belongs to
    C        present      which of its channels have come with the time of the last reading
    ...      detector     network state and residual memory, see Detector.state_dtype
    8        level        where it is not 0, which a bit of the version says: of the budget loop, see
                          models/detectors/budget_loop.py
    8, 8, 8, 8  step_n, step_ms, step, back_n     where there is one, which another bit says: the largest step of late
                          of a stream that has labels, and when it went back, see incidents/likeness.py

    ...      layout       MessagePack: the stream's channels; where the model's stand among them
    4        checksum     CRC-32 over everything before it, begun with a seed that ties the record to its stream

The stream part outlives every model (contract 17); the model part is rebuilt from the history when another takes over.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import STATE_VERSION
from gatewatch.service.core.layout import Layout, decode

Records = NDArray[Any]

MAGIC: Final = b"GW"
FORMAT: Final = 4
STREAM_VERSION: Final = 1

WHOLE: Final = 0x2144DF1C
"""The CRC-32 of anything that ends in its own CRC-32, whatever both are started from."""

MODEL_BYTES: Final = 8
"""Of a model's digest, at the beginning of the model part."""

_HEADER: Final = 14

LEVEL_BYTES: Final = 8
TAIL_BYTES: Final = LEVEL_BYTES + 32
"""Most that stands behind the fixed part: a level and a step."""

_LEVELLED, _STEPPED = 0x8000, 0xC000
"""Bits of the model part's version: the part ends in a level, or in a level and a step. They stand in the last byte of
the header."""

_TAILS: Final = (0, 0, LEVEL_BYTES, TAIL_BYTES)
"""Bytes, by those two bits."""

FENCE: Final = slice(_HEADER, _HEADER + 30)
"""Where the fence stands in a record's bytes; the script in save.lua compares the same range."""

_BEGIN: Final = MAGIC + FORMAT.to_bytes(2, "little")

CORRECTED, ALERT, OPEN, SILENT, HELD, KEPT, STATUS_BITS = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x03
"""Bits of a reading's status: scored after a later one, or anew; raised an alert; an incident is open after it, as the
detector sees it; in a record only, so that the next reading looks: the stream was found silent since, and its incidents
are not as the detector sees them, or not told; after this reading the stream teaches nothing until a person closes its
incident; index into STATUSES."""

CLOSED, LET_GO = 0x10, 0x08
"""Bits of a reading's status in the history, where SILENT and HELD are none: after it, a person closed the stream's
incident; or the stream was kept from learning no longer, since nothing came of what was strange."""

ENDED: Final = CLOSED | LET_GO

UNLEARNED, GATE_BITS, REASON_BITS = 0x80, 0x70, 0x0F
"""Bits of a reading's reason: it taught nothing; the gate that decided about it, see incidents/rules.py; index into
REASONS."""

FIRST_SESSION: Final = np.iinfo(np.int64).min

_STREAM: Final[Any] = [
    ("tag", "V16"),
    ("takeover", "<u4"),
    ("session", "<u4"),
    ("hold", "u1"),
    ("join", "u1"),
    ("reorder_ms", "<u4"),
    ("readings", "<u8"),
    ("last_seq", "<i8"),
    ("last_ms", "<i8"),
    ("newest_ms", "<i8"),
    ("session_ms", "<i8"),
    ("history", "<u4"),
    ("score", "<f4"),
    ("status", "u1"),
    ("earlier", "<u4"),
    ("earlier_ms", "<i8"),
]
_TAIL: Final[Any] = [("level", "<f8"), ("step_n", "<u8"), ("step_ms", "<i8"), ("step", "<f8"), ("back_n", "<u8")]
STREAM_FIELDS: Final = tuple(name for name, _ in _STREAM)
_LAID_OUT: Final[Any] = np.dtype(_STREAM)
_STREAM_BYTES: Final[int] = _LAID_OUT.itemsize


def state_dtype(detector_state: np.dtype[Any], channels: int) -> np.dtype[Any]:
    """The dtype of a record around a detector's state: its fixed part, and a tail, which most are written without."""
    return np.dtype(
        [
            ("magic", "S2"),
            ("format", "<u2"),
            ("stream_bytes", "<u2"),
            ("stream_version", "<u2"),
            ("model_bytes", "<u4"),
            ("model_version", "<u2"),
            *_STREAM,
            ("model", "V8"),
            ("present", "?", (channels,)),
            ("detector", detector_state),
            *_TAIL,
        ]
    )


def fixed_bytes(dtype: np.dtype[Any]) -> int:
    """How many bytes a record of this dtype has without its tail."""
    return dtype.itemsize - TAIL_BYTES


STREAM_PART: Final = np.dtype(
    {
        "names": STREAM_FIELDS,
        "formats": [kind for _, kind in _STREAM],
        "offsets": [_HEADER + _LAID_OUT.fields[name][1] for name in STREAM_FIELDS],
        "itemsize": _HEADER + _STREAM_BYTES,
    }
)
"""A record up to its model part: the same whatever the model."""


def fresh(dtype: np.dtype[Any], detector_states: Records, model: bytes, history: int) -> Records:
    """(B,) records of streams that have not seen a reading."""
    records = np.zeros(len(detector_states), dtype)
    head(records, model)
    records["last_seq"] = -1
    records["session_ms"] = FIRST_SESSION
    records["newest_ms"] = FIRST_SESSION
    records["history"] = history
    records["detector"] = detector_states
    return records


def head(records: Records, model: bytes) -> None:
    """Write into records what format they have, and what model they belong to."""
    records["magic"] = MAGIC
    records["format"] = FORMAT
    records["stream_bytes"] = _STREAM_BYTES
    records["stream_version"] = STREAM_VERSION
    records["model_bytes"] = fixed_bytes(records.dtype) - _HEADER - _STREAM_BYTES
    records["model_version"] = STATE_VERSION
    records["model"] = np.void(model)


def seed(key: bytes) -> int:
    """Where the checksum of the record under a key starts: another stream's record, copied there, is then corrupt."""
    return zlib.crc32(key)


def pack(records: Records, layouts: Sequence[Layout], seeds: Sequence[int]) -> list[bytes]:
    """Records to bytes, each with its layout and its checksum; `seeds` are those of their streams."""
    size, fixed = records.dtype.itemsize, fixed_bytes(records.dtype)
    raw = np.ascontiguousarray(records).tobytes()
    tailed = set(((records["level"] != 0) | (records["step_n"] != 0)).nonzero()[0].tolist())
    whole = []
    for at, (layout, seed) in enumerate(zip(layouts, seeds, strict=True)):
        part = raw[at * size : at * size + fixed]
        if tailed and at in tailed:
            tail = TAIL_BYTES if records["step_n"][at] else LEVEL_BYTES
            part = _with_tail(part, raw[at * size + fixed : at * size + fixed + tail], tail)
        body = part + layout.encoded
        whole.append(body + zlib.crc32(body, seed).to_bytes(4, "little"))
    return whole


def _with_tail(part: bytes, tail: bytes, length: int) -> bytes:
    """The fixed part of a record with a tail of such a length behind it, and a header that says so."""
    model_bytes = int.from_bytes(part[8:12], "little") + length
    version = int.from_bytes(part[12:_HEADER], "little") | (_STEPPED if length == TAIL_BYTES else _LEVELLED)
    return part[:8] + model_bytes.to_bytes(4, "little") + version.to_bytes(2, "little") + part[_HEADER:] + tail


def _tail_bytes(packed: bytes) -> int:
    """How many bytes of a record are its tail."""
    return _TAILS[packed[_HEADER - 1] >> 6]


def forget_steps(records: Records, rows: NDArray[np.intp]) -> None:
    """Have the records in these rows know of no step."""
    for name, _ in _TAIL[1:]:
        records[name][rows] = 0


def level_in(packed: bytes) -> float:
    """The level of a sound record of format 4; 0 where it has none."""
    return float(tail_in(packed).get("level", 0.0))


def tail_in(packed: bytes) -> dict[str, Any]:
    """The fields that a sound record of format 4 has behind its fixed part, by name; none where it has no tail."""
    end = STREAM_PART.itemsize + int.from_bytes(packed[8:12], "little")
    return _tail(packed[end - _tail_bytes(packed) : end])


def _tail(written: bytes) -> dict[str, Any]:
    """The fields of a tail as it is written."""
    level = {"level": _level(written[:LEVEL_BYTES])} if written else {}
    return level | _step(written[LEVEL_BYTES:]) if len(written) == TAIL_BYTES else level


def _level(written: bytes) -> float:
    """A level as it is written; 0 where that is no number."""
    (level,) = np.frombuffer(written, "<f8")
    return float(level) if np.isfinite(level) else 0.0


def _step(written: bytes) -> dict[str, Any]:
    """The fields of a step as it is written; none where it has no size that is a number."""
    (step,) = np.frombuffer(written, np.dtype(_TAIL[1:]))
    return {} if np.isnan(step["step"]) else {name: step[name] for name, _ in _TAIL[1:]}


def unpack(
    packed: Sequence[bytes | None],
    seeds: Sequence[int],
    dtype: np.dtype[Any],
    usual: Layout | Sequence[Layout],
    model: bytes,
    slots: int,
) -> tuple[Records, list[Layout], dict[int, str]]:
    """Read records: (B,) of them, their layouts, and which this model cannot use, with the reason.

    Reasons: `missing`, `corrupt` (or another stream's), `format`, `model` (another one's), `channels` (this model's,
    for other channels) or `history` (another length of the ring). A record that cannot be used is zero, but for
    `history`, which is otherwise sound.

    Args:
        usual: the layout of streams that have sent this model's channels and no others; or that of each stream.
        slots: of the history.
    """
    size = fixed_bytes(dtype)
    begin, model_at, slots_at = _landmarks(dtype)
    written = slots.to_bytes(4, "little")
    flaws: dict[int, str] = {}
    layouts = [usual] * len(packed) if isinstance(usual, Layout) else list(usual)
    good: list[bytes] = []
    for at, (p, seed, expected) in enumerate(zip(packed, seeds, layouts, strict=True)):
        end = expected.encoded
        if (
            p is None
            or len(p) != size + len(end) + 4
            or p[:_HEADER] != begin
            or p[model_at : model_at + 8] != model
            or p[slots_at : slots_at + 4] != written
            or p[size:-4] != end
            or zlib.crc32(p, seed) != WHOLE
        ):
            flaw, layout = _flaw(p, seed, dtype, expected, model, written)
            layouts[at] = layout
            if flaw:
                flaws[at] = flaw
            p = bytes(size) if p is None or flaw not in ("", "history") else p
        good.append(p)
    return sound(good, dtype), layouts, flaws


def sound(packed: Sequence[bytes], dtype: np.dtype[Any]) -> Records:
    """(B,) records from bytes that need no check."""
    size = fixed_bytes(dtype)
    records: Records = np.frombuffer(bytearray(TAIL_BYTES).join([*(p[:size] for p in packed), b""]), dtype)
    tailed = (records["model_version"] & _STEPPED).nonzero()[0]
    for at in tailed.tolist():
        tail = _tail_bytes(packed[at])
        records["model_bytes"][at] -= tail
        for name, field in _tail(packed[at][size : size + tail]).items():
            records[name][at] = field
        records["model_version"][at] &= 0xFFFF ^ _STEPPED
    return records


def of_model(packed: Sequence[bytes | None], dtype: np.dtype[Any], model: bytes) -> bool:
    """Whether sound records are all of this model, so that the dtype is theirs."""
    at = _landmarks(dtype)[1]
    return {p and p[at : at + 8] for p in packed} == {model}


def of_this_version(packed: bytes) -> bool:
    """Whether what the model part of a sound record means is what this version means, though it may be shorter."""
    return int.from_bytes(packed[12:_HEADER], "little") & (0xFFFF ^ _STEPPED) == STATE_VERSION


def fence_of(packed: bytes | None) -> bytes:
    """What the compare-and-set of a record compares: its fence; of what is no record of this format, all of it."""
    if packed is None:
        return b""
    return packed[FENCE] if packed[:4] == _BEGIN and len(packed) >= FENCE.stop else packed


def layouts_in(packed: Sequence[bytes], usual: Layout, size: int) -> list[Layout]:
    """The layouts at the ends of sound records whose fixed parts have so many bytes."""
    encoded = usual.encoded
    return [usual if end == encoded else decode(end) or usual for end in encoded_layouts(packed, size)]


def encoded_layouts(packed: Sequence[bytes], size: int) -> list[bytes]:
    """The same as they are written."""
    return [p[size + _TAILS[p[_HEADER - 1] >> 6] : -4] for p in packed]


def stream_part(packed: bytes, seed: int) -> tuple[Records, Layout, bytes] | None:
    """(1,) stream part of a record of format 4, its layout, and its model part with digest, whatever the model.

    The model part is without its tail, see `tail_in`. None where it is damaged, another stream's, or of another
    format.
    """
    if len(packed) < STREAM_PART.itemsize + 4 or packed[:4] != MAGIC + FORMAT.to_bytes(2, "little"):
        return None
    if zlib.crc32(packed, seed) != WHOLE or int.from_bytes(packed[4:6], "little") != _STREAM_BYTES:
        return None
    size = STREAM_PART.itemsize + int.from_bytes(packed[8:12], "little")
    layout = decode(packed[size:-4])
    if layout is None:
        return None
    return np.frombuffer(packed, STREAM_PART, 1), layout, packed[STREAM_PART.itemsize : size - _tail_bytes(packed)]


def is_newer(packed: bytes, seed: int) -> bool:
    """Whether a record is sound, and of a format that only later versions know."""
    return packed[:2] == MAGIC and int.from_bytes(packed[2:4], "little") > FORMAT and zlib.crc32(packed, seed) == WHOLE


def marked_silent(packed: bytes, seed: int) -> bytes:
    """A sound record of format 4, with the mark that its stream was found silent."""
    fields: Any = STREAM_PART.fields
    at = fields["status"][1]
    body = packed[:at] + bytes([packed[at] | SILENT]) + packed[at + 1 : -4]
    return body + zlib.crc32(body, seed).to_bytes(4, "little")


def _flaw(
    packed: bytes | None, seed: int, dtype: np.dtype[Any], usual: Layout, model: bytes, slots: bytes
) -> tuple[str, Layout]:
    """Why a record is not one of the usual ones, empty if it can be used all the same; and its layout."""
    if packed is None:
        return "missing", usual
    if len(packed) < FENCE.stop or packed[:2] != MAGIC:
        return "corrupt", usual
    if int.from_bytes(packed[2:4], "little") != FORMAT:
        return "format", usual
    part = stream_part(packed, seed)
    if part is None:
        return "corrupt", usual
    stream, layout, _ = part
    if packed[STREAM_PART.itemsize : STREAM_PART.itemsize + 8] != model:
        return "model", layout
    if layout.model != usual.model:
        return "channels", layout
    if packed[:_HEADER] not in _headers(dtype):
        return "format", layout
    return ("" if stream["history"].tobytes() == slots else "history"), layout


@lru_cache(64)
def _headers(dtype: np.dtype[Any]) -> tuple[bytes, ...]:
    """How sound records begin: without a tail, and with either."""
    begin = _landmarks(dtype)[0]
    return begin, *(_with_tail(begin, b"", length) for length in (LEVEL_BYTES, TAIL_BYTES))


@lru_cache(64)
def _landmarks(dtype: np.dtype[Any]) -> tuple[bytes, int, int]:
    """How a sound record begins, and where the model's digest and the slots of its history stand."""
    first = np.zeros(1, dtype)
    held: Any = dtype.fields
    head(first, bytes(8))
    return first.tobytes()[:_HEADER], held["model"][1], held["history"][1]
