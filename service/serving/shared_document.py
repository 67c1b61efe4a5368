"""SharedDocument: a document in Redis that all processes go by, and that is changed by comparing its number.

The document in Redis is the truth. Every process looks at its number each second. A change names the number that it
goes on from; of two changes at once one is made anew on top of the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, Generic, Protocol, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from gatewatch.service.aside import IN_PLACE_BYTES, aside
from gatewatch.service.background import repeat
from gatewatch.service.errors import ForeignValue, StoreUnavailable, TooLarge, first_of

log = structlog.get_logger(__name__)

MOST_BYTES: Final = 8 * 2**20
"""Of a document as it is kept. Every process reads all of it after each change; so much takes 0.4 s, aside."""

ATTEMPTS: Final = 20
"""Changes of others in a row that one change waits for."""


class Numbered(BaseModel):
    """A document that many processes go by; it never changes, another one takes its place.

    Attributes:
        number: 0 of one that was never written; rises with each change.
        at, by: when it was written, and by whom.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = 0
    at: str = ""
    by: str = ""

    def as_kept(self) -> bytes:
        """As Redis has it."""
        return self.model_dump_json().encode()


D = TypeVar("D", bound=Numbered)


class KeptDocument(Protocol):
    """Where a document is kept; service/storage/documents.py is it in Redis."""

    async def number(self) -> int:
        """Of the document, 0 where there is none. Raises StoreUnavailable."""

    async def read(self) -> bytes:
        """The document. Raises StoreUnavailable."""

    async def write(self, before: int, number: int, document: bytes) -> bool:
        """Write it, if the one that stands has the number `before`. Raises StoreUnavailable."""


class SharedDocument(Generic[D]):
    """One document, as this process knows it.

    Attributes:
        document: what this process goes by; replaced as a whole.
    """

    def __init__(self, what: str, first: D, kept: KeptDocument, prepare: Callable[[D], Awaitable[None]]) -> None:
        """Go by `first`, which was never written, to begin with.

        Args:
            what: it is called in logs and errors.
            prepare: is awaited with a new document before this process goes by it, and never raises.
        """
        self.document = first
        self._what = what
        self._kept = kept
        self._prepare = prepare
        self._changing = asyncio.Lock()

    @property
    def number(self) -> int:
        """Of the document that this process goes by."""
        return self.document.number

    async def look(self) -> bool:
        """Go by the newest document there is; whether that is another one than before.

        Where Redis has forgotten it, it is written there again: it was restored from an older copy, or emptied.

        Raises:
            StoreUnavailable: Redis does not answer.
            ForeignValue: what it has is no such document.
        """
        async with self._changing:
            number, known = await self._kept.number(), self.document
            if number < known.number:
                log.warning(f"Redis has older {self._what} than this process: they are written again", number=number)
                await self._kept.write(number, known.number, known.as_kept())
            if number <= known.number:
                return False
            content = await self._kept.read()
            large = len(content) > IN_PLACE_BYTES
            await self._go_by(await aside(self._read, content) if large else self._read(content))
            return True

    async def change(self, decide: Callable[[D], Awaitable[D | None]]) -> D:
        """Write a new document; returns it, or the one that stands where there is nothing to change.

        Args:
            decide: from the newest document to the next one, whatever its number; None where all is as it should be.
                It is asked again whenever somebody else was faster.

        Raises:
            TooLarge: it would be larger than is kept, and no smaller than before.
            StoreUnavailable: Redis does not answer, or others kept changing it.
        """
        for _ in range(ATTEMPTS):
            await self.look()
            before = self.document
            decided = await decide(before)
            if decided is None:
                return before
            after = decided.model_copy(update={"number": before.number + 1})
            content = await aside(after.as_kept)
            if len(content) > MOST_BYTES and len(content) >= len(await aside(before.as_kept)):
                raise TooLarge(
                    f"the {self._what} would have {len(content)} bytes, with all that they have already; at most "
                    f"{MOST_BYTES} are kept of a tenant: say less of each stream, or take something away first"
                )
            if await self._kept.write(before.number, after.number, content):
                async with self._changing:
                    await self._go_by(after)
                return after
        raise StoreUnavailable(f"others kept changing the {self._what}; send the change again")

    async def _go_by(self, document: D) -> None:
        if document.number > self.document.number:
            await self._prepare(document)
            self.document = document
            log.info(f"new {self._what}", number=document.number, by=document.by)

    def _read(self, content: bytes) -> D:
        try:
            return type(self.document).model_validate_json(content)
        except ValidationError as error:
            raise ForeignValue(
                f"the {self._what} in Redis are none ({first_of(error.errors())}): they are of a newer version of this "
                "service, or somebody wrote there; those before stay"
            ) from error


LOOK_S: Final = 1.0


async def look_each_second(look: Callable[[], Awaitable[object]], what: str) -> None:
    """Look for a newer document, or several, until cancelled; `what` they are called in logs."""

    async def step() -> float:
        await look()
        return LOOK_S

    await repeat(step, f"the {what} cannot be followed", LOOK_S)


def now_text() -> str:
    """The time as documents say it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
