"""Spool: readings that wait on disk, in an SQLite file, so that the sender may end or be killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .errors import ClientError, SpoolFailed
from .readings import Reading

_TABLES = """
CREATE TABLE IF NOT EXISTS readings (
    number INTEGER PRIMARY KEY AUTOINCREMENT, stream TEXT NOT NULL, reading TEXT NOT NULL,
    timestamp REAL NOT NULL, seq INTEGER
);
CREATE TABLE IF NOT EXISTS next_seqs (stream TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""


RESERVE_BYTES = 1_000_000
"""Room on the disk that is kept, in a file beside the spool: to take out what was sent needs some, too."""

CHECKPOINT_PAGES = 100
"""Of 4 kB, in the file of changes before they go into the spool itself; well within the reserve."""


class Spool:
    """A Queue in a file. What `put` has taken survives a killed sender; a power cut may cost the last moments.

    On a full disk `put` fails, and what waits is sent and taken out all the same, by giving the reserve away. It is
    made anew once nothing waits.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises ClientError: it is no spool, or another process has it open."""
        self._reserve = path.with_name(f"{path.name}-reserve")
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")  # a spool has one sender
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._database.executescript(_TABLES)
            self._database.execute("BEGIN IMMEDIATE")
            (self._waiting,) = self._database.execute("SELECT count(*) FROM readings").fetchone()
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            why = "another process has it open" if "locked" in str(error) else str(error)
            raise ClientError(f"{path} cannot be the spool: {why}") from error
        except sqlite3.DatabaseError as error:
            raise ClientError(f"{path} cannot be the spool: {error}") from error
        if not self._reserve.exists():
            self._keep_reserve()

    def put(self, readings: Sequence[Reading]) -> list[int]:
        """See Queue."""
        rows = [(one.stream, json.dumps(one.values), one.timestamp, one.seq) for one in readings]
        numbers: list[int] = []
        with self._transaction():
            for row in rows:
                insert = "INSERT INTO readings (stream, reading, timestamp, seq) VALUES (?, ?, ?, ?)"
                numbers.append(self._database.execute(insert, row).lastrowid or 0)
        self._waiting += len(rows)
        return numbers

    def first(self, count: int) -> list[tuple[int, Reading]]:
        """See Queue."""
        rows = self._database.execute(
            "SELECT number, stream, reading, timestamp, seq FROM readings ORDER BY number LIMIT ?", (count,)
        )
        return [
            (number, Reading(stream, json.loads(values), timestamp, seq))
            for number, stream, values, timestamp, seq in rows
        ]

    def next_seq(self, stream: str) -> int | None:
        """See Queue."""
        row = self._database.execute("SELECT seq FROM next_seqs WHERE stream = ?", (stream,)).fetchone()
        return None if row is None else int(row[0])

    def number(self, numbered: Sequence[tuple[int, Reading]], next_seqs: dict[str, int]) -> None:
        """See Queue."""
        rows = [(reading.seq, number) for number, reading in numbered]

        def change() -> None:
            self._database.executemany("UPDATE readings SET seq = ? WHERE number = ?", rows)
            self._database.executemany("INSERT OR REPLACE INTO next_seqs VALUES (?, ?)", list(next_seqs.items()))

        self._even_if_full(change)

    def done(self, number: int) -> None:
        """See Queue."""
        taken = 0

        def change() -> None:
            nonlocal taken
            taken = self._database.execute("DELETE FROM readings WHERE number <= ?", (number,)).rowcount

        self._even_if_full(change)
        self._waiting -= taken
        if not self._waiting and not self._reserve.exists():
            self._keep_reserve()

    def close(self) -> None:
        """See Queue."""
        self._database.close()
        if not self._waiting:
            self._reserve.unlink(missing_ok=True)

    def __len__(self) -> int:
        return int(self._waiting)

    def _keep_reserve(self) -> None:
        try:
            with self._reserve.open("wb") as file:
                file.write(bytes(RESERVE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # there is no room for it now
            self._reserve.unlink(missing_ok=True)

    def _even_if_full(self, change: Callable[[], None]) -> None:
        """Make a change that frees room in the end. Raises SpoolFailed: not without the reserve either."""
        try:
            with self._transaction():
                change()
        except SpoolFailed:
            if not self._reserve.exists():
                raise
            self._reserve.unlink()
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            with self._transaction():
                change()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it, or nothing. Raises SpoolFailed."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise SpoolFailed(f"the spool cannot be written: {error}") from error
            raise
