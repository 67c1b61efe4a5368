"""Aside: work that takes more than a moment, on threads of its own or in slices, so that nobody waits for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

THREADS: Final = 2
"""Never those that step batches."""

IN_PLACE_BYTES: Final = 16_384
"""What is smaller is parsed or written sooner than a thread begins."""

SLICE: Final = 50
"""Incidents between which others have their turn: some 2 ms."""

_threads: Final = ThreadPoolExecutor(THREADS, "aside")


async def aside(work: Callable[..., T], *given: object) -> T:
    """What some work comes to, which shares nothing that changes with the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work, *given)


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """The same items; after each SLICE of them whoever else has something to do on the event loop does it."""
    for at, item in enumerate(items, 1):
        yield item
        if at % SLICE == 0:
            await asyncio.sleep(0)
