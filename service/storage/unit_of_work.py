"""Held: the records of a batch's streams, from their load until they are saved."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from gatewatch.service.core.store import Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.connection import Link, LinkLost, raise_first
from gatewatch.service.storage.database import Database, again_if_lost
from gatewatch.service.storage.record_cache import Remembered

FEW: Final = 32
"""Streams whose remembered records a script compares and saves, in one round trip. Of more, Redis watches and sends
the records and saves them in one transaction: 13 instead of 19 µs a stream (`python -m benchmarks.saving`)."""


class Held:
    """The records of some streams, on a connection of their own. What is saved of them is saved only if they stand.

    Records that are remembered are not waited for. Of a few streams, the script that saves compares them; of many,
    they are watched and read all the same, and compared here, when the work on them is done: see `confirmed`.

    Attributes:
        packed: the records as bytes, None for a stream without one.
        remembered: the same where this process remembered them, else None.
        unsure: whether what was sent may have been saved though `saved` says that it was not.
    """

    unsure = False

    def __init__(
        self,
        database: Database,
        link: Link,
        remembered: Remembered,
        streams: Sequence[StreamKey],
        known: list[bytes] | None,
    ) -> None:
        self.packed: Sequence[bytes | None] = known or []
        self.remembered = known
        self._database = database
        self._link = link
        self._notes = remembered
        self._streams = streams
        self._watched = known is None or len(known) > FEW
        self._coming = 0  # answers to the load
        self._sent: tuple[Writes, int] | None = None

    @property
    def from_cache(self) -> bool:
        """Whether the records are what this process saved last."""
        return self.remembered is not None

    async def load(self) -> None:
        """Watch and read the records; wait for them unless they are remembered."""
        if not self._watched and not self._link.needs_try:
            return
        async with self._database.within(f"load {len(self._streams)} states"):
            await again_if_lost(self._begin)  # nothing is written yet

    async def _begin(self) -> None:
        await self._link.open()
        if self._watched:
            commands, self._coming = self._database.commands.watch(self._streams)
            self._link.send(commands)
        if self.remembered is None:
            self.packed = await self._loaded()

    async def confirmed(self, compared: bool) -> bool:
        """Whether the records are what they were taken for, before anything is done that follows from them.

        Where they are not, they are forgotten.

        Args:
            compared: everything is to be saved, so that a script that compares will find out.
        """
        if self.remembered is None:
            return True
        if not (same := compared if not self._watched else await self._stands()):
            self._notes.forget(self._streams)
        return same

    async def _stands(self) -> bool:
        async with self._database.within(f"load {len(self._streams)} states"):
            try:
                return await self._loaded() == self.remembered
            except LinkLost:
                return False

    async def _loaded(self) -> list[bytes | None]:
        answers = await self._link.answers(self._coming)
        raise_first(answers)  # of a WATCH that was refused too: nothing would stand between two writers
        records: list[bytes | None] = answers[-1]
        return records

    async def send(self, writes: Writes) -> None:
        """Send what is to be saved; `saved` waits for the answer, and meanwhile there is time for other things."""
        commands = self._database.commands
        writes.unlisted = self._database.listed.missing(writes.streams, writes.fences)
        if self._watched:
            whole, count = commands.transaction(writes)
        else:
            whole, count = commands.comparison(self._database.save_sha, writes, self.remembered or ())
        self._sent = writes, count
        async with self._database.translated(f"save {len(writes.streams)} states"):
            with contextlib.suppress(LinkLost):  # which `saved` will meet as well
                self._link.send(whole)

    async def saved(self) -> list[bool]:
        """Which of the streams sent were saved: all, unless another process wrote one of them since the load.

        If the connection is lost they are sent again, stream by stream, each with what it must find: those that were
        saved after all are then not saved again, and count as written by another process.
        """
        if self._sent is None:
            return []
        writes, count = self._sent
        async with self._database.within(f"save {len(writes.streams)} states"):
            try:
                answers = await self._link.answers(count)
                saved = await (self._committed(writes, answers) if self._watched else self._compared(writes, answers))
            except LinkLost:
                saved, self.unsure = None, True
        if saved is None:
            expected = None if self._watched else self.remembered
            saved = await self._database.save(writes, expected)  # stream by stream, to find out whose it was
        self._notes.note(writes.streams, writes.records, saved)
        return saved

    async def _committed(self, writes: Writes, answers: list[Any]) -> list[bool] | None:
        """What a transaction came to: all or, without an answer, nothing."""
        raise_first(answers)
        if answers[-1] is None:
            return None
        *done, count = answers[-1]
        begun, end = bool(writes.anew), bool(writes.anew) + len(writes.slots)
        slots = zip(writes.slots, done[begun:end], strict=True)
        foreign = [slot for slot, written in slots if isinstance(written, ResponseError)]
        if foreign:
            await self._database.replace_histories(writes, foreign)
        raise_first([error for error in done[end:] if "WRONGTYPE" not in str(error)])  # foreign sets fail no reading
        listed = -1 if isinstance(count, Exception) else int(count)
        return await self._database.note_saved(writes, [*[1] * len(writes.streams), listed])

    async def _compared(self, writes: Writes, answers: list[Any]) -> list[bool] | None:
        """What the script came to; nothing if Redis does not know it."""
        (answer,) = answers
        if isinstance(answer, NoScriptError):
            return None
        raise_first(answers)
        return await self._database.note_saved(writes, answer)
