"""A Redis that is a dictionary.

Only what a store relies on is kept: a transaction fails if a watched key changed, save.lua compares a fence, and a
server that crashes comes back with what it had synced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gatewatch.service.core.records import FENCE
from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from tests.simulation.loop import VirtualLoop

Key = tuple[StreamKey, str]
"""A stream, and what of it: state, history, earlier:0, earlier:1, settings, quarantine."""


class Redis:
    """The server.

    Attributes:
        values: what it holds.
        journal: every piece of history written, by stream; goes back with the values, and no worker can see it.
        lost: the pieces that a crash took back.
        starts: how often it was started; connections of earlier starts are dead.
    """

    def __init__(self, loop: VirtualLoop, rng: random.Random, strict: bool) -> None:
        self.values: dict[Key, bytes] = {}
        self.journal: list[tuple[StreamKey, bytes]] = []
        self.lost: list[tuple[StreamKey, bytes]] = []
        self.leases: dict[StreamKey, float] = {}
        self.starts = 0
        self.up = True
        self._sync_share = rng.choice((0.1, 0.3, 0.6))
        self._loop = loop
        self._rng = rng
        self._strict = strict
        self._versions: dict[Key, int] = {}
        self._changes = 0
        self._synced: tuple[dict[Key, bytes], int] = ({}, 0)

    def version(self, key: Key) -> int:
        """Differs after every change of a key; 0 before the first."""
        return self._versions.get(key, 0)

    def put(self, key: Key, value: bytes | None) -> None:
        """SET, or DEL."""
        self._changes += 1
        self._versions[key] = self._changes
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value

    def write_history(self, writes: Writes, rows: Sequence[int]) -> None:
        """Write the pieces of history of some of the streams."""
        for row in rows:
            if row in writes.anew:
                self.put((writes.streams[row], "history"), None)
        for row, offset, piece in writes.slots:
            if row in rows:
                stream = writes.streams[row]
                ring = self.values.get((stream, "history"), b"").ljust(offset, b"\0")
                self.put((stream, "history"), ring[:offset] + piece + ring[offset + len(piece) :])
                self.journal.append((stream, piece))

    def write_records(self, writes: Writes, rows: Sequence[int]) -> None:
        """Write the records of some of the streams."""
        for (row, slot), record in writes.earlier.items():
            if row in rows:
                self.put((writes.streams[row], f"earlier:{slot}"), record)
        for row in rows:
            self.put((writes.streams[row], "state"), writes.records[row])

    def write(self, writes: Writes, rows: Sequence[int]) -> None:
        """Write all of some of the streams, at once."""
        self.write_history(writes, rows)
        self.write_records(writes, rows)
        self._maybe_sync()

    def commit(self, writes: Writes, watched: dict[Key, int]) -> bool:
        """EXEC: all, or nothing if a watched key has changed."""
        if any(self.version(key) != version for key, version in watched.items()):
            return False
        self.write(writes, range(len(writes.streams)))
        return True

    def save(self, writes: Writes, is_same: Callable[[bytes | None, int], bool] | None = None) -> list[bool]:
        """save.lua: each stream whose record still has its fence."""
        saved = []
        for row, stream in enumerate(writes.streams):
            record = self.values.get((stream, "state"))
            same = is_same(record, row) if is_same else (record or b"")[FENCE] == writes.fences[row]
            if same:
                self.write(writes, [row])
            saved.append(same)
        return saved

    def _maybe_sync(self) -> None:
        if not self._strict and self._rng.random() < self._sync_share:
            self.sync()

    def sync(self) -> None:
        """What is here now survives a crash."""
        self._synced = dict(self.values), len(self.journal)

    def crash(self) -> None:
        """Go away for a while; without `strict`, come back as of the last sync."""
        if not self.up:
            return
        self.up = False
        self.starts += 1
        if not self._strict:
            values, journal = self._synced
            for key in [key for key in {*self.values, *values} if self.values.get(key) != values.get(key)]:
                self.put(key, values.get(key))
            self.lost += self.journal[journal:]
            del self.journal[journal:]
        self._loop.call_later(self._rng.uniform(0.01, 0.3), self._restart)

    def _restart(self) -> None:
        self.up = True
