"""Aside: work that takes more than a moment, on threads of its own, so that readings wait for none of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

THREADS: Final = 2
"""Never those that step batches."""

IN_PLACE_BYTES: Final = 16_384
"""What is smaller is parsed or written sooner than a thread begins."""

_threads: Final = ThreadPoolExecutor(THREADS, "aside")


async def aside(work: Callable[..., T], *given: object) -> T:
    """What some work comes to, which shares nothing that changes with the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work, *given)
