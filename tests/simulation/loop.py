"""VirtualLoop: an asyncio event loop whose time is a number and whose order of events is a seed's."""

from __future__ import annotations

import asyncio
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Nothing is left to happen, or far too much happened, and what was waited for is not done."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs what is ready in a random order; when nothing is, time jumps to the next timer. Nothing ever waits.

    There are no files, sockets or threads: `asyncio.to_thread` runs its function at once.
    """

    def __init__(self, rng: random.Random, most_steps: int) -> None:
        """Give up after `most_steps` callbacks."""
        self._rng = rng
        self._left = most_steps
        self._now = 0.0
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._set = 0

    def run_until_complete(self, future: Coroutine[Any, Any, T]) -> T:  # type: ignore[override]
        """Run until a coroutine is done, then end everything else that still runs."""
        events._set_running_loop(self)
        try:
            task = self.create_task(future)
            self._run_until(task)
            left = [other for other in asyncio.all_tasks(self) if not other.done()]
            for other in left:
                other.cancel()
            for other in left:
                self._run_until(other)
            return task.result()
        finally:
            events._set_running_loop(None)

    def _run_until(self, task: asyncio.Task[Any]) -> None:
        ready, timers, draw = self._ready, self._timers, self._rng.random
        while not task.done():
            if not ready:
                if not timers:
                    raise Stuck("nothing is left to happen")
                when, _, timer = heapq.heappop(timers)
                if timer.cancelled():
                    continue
                self._now = when
                ready.append(timer)
            if len(ready) > 1:
                at = int(draw() * len(ready))
                ready[at], ready[-1] = ready[-1], ready[at]
            handle = ready.pop()
            if not handle.cancelled():
                handle._run()
            self._left -= 1
            if not self._left:
                raise Stuck("the run does not come to an end")

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Run among the next, in any order."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run after a delay."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run at a time."""
        timer = asyncio.TimerHandle(max(when, self._now), callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (timer.when(), self._set, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Left in the heap until its time."""

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """A task of this loop."""
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,  # noqa: ARG002
        func: Callable[..., T],
        *args: Any,
    ) -> asyncio.Future[T]:
        """Run at once: a thread would make the order of events the machine's."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def is_running(self) -> bool:
        """For the duration of run_until_complete."""
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        """There is nothing to close."""
        return False

    def get_debug(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A crash leaves futures nobody looks at; an error inside a callback is a mistake of the simulation."""
        if "handle" in context:
            raise context["exception"]
