"""What is to be read and saved of streams, as bytes on the wire.

Every command of a batch is written here, whole, in the Redis protocol (RESP): redis-py and hiredis take ten times as
long for the megabyte of a batch (measured).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Final

from gatewatch.service.core import records as state
from gatewatch.service.core.store import IncidentsLeft, Writes
from gatewatch.service.incidents.event import EVENTS, Event
from gatewatch.service.incidents.incident import id_of
from gatewatch.service.storage.channel_counts import ADD_CHANNELS
from gatewatch.service.storage.keys import (
    INCIDENT_PARTS,
    LATEST,
    NUMBER,
    PENDING,
    Keys,
    Sets,
    StreamKeys,
    identity_in,
    tag_of,
)

MOST_OFFSETS: Final = 100_000
FORGOTTEN_AT_ONCE: Final = 500
"""Incidents in one command: a script in Redis takes some thousand arguments."""

SAVE: Final = (
    f"local first, last = {state.FENCE.start}, {state.FENCE.stop - 1}\n"
    + Path(__file__).with_name("save.lua").read_text()
)

SAVE_SHA: Final = hashlib.sha1(SAVE.encode(), usedforsecurity=False).hexdigest().encode()

_UNWATCH: Final = b"*1\r\n$7\r\nUNWATCH\r\n"


def packed(arguments: Sequence[bytes]) -> bytes:
    """A command in the Redis protocol."""
    pieces = [b"*%d" % len(arguments), *[b""] * (2 * len(arguments)), b"\r\n"]
    pieces[1:-1:2] = map(_LENGTHS.__getitem__, map(len, arguments))
    pieces[2:-1:2] = arguments
    return b"".join(pieces)


def load(keys: Sequence[StreamKeys]) -> bytes:
    """Read the records of streams, in one command."""
    return b"*%d\r\n$4\r\nMGET%b\r\n" % (len(keys) + 1, b"".join([key.written for key in keys]))


def watch_and_load(keys: Sequence[StreamKeys]) -> tuple[bytes, int]:
    """Watch the records of streams and read them, and how many commands that are; forgets what was watched."""
    count, written = len(keys) + 1, b"".join([key.written for key in keys])
    return _UNWATCH + b"*%d\r\n$5\r\nWATCH%b\r\n*%d\r\n$4\r\nMGET%b\r\n" % (count, written, count, written), 3


def sets_of(keys: Sequence[StreamKeys]) -> list[Sets]:
    """The sorted sets of some streams' buckets, each once."""
    return list({key.sets.streams: key.sets for key in keys}.values())


def transaction(keys: Keys, writes: Writes, of: Sequence[StreamKeys]) -> tuple[bytes, int]:
    """What saves `writes` in one transaction, and how many commands that are.

    Pieces of history come first, but for one DEL where there is any history to be begun anew; the counts of the lists
    of streams come last, in the order of `sets_of`.

    Args:
        of: the keys of the streams.
    """
    slots = [b"\r\n"] * (3 * len(writes.slots) + 1)
    if writes.slots:
        rows, offsets, pieces = zip(*writes.slots, strict=True)
        slots[:-1:3] = [of[row].set_slot for row in rows]
        slots[1:-1:3] = [_OFFSETS[offset, len(piece)] for offset, piece in zip(offsets, pieces, strict=True)]
        slots[2:-1:3] = pieces
    records = [b"\r\n"] * (3 * len(of) + 1)
    records[:-1:3] = [key.written for key in of]
    records[1:-1:3] = map(_LENGTHS.__getitem__, map(len, writes.records))
    records[2:-1:3] = writes.records
    begun = packed([b"MULTI"])
    if writes.anew:
        begun += packed([b"DEL", *(of[row].history for row in writes.anew)])
    more = [command for _, command in _more_commands(keys, writes, of)]
    for row, channels in writes.channels.items():
        more += [[b"EVAL", ADD_CHANNELS, b"1", keys.channels(of[row].sets), b"%d" % channels]]
    more += [*_effects_as_commands(writes, of), *([b"ZCARD", sets.streams] for sets in sets_of(of))]
    set_records = b"*%d\r\n$4\r\nMSET" % (2 * len(of) + 1)
    whole = [begun[:-2], *slots, set_records, *records, *map(packed, more), packed([b"EXEC"])]
    return b"".join(whole), bool(writes.anew) + len(writes.slots) + len(more) + 3


def comparison(keys: Keys, writes: Writes, of: Sequence[StreamKeys], expected: Sequence[bytes]) -> tuple[bytes, int]:
    """What saves each stream whose record is still as expected, by save.lua, and how many commands that are.

    Args:
        of: the keys of the streams.
        expected: of each stream, the fence or all of the record that must still be there.
    """
    names: list[bytes] = []
    arguments: list[bytes] = [b"%.3f" % writes.at, b"%d" % len(of)]
    pieces: list[list[bytes]] = [[] for _ in of]
    for row, offset, slot in writes.slots:
        pieces[row] += (b"%d" % offset, slot)
    for row, (key, before, record) in enumerate(zip(of, expected, writes.records, strict=True)):
        names += (key.record, key.history)
        arguments += (before, record, b"%d" % (row in writes.anew), b"%d" % (len(pieces[row]) // 2), *pieces[row])
    place = {}
    for sets in sets_of(of):
        place[sets.streams] = b"%d" % (len(names) + 1)
        names += (sets.streams, sets.open, sets.alerts)
    for what, row, member in _effects(writes, of):
        arguments += (b"%d" % (row + 1), what, place[of[row].sets.streams], member)
    for row, command in _more_commands(keys, writes, of):
        arguments += (b"%d" % (row + 1), b"run", b"0", _as_message(command))
    for row, channels in writes.channels.items():
        added = _as_message((keys.channels(of[row].sets), b"%d" % channels))
        arguments += (b"%d" % (row + 1), b"add", b"0", added)
    return packed([b"EVALSHA", SAVE_SHA, b"%d" % len(names), *names, *arguments]), 1


def _as_message(command: Sequence[bytes]) -> bytes:
    """A command as MessagePack, of strings: the decoder in Redis knows no other bytes."""
    parts = (b"\xdb%b%b" % (len(part).to_bytes(4, "big"), part) for part in command)
    return b"\xdd" + len(command).to_bytes(4, "big") + b"".join(parts)


def _effects(writes: Writes, of: Sequence[StreamKeys]) -> Iterator[tuple[bytes, int, bytes]]:
    """What belongs to the streams' records and stands in sorted sets: what, whose row, and the member."""
    for row in writes.unlisted:
        yield b"listed", row, of[row].member
    for what, streams in ((b"opened", writes.opened), (b"closed", writes.closed)):
        if streams:
            yield from ((what, row, of[row].member) for row, stream in enumerate(writes.streams) if stream in streams)
    for row, alert in writes.alerts:
        yield b"alert", row, alert


def _more_commands(keys: Keys, writes: Writes, of: Sequence[StreamKeys]) -> Iterator[tuple[int, list[bytes]]]:
    """What else is saved with the records, and whose row."""
    for (row, at), earlier in writes.earlier.items():
        yield row, [b"SET", keys.part(writes.streams[row], f"earlier:{at}"), earlier]
    yield from _incident_commands(keys, writes, of)
    yield from _watch_commands(keys, writes, of)
    for row, at_bound in writes.bounds.items():
        bounds, member = keys.bounds(of[row].sets), of[row].member
        yield row, [b"ZADD", bounds, b"%.3f" % writes.at, member] if at_bound else [b"ZREM", bounds, member]
    for row, settings in writes.settings.items():
        yield row, [b"SET", keys.part(writes.streams[row], "settings"), settings]
    for left in writes.incidents_left:
        yield from ((left.row, command) for command in _commands_of_left(keys, writes, of[left.row], left))


def _commands_of_left(keys: Keys, writes: Writes, key: StreamKeys, left: IncidentsLeft) -> Iterator[list[bytes]]:
    """What saves what a stream keeps of its incidents; `key`: of the stream."""
    stream, at_ms = writes.streams[left.row], b"%d" % round(1000 * writes.at)
    kept, words = keys.part(stream, "incidents"), keys.part(stream, "incident-words")
    for start in range(0, len(left.forgotten), FORGOTTEN_AT_ONCE):
        some = left.forgotten[start : start + FORGOTTEN_AT_ONCE]
        numbers, ids = [b"%d" % n for n in some], [id_of(n, stream.name).encode() for n in some]
        yield [b"HDEL", kept, *numbers]
        yield [b"HDEL", words, *numbers]
        yield [b"DEL", *(keys.incident(stream, n, what) for n in some for what in INCIDENT_PARTS)]
        yield from ([b"ZREM", one, *ids] for one in (key.sets.incidents, key.sets.changes, key.sets.silent))
    for n, content in left.changed.items():
        yield [b"HSET", kept, b"%d" % n, content]
        yield [b"ZADD", key.sets.changes, at_ms, id_of(n, stream.name).encode()]
        yield [b"ZREM", key.sets.silent, id_of(n, stream.name).encode()]
    if writes.tells and left.ended:
        outbox = keys.outbox(tag_of(key.record))
        for n in left.ended:
            event = Event("ended", round(1000 * writes.at), stream.tenant, n, stream.name)
            yield [b"ZADD", outbox, *event.queued]
    yield [b"HDEL", kept, PENDING]
    if left.latest is None:
        yield [b"HDEL", kept, LATEST, NUMBER]
    else:
        n, content = left.latest
        yield [b"HDEL", kept, b"%d" % n]
        yield [b"HSET", kept, LATEST, content, NUMBER, b"%d" % n]
        yield [b"ZADD", key.sets.changes, at_ms, id_of(n, stream.name).encode()]


def _incident_commands(keys: Keys, writes: Writes, of: Sequence[StreamKeys]) -> Iterator[tuple[int, list[bytes]]]:
    """What saves incidents, and whose row; after the pieces of history, so that these are in what is copied."""
    at_ms = b"%d" % round(1000 * writes.at)
    for row, content in writes.pending:
        kept = keys.part(writes.streams[row], "incidents")
        yield row, [b"HSET", kept, PENDING, content] if content else [b"HDEL", kept, PENDING]
    for row, n, start_ms, incident, before, began, ended, begun_from, told, again, newly, last in writes.incidents:
        stream, key = writes.streams[row], of[row]
        kept, number, member = keys.part(stream, "incidents"), b"%d" % n, id_of(n, stream.name).encode()
        past = () if before is None else (b"%d" % before[0], before[1])
        # a silence stands beside the latest one
        latest = (LATEST, incident, NUMBER, number) if n >= 0 and last else (number, incident)
        yield row, [b"HSET", kept, *latest, *past]
        yield row, [b"ZADD", key.sets.changes, at_ms, member]
        if began:
            yield row, [b"ZADD", key.sets.incidents, b"%d" % start_ms, member]
            yield row, [b"COPY", key.history, keys.incident(stream, n, "before"), b"REPLACE"]
            if begun_from:
                yield row, [b"SET", keys.incident(stream, n, "state"), begun_from]
        if ended:
            yield row, [b"COPY", key.history, keys.incident(stream, n, "after"), b"REPLACE"]
        if writes.tells and told:
            for what in compress(EVENTS, (began or newly, again and not newly, ended)):
                event = Event(what, round(1000 * writes.at), stream.tenant, n, stream.name)
                yield row, [b"ZADD", keys.outbox(tag_of(key.record)), *event.queued]
        if n < 0 and (ended or told):
            yield row, [b"ZREM", key.sets.silent, member] if ended else [b"ZADD", key.sets.silent, at_ms, member]


def _watch_commands(keys: Keys, writes: Writes, of: Sequence[StreamKeys]) -> Iterator[tuple[int, list[bytes]]]:
    """What has new streams looked at, and whose row; those that are watched already stay as they are."""
    at_ms = b"%d" % round(1000 * writes.at)
    for row in writes.unwatched:
        record = of[row].record
        yield row, [b"ZADD", keys.due(tag_of(record)), b"NX", at_ms, identity_in(record)]


def _effects_as_commands(writes: Writes, of: Sequence[StreamKeys]) -> list[list[bytes]]:
    at, commands = b"%.3f" % writes.at, dict[tuple[bytes, bytes], list[bytes]]()
    for what, row, member in _effects(writes, of):
        sets = of[row].sets
        key = {b"listed": sets.streams, b"alert": sets.alerts}.get(what, sets.open)
        command = commands.setdefault((what, key), [b"ZREM" if what == b"closed" else b"ZADD", key])
        command += (member,) if what == b"closed" else (b"0" if what == b"listed" else at, member)
    return list(commands.values())


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
"""Of the slots of one ring, some hundreds; a correction writes pieces of any length, which are not all kept."""
