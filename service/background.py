"""What goes on beside the readings: steps that are taken again and again, for as long as the service runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping

import structlog

from gatewatch.service.errors import ServiceError, StoreUnavailable

log = structlog.get_logger(__name__)


async def repeat(step: Callable[[], Awaitable[float]], failed: str, retry_s: float) -> None:
    """Take a step again and again, until cancelled; after each one rest for as long as it says, in s.

    A step that fails is taken again after `retry_s`, since nobody else would take it.

    Args:
        failed: what to say of a step that failed.
    """
    while True:
        try:
            rest_s = await step()
        except StoreUnavailable as error:  # others say so
            log.debug(failed, error=str(error))
            rest_s = retry_s
        except ServiceError as error:
            log.error(failed, error=str(error))
            rest_s = retry_s
        except Exception as error:
            log.error(failed, exc_info=error)
            rest_s = retry_s
        await asyncio.sleep(rest_s)


class Background:
    """Tasks that are begun and ended together."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Mapping[str, Coroutine[None, None, None]]) -> None:
        """Begin tasks, each under its name."""
        self._tasks += [asyncio.create_task(one, name=name) for name, one in work.items()]

    async def stop(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
