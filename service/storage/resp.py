"""RESP: the keys of a tenant's streams, and what is to be read and saved of them, as bytes on the wire.

Every command of a batch is written here, whole, in the Redis protocol (RESP): redis-py and hiredis take ten times as
long for the megabyte of a batch (measured).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from gatewatch.service.core import records as state
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey

REMEMBERED_KEYS: Final = 65_536
MOST_OFFSETS: Final = 100_000

SAVE: Final = (
    f"local first, last = {state.FENCE.start}, {state.FENCE.stop - 1}\n"
    + Path(__file__).with_name("save.lua").read_text()
)

PARTS: Final = ("state", "readings", "history", "earlier:0", "earlier:1", "settings", "quarantine")
"""What there may be of a stream, each under a key of its own."""


class Keys(NamedTuple):
    """What is made once of a stream's name.

    Attributes:
        record, history: the keys of its record and of its history ring.
        seed: where the checksum of its record starts.
        written: the record's key as an argument of a command, up to the end of the line before the next.
        set_slot: the beginning of a SETRANGE of its history, up to the offset's length.
    """

    record: bytes
    history: bytes
    seed: int
    written: bytes
    set_slot: bytes


class Commands:
    """Names the keys of one tenant, and writes what is sent to Redis."""

    def __init__(self, tenant: str) -> None:
        self._tenant = _encode(tenant)
        self.open_key = f"gatewatch:{{{self._tenant}}}:open"
        self.streams_key = f"gatewatch:{{{self._tenant}}}:streams"
        self.alerts_key = f"gatewatch:{{{self._tenant}}}:alerts"
        self.epoch_key = f"gatewatch:{{{self._tenant}}}:epoch"
        self.takeover_key = f"gatewatch:{{{self._tenant}}}:takeover"
        self.rules_key = f"gatewatch:{{{self._tenant}}}:rules"
        self.of = lru_cache(REMEMBERED_KEYS)(self._keys)

    def key(self, stream: StreamKey, what: str) -> str:
        """`gatewatch:{base64url(tenant).base64url(stream)}:what`: unambiguous, one cluster slot for a stream."""
        return f"gatewatch:{{{_encode(stream.tenant)}.{_encode(stream.name)}}}:{what}"

    def _keys(self, stream: StreamKey) -> Keys:
        record, history = self.key(stream, "state").encode(), self.key(stream, "readings").encode()
        set_slot = packed([b"SETRANGE", history, b"", b""]).partition(b"\r\n$0\r\n")[0]
        return Keys(record, history, state.seed(record), b"\r\n$%d\r\n%b" % (len(record), record), b"\r\n" + set_slot)

    def earlier_keys(self, stream: StreamKey) -> tuple[bytes, bytes]:
        """The keys of the two earlier records of a stream with a reorder window."""
        return self.key(stream, "earlier:0").encode(), self.key(stream, "earlier:1").encode()

    def watch(self, streams: Sequence[StreamKey]) -> tuple[bytes, int]:
        """Watch the records of streams and read them, and how many commands that are; forgets what was watched."""
        count = len(streams) + 1
        keys = b"".join([self.of(stream).written for stream in streams])
        return b"*1\r\n$7\r\nUNWATCH\r\n*%d\r\n$5\r\nWATCH%b\r\n*%d\r\n$4\r\nMGET%b\r\n" % (
            count,
            keys,
            count,
            keys,
        ), 3

    def transaction(self, writes: Writes) -> tuple[bytes, int]:
        """What saves `writes` in one transaction, and how many commands that are.

        Pieces of history come first, but for one DEL where there is any history to be begun anew.
        """
        keys = list(map(self.of, writes.streams))
        slots = [b"\r\n"] * (3 * len(writes.slots) + 1)
        if writes.slots:
            rows, offsets, pieces = zip(*writes.slots, strict=True)
            slots[:-1:3] = [keys[row].set_slot for row in rows]
            slots[1:-1:3] = [_OFFSETS[offset, len(piece)] for offset, piece in zip(offsets, pieces, strict=True)]
            slots[2:-1:3] = pieces
        records = [b"\r\n"] * (3 * len(keys) + 1)
        records[:-1:3] = [key.written for key in keys]
        records[1:-1:3] = map(_LENGTHS.__getitem__, map(len, writes.records))
        records[2:-1:3] = writes.records
        begun = packed([b"MULTI"])
        if writes.anew:
            begun += packed([b"DEL", *(keys[row].history for row in writes.anew)])
        more = [[b"MSET", *self._earlier(writes)]] if writes.earlier else []
        more += [*self._effects(writes), [b"ZCARD", self.streams_key.encode()]]
        set_records = b"*%d\r\n$4\r\nMSET" % (2 * len(keys) + 1)
        whole = [begun[:-2], *slots, set_records, *records, *map(packed, more), packed([b"EXEC"])]
        return b"".join(whole), bool(writes.anew) + len(writes.slots) + len(more) + 3

    def _earlier(self, writes: Writes) -> Iterator[bytes]:
        for (row, at), kept in writes.earlier.items():
            yield self.earlier_keys(writes.streams[row])[at]
            yield kept

    def _effects(self, writes: Writes) -> list[list[bytes]]:
        """What belongs to the streams' records and stands in the sorted sets of the tenant."""
        at, commands, names = b"%.3f" % writes.at, [], [writes.streams[row].name.encode() for row in writes.unlisted]
        opened, closed = [
            [stream.name.encode() for stream in sorted(some.intersection(writes.streams))] if some else []
            for some in (writes.opened, writes.closed)
        ]
        for key, score, members in (
            (self.streams_key, b"0", names),
            (self.open_key, at, opened),
            (self.alerts_key, at, [text for _, text in writes.alerts]),
        ):
            if members:
                commands.append([b"ZADD", key.encode(), *(part for member in members for part in (score, member))])
        if closed:
            commands.append([b"ZREM", self.open_key.encode(), *closed])
        return commands

    def comparison(self, sha: bytes, writes: Writes, expected: Sequence[bytes]) -> tuple[bytes, int]:
        """What saves each stream whose record is still as expected, by save.lua, and how many commands that are.

        Args:
            expected: of each stream, the fence or all of the record that must still be there.
        """
        keys: list[bytes] = []
        arguments: list[bytes] = [b"%.3f" % writes.at]
        pieces: list[list[bytes]] = [[] for _ in writes.streams]
        for row, offset, slot in writes.slots:
            pieces[row] += (b"%d" % offset, slot)
        for row, (stream, before, record) in enumerate(zip(writes.streams, expected, writes.records, strict=True)):
            keys += (*self.of(stream)[:2], *self.earlier_keys(stream))
            arguments += (before, record, *(writes.earlier.get((row, slot), b"") for slot in (0, 1)))
            arguments += (b"%d" % (row in writes.anew), b"%d" % (len(pieces[row]) // 2), *pieces[row])
        keys += (key.encode() for key in (self.streams_key, self.open_key, self.alerts_key))
        row_of = {stream: row for row, stream in enumerate(writes.streams)} if writes.opened or writes.closed else {}
        for what, members in (
            (b"listed", [(row, writes.streams[row].name.encode()) for row in writes.unlisted]),
            (b"opened", [(row_of[stream], stream.name.encode()) for stream in writes.opened if stream in row_of]),
            (b"closed", [(row_of[stream], stream.name.encode()) for stream in writes.closed if stream in row_of]),
            (b"alert", writes.alerts),
        ):
            for row, member in members:
                arguments += (b"%d" % (row + 1), what, member)
        return packed([b"EVALSHA", sha, b"%d" % len(keys), *keys, *arguments]), 1


def packed(arguments: Sequence[bytes]) -> bytes:
    """A command in the Redis protocol."""
    pieces = [b"*%d" % len(arguments), *[b""] * (2 * len(arguments)), b"\r\n"]
    pieces[1:-1:2] = map(_LENGTHS.__getitem__, map(len, arguments))
    pieces[2:-1:2] = arguments
    return b"".join(pieces)


class _Lengths(dict[int, bytes]):
    """What stands before an argument of so many bytes, each written once."""

    def __missing__(self, length: int) -> bytes:
        written = b"\r\n$%d\r\n" % length
        if length < 65_536:
            self[length] = written
        return written


class _Offsets(dict[tuple[int, int], bytes]):
    """An offset, and what stands before so many bytes that are to be put there; each written once."""

    def __missing__(self, place: tuple[int, int]) -> bytes:
        offset = b"%d" % place[0]
        written = b"\r\n$%d\r\n%b\r\n$%d\r\n" % (len(offset), offset, place[1])
        if len(self) < MOST_OFFSETS:
            self[place] = written
        return written


_LENGTHS = _Lengths()
_OFFSETS = _Offsets()
"""Of the slots of one ring, some hundreds; a correction writes pieces of any length, which are not all remembered."""


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
