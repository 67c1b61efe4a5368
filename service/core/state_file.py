"""StateFile: all that a stream stands at, as one file that says itself what is in it.

    gatewatch-state 1\\n     what it is, and the version of the rest
    MessagePack            the fields of StateFile, by name
    32 bytes               SHA-256 over everything before it

Record and history are those of records.py and history.py, with checksums that tie them to no stream (SEED), since the
file may be taken in under another name. They are copied, not computed again: a state comes back to the bit.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from itertools import repeat
from typing import Final

import msgspec
import numpy as np

from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.outcomes import clip, format_time
from gatewatch.service.core.records import FORMAT, STREAM_PART, TAIL_BYTES, Records
from gatewatch.service.core.state_checks import check_channels, check_entries, check_part
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.errors import InvalidState

VERSION: Final = 1
SEED: Final = 0
"""Where the checksums in a file begin."""

_HEAD: Final = re.compile(rb"gatewatch-state ([0-9]{1,9})\n")
_SUM_BYTES: Final = 32


class StateFile(msgspec.Struct, frozen=True):
    """What a file holds.

    Attributes:
        stream: the name of the stream that it is of.
        model: digest of the model that the state belongs to, in hexadecimal.
        format: of the record.
        channels: of the stream, in the order of its history.
        readings, last_timestamp, tag: as the service tells them of the stream; for whoever reads the file.
        taken_at: when it was made, RFC 3339.
        settings: those of the stream as JSON, empty for the defaults.
        record: the stream's record.
        history: its last readings with their answers, the oldest first.
        earlier: both earlier records of a stream with a reorder window, empty where there is none.
    """

    stream: str
    model: str
    format: int
    channels: list[str]
    readings: int
    last_timestamp: str | None
    tag: str
    taken_at: str
    settings: bytes
    record: bytes
    history: bytes
    earlier: tuple[bytes, bytes]


class Standing:
    """What a stream stands at, taken apart.

    Attributes:
        record: its bytes.
        layout: the channels of the stream, and of its model.
        part: (1,) the record's stream part.
        model: digest of the model, 8 bytes.
        kept: its history, in the stream's channels.
        earlier: both earlier records.
        settings: as they are kept.
    """

    def __init__(
        self, record: bytes, seed: int, kept: Entries | bytes, earlier: Sequence[bytes], settings: bytes
    ) -> None:
        """Take in a record whose checksum begins with a seed, and its history: entries, or the ring.

        Raises:
            ValueError: the record is damaged, or the history does not lead to it.
        """
        found = state.stream_part(record, seed)
        if found is None:
            raise ValueError("the record is damaged")
        self.part, self.layout, model_part = found
        self.record, self.model = record, model_part[: state.MODEL_BYTES]
        self.kept = history.unpack_entries(kept, self.layout, seed) if isinstance(kept, bytes) else kept
        written = int(self.part["earlier"][0])  # the first into slot 1; what lies there else is of before a reset
        self.earlier = tuple(old if written > 1 - slot else b"" for slot, old in enumerate(earlier))
        self.settings = settings
        if len(self.kept) and not self._leads_here():
            raise ValueError("the history does not lead to the record")

    @property
    def size(self) -> int:
        """Bytes of its record and history."""
        return len(self.record) + self.kept.nbytes

    @property
    def readings(self) -> int:
        """How many were applied."""
        return int(self.part["readings"][0])

    @property
    def is_open(self) -> bool:
        """Whether an incident is open after the last one."""
        return bool(self.part["status"][0] & state.OPEN)

    @property
    def is_kept(self) -> bool:
        """Whether it is kept from learning after the last one."""
        return bool(self.part["status"][0] & state.KEPT)

    @property
    def last_ms(self) -> int:
        """Time of the last one."""
        return int(self.part["last_ms"][0])

    def _leads_here(self) -> bool:
        last = self.kept[-1]
        return bool(last["n"] + 1 == self.readings and last["tag"] == self.part["tag"][0])

    def sealed(self, seed: int, takeover: int | None = None, slots: int | None = None) -> bytes:
        """The record for a stream whose checksums begin with a seed.

        Args:
            takeover: the number of the process that writes it.
            slots: of the history it goes with.
        """
        # SILENT goes with an incident of the stream that it was
        return resealed(self._with_status(0xFF ^ state.SILENT, takeover, slots), seed)

    def let_go(self) -> bytes:
        """The record, for SEED, of a stream that is let go; the model's part is as it was."""
        gone = state.SILENT | state.KEPT | state.OPEN | state.HELD
        return resealed(self._with_status(0xFF ^ gone), SEED)

    def _with_status(self, bits: int, takeover: int | None = None, slots: int | None = None) -> bytes:
        """The record with these bits of its status left, and no checksum."""
        body = bytearray(self.record[:-4])
        part: Records = np.frombuffer(body, STREAM_PART, 1)
        part["status"] &= bits
        if takeover is not None:
            part["takeover"] = takeover
        if slots is not None:
            part["history"] = slots
        return bytes(body) + bytes(4)


def resealed(record: bytes, seed: int) -> bytes:
    """A record with the checksum of another stream."""
    body = record[:-4]
    return body + zlib.crc32(body, seed).to_bytes(4, "little")


def write(stream: str, standing: Standing, now_ms: int) -> bytes:
    """The file of a stream's state."""
    layout, seed = standing.layout, standing.layout.slot_seed(SEED)
    file = StateFile(
        stream=stream,
        model=standing.model.hex(),
        format=FORMAT,
        channels=list(layout.channels),
        readings=standing.readings,
        last_timestamp=format_time(standing.last_ms) if standing.readings else None,
        tag=bytes(standing.part["tag"][0]).hex(),
        taken_at=format_time(now_ms),
        settings=standing.settings,
        record=standing.sealed(SEED),
        history=b"".join(history.pack_entries(standing.kept, repeat(seed))),
        earlier=tuple(resealed(kept, SEED) if kept else b"" for kept in standing.earlier),  # type: ignore[arg-type]
    )
    content = b"gatewatch-state %d\n" % VERSION + msgspec.msgpack.encode(file)
    return content + hashlib.sha256(content).digest()


def read(content: bytes) -> tuple[StateFile, Standing]:
    """What a file says, and holds.

    Raises:
        InvalidState: it is none, of another version or format, or damaged; says what came and what was expected.
    """
    head = _HEAD.match(content)
    if head is None:
        begin = clip(content[:16].decode("latin-1"))
        raise InvalidState(f"the body begins with {begin!r}; expected a state as GET /v1/streams/NAME/state gives it")
    if int(head[1]) != VERSION:
        raise InvalidState(f"the state has version {int(head[1])}; expected {VERSION}, which this service writes")
    written, body = content[-_SUM_BYTES:], content[:-_SUM_BYTES]
    if (found := hashlib.sha256(body).digest()) != written:
        raise InvalidState(
            f"the state is damaged: its checksum is {found[:8].hex()}..., expected {written[:8].hex()}..., as it says; "
            "it was cut off or changed: export it again"
        )
    try:
        file = msgspec.msgpack.decode(body[head.end() :], type=StateFile)
    except msgspec.MsgspecError as error:
        raise InvalidState(f"the state is none: {error}; expected the fields of version {VERSION}") from error
    if file.format != FORMAT:
        raise InvalidState(
            f"the state's record has format {file.format}; expected {FORMAT}: export it from a service of this version"
        )
    try:
        return file, _standing(file)
    except ValueError as error:
        raise InvalidState(f"the state is damaged: {error}; expected what one export wrote") from error


def _standing(file: StateFile) -> Standing:
    part, layout = _checked(file.record)
    check_channels(layout)
    if len(file.history) % layout.entry.itemsize:
        raise ValueError("the history is cut off")
    kept = history.unpack_slots(file.history, layout.entry, layout.slot_seed(SEED))
    if len(kept) * layout.entry.itemsize != len(file.history):
        raise ValueError("readings of the history are damaged or missing")
    check_entries(kept)
    for earlier in file.earlier:
        longest = len(file.record) + TAIL_BYTES  # it may have lost its tail since
        if earlier and (_checked(earlier)[0]["readings"][0] > part["readings"][0] or len(earlier) > longest):
            raise ValueError("an earlier record is not of this stream")
    settings = StreamSettings.decode(file.settings).encode() if file.settings else b""
    return Standing(file.record, SEED, kept, file.earlier, settings)


def _checked(record: bytes) -> tuple[Records, Layout]:
    """The (1,) stream part and the layout of a record. Raises ValueError where it is none, or says what none does."""
    found = state.stream_part(record, SEED)
    if found is None:
        raise ValueError("the record is damaged")
    check_part(found[0])
    return found[0], found[1]
