"""Held: the records of a batch's streams, from their load until they are saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from service.storage.database import Database
from service.storage.link import Link
from service.storage.remembered import Remembered
from service.storage.resp import Writes

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
    """

    def __init__(
        self, database: Database, link: Link, remembered: Remembered, streams: Sequence[str], known: list[bytes] | None
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

    async def load(self) -> None:
        """Watch and read the records; wait for them unless they are remembered."""
        if self._link.is_open and not self._watched:
            return
        async with self._database.within(f"load {len(self._streams)} states"):
            await self._link.open()
            if self._watched:
                commands, self._coming = self._database.commands.watch(self._streams)
                self._link.send(commands)
            if self.remembered is None:
                self.packed = await self._loaded()

    async def confirmed(self, compared: bool) -> bool:
        """Whether the records are what they were taken for, before anything is done that follows from them.

        Args:
            compared: everything is to be saved, so that a script that compares will find out.
        """
        if self.remembered is None:
            return True
        if not self._watched:
            return compared
        async with self._database.within(f"load {len(self._streams)} states"):
            return await self._loaded() == self.remembered

    async def _loaded(self) -> list[bytes | None]:
        answers = await self._link.answers(self._coming)
        for answer in answers:  # of a WATCH that was refused too: nothing would stand between two writers
            if isinstance(answer, Exception):
                raise answer
        records: list[bytes | None] = answers[-1]
        return records

    async def send(self, writes: Writes) -> None:
        """Send what is to be saved; `saved` waits for the answer, and meanwhile there is time for other things."""
        commands = self._database.commands
        if self._watched:
            whole, count = commands.transaction(writes)
        else:
            whole, count = commands.comparison(self._database.save_sha, writes, self.remembered or ())
        async with self._database.translated(f"save {len(writes.streams)} states"):
            self._link.send(whole)
        self._sent = writes, count

    async def saved(self) -> list[bool]:
        """Which of the streams sent were saved: all, unless another process wrote one of them since the load."""
        if self._sent is None:
            return []
        writes, count = self._sent
        async with self._database.within(f"save {len(writes.streams)} states"):
            answer = (await self._link.answers(count))[-1]
            saved = await (self._committed(writes, answer) if self._watched else self._compared(writes, answer))
        if saved is None:
            expected = None if self._watched else self.remembered
            saved = await self._database.save(writes, expected)  # stream by stream, to find out whose it was
        self._notes.note(writes.streams, writes.records, saved)
        return saved

    async def _committed(self, writes: Writes, answer: Any) -> list[bool] | None:
        """What a transaction came to: all or, without an answer, nothing."""
        if answer is None:
            return None
        if isinstance(answer, Exception):
            raise answer
        begun, end = bool(writes.anew), bool(writes.anew) + len(writes.slots)
        slots = zip(writes.slots, answer[begun:end], strict=True)
        foreign = [slot for slot, done in slots if isinstance(done, ResponseError)]
        if foreign:
            await self._database.replace_histories(writes, foreign)
        for error in answer[end:]:
            if isinstance(error, Exception):
                raise error
        return [True] * len(writes.streams)

    async def _compared(self, writes: Writes, answer: Any) -> list[bool] | None:
        """What the script came to; nothing if Redis does not know it."""
        if isinstance(answer, NoScriptError):
            return None
        if isinstance(answer, Exception):
            raise answer
        saved = [one == 1 for one in answer]
        await self._database.note_incidents(writes, saved)
        return saved
