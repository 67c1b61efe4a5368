"""Assignments: the rules that this process goes by, and how they change.

The document in Redis is the truth. Every process looks at its number each second, and whenever it meets a record that
another model wrote than its rules say: somebody else may be ahead. So a stream never goes back to a version that it
left. A change names the number that it goes on from; of two changes at once one is made anew on top of the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
from pydantic import ValidationError

from gatewatch.service.errors import ForeignValue, StoreUnavailable, first_of
from gatewatch.service.serving.rules import Assigned, Assignment

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
ATTEMPTS: Final = 20
"""Changes of others in a row that one change waits for."""


class RulesDocument(Protocol):
    """Where the document is kept; service/storage/rules.py is it in Redis."""

    async def number(self) -> int:
        """Of the document, 0 where there is none. Raises StoreUnavailable."""

    async def read(self) -> bytes:
        """The document. Raises StoreUnavailable."""

    async def write(self, before: int, number: int, document: bytes) -> bool:
        """Write it, if the one that stands has the number `before`. Raises StoreUnavailable."""


class Assignments:
    """The assignment that this process goes by.

    Attributes:
        now: what it is; replaced as a whole.
        on_change: is told each new one, once this process goes by it.
    """

    def __init__(self, document: RulesDocument, prepare: Callable[[Assignment], Awaitable[None]]) -> None:
        """Take none to begin with.

        Args:
            prepare: is awaited with a new assignment before this process goes by it, and never raises.
        """
        self.now = Assigned(Assignment())
        self.on_change: Callable[[Assignment], None] = lambda _: None
        self._document = document
        self._prepare = prepare
        self._changing = asyncio.Lock()

    @property
    def number(self) -> int:
        """Of the assignment that this process goes by."""
        return self.now.assignment.number

    async def look(self) -> bool:
        """Go by the newest assignment there is; whether that is another one than before.

        Where Redis has forgotten it, it is written there again: it was restored from an older copy, or emptied.

        Raises:
            StoreUnavailable: Redis does not answer, or what it has is no assignment.
        """
        async with self._changing:
            number = await self._document.number()
            if number < self.number:
                log.warning("Redis has older rules than this process: they are written again", number=number)
                known = self.now.assignment
                await self._document.write(number, known.number, known.document())
            if number <= self.number:
                return False
            await self._go_by(_assignment_in(await self._document.read()))
            return True

    async def change(self, decide: Callable[[Assignment], Awaitable[Assignment | None]]) -> Assignment:
        """Write a new assignment; returns it, or the one that stands where there is nothing to change.

        Args:
            decide: from the newest assignment to the next one, whatever its number; None where all is as it should
                be. It is asked again whenever somebody else was faster.

        Raises:
            StoreUnavailable: Redis does not answer, or others kept changing the rules.
        """
        for _ in range(ATTEMPTS):
            await self.look()
            before = self.now.assignment
            decided = await decide(before)
            if decided is None:
                return before
            after = decided.model_copy(update={"number": before.number + 1})
            if await self._document.write(before.number, after.number, after.document()):
                async with self._changing:
                    await self._go_by(after)
                return after
        raise StoreUnavailable("others kept changing the rules; send the change again")

    async def _go_by(self, assignment: Assignment) -> None:
        if assignment.number > self.number:
            await self._prepare(assignment)
            self.now = Assigned(assignment)
            self.on_change(assignment)
            log.info("rules", number=assignment.number, rules=len(assignment.rules.rules), by=assignment.by)

    async def watch(self) -> None:
        """Look every second, until cancelled."""
        while True:
            try:
                await self.look()
            except ForeignValue as error:
                log.error("the rules cannot be read", error=str(error))
            except StoreUnavailable:  # which others report
                pass
            except Exception as error:  # nobody else would go on looking
                log.error("the rules cannot be followed", exc_info=error)
            await asyncio.sleep(LOOK_S)


def _assignment_in(document: bytes) -> Assignment:
    try:
        return Assignment.model_validate_json(document)
    except ValidationError as error:
        raise ForeignValue(
            f"the rules in Redis are none ({first_of(error.errors())}): they are of a newer version of this service, "
            "or somebody wrote there; the rules before stay"
        ) from error
