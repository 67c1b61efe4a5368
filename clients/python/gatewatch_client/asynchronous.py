"""AsyncClient: the client for asyncio; what it does is what Client does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx2

from .client import EVENTS_TIMEOUT, parts, retry_after_s
from .delivery import Get, Post, Reply, Wait
from .errors import ClientError, QueueFull, Refused, Unavailable
from .incidents import EVENTS, Incident, IncidentFeed
from .outbox import Delivered
from .readings import Reading, Result, Values
from .settings import ANSWER_TIMEOUT_S, REFUSED_WAIT_S, ClientSettings, log


class AsyncClient:
    """Sends readings to one service, each applied exactly once however often the way is interrupted.

    async with AsyncClient("http://127.0.0.1:8000") as gatewatch:
        await gatewatch.send("pump-7", {"pressure": 3.1, "flow": 120.0})
    """

    def __init__(self, url: str, **settings: Any) -> None:
        """Make a client; it begins to send when it is entered. `settings` are those of ClientSettings.

        Raises:
            ClientError: the spool cannot be used.
        """
        self._settings = ClientSettings(**settings)
        self._outbox = self._settings.outbox()
        self._http = httpx2.AsyncClient(
            base_url=url, headers=self._settings.headers, timeout=ANSWER_TIMEOUT_S, trust_env=False
        )
        self._change = asyncio.Condition()
        self._results: dict[int, Result | None] = {}  # of readings that somebody waits for
        self._trouble: ClientError | None = None  # why nothing is acknowledged at present
        self._urgent = 0  # who wait for their results
        self._closing = False
        self._closed = asyncio.Event()  # for who listens for incidents
        self._task: asyncio.Task[None] | None = None

    async def send(
        self, stream: str, values: Values, timestamp: datetime | float | None = None, seq: int | None = None
    ) -> None:
        """Take a reading to be sent; see Client.send."""
        await self.send_many([Reading.of(stream, values, timestamp, seq)])

    async def send_many(self, readings: Iterable[Reading]) -> None:
        """Take readings to be sent, as `send` does."""
        for part in parts(readings, self._settings.batch_readings):
            async with self._change:
                await self._change.wait_for(self._has_room)
                self._put(part)

    async def try_send(self, readings: Sequence[Reading]) -> None:
        """Take readings to be sent, all or none, without waiting. Raises QueueFull."""
        async with self._change:
            if not self._has_room():
                raise QueueFull(f"{len(self._outbox.queue)} readings wait to be sent")
            self._put(readings)

    async def post(self, readings: Iterable[Reading], timeout_s: float = 60.0) -> list[Result]:
        """Send readings, behind those that wait, and wait for their results; see Client.post."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        numbers: list[int] = []
        async with self._change:
            self._urgent += 1
            try:
                for part in parts(readings, self._settings.batch_readings):
                    await self._await(self._has_room, deadline)
                    taken = self._put(part)
                    self._results.update(dict.fromkeys(taken))
                    numbers += taken
                await self._await(lambda: all(self._results[number] is not None for number in numbers), deadline)
                return [result for number in numbers if (result := self._results[number]) is not None]
            finally:
                self._urgent -= 1
                for number in numbers:
                    self._results.pop(number, None)

    async def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until everything is acknowledged. Raises Unavailable or Refused when it was not in time."""
        async with self._change:
            self._urgent += 1
            self._change.notify_all()
            try:
                await self._await(lambda: not len(self._outbox.queue), asyncio.get_running_loop().time() + timeout_s)
            finally:
                self._urgent -= 1

    async def incidents(self, since: datetime | float | None = None) -> AsyncGenerator[Incident]:
        """Each change of an incident, as it comes, until the client is closed; see Client.incidents."""
        feed = IncidentFeed(since)
        while not self._closing:
            try:
                async with self._http.stream("GET", EVENTS, headers=feed.headers(), timeout=EVENTS_TIMEOUT) as found:
                    if found.status_code == 200:
                        feed.opened(found.headers)
                        async with contextlib.aclosing(self._lines(found)) as lines:
                            async for line in lines:
                                if (incident := feed.take(line)) is not None:
                                    yield incident
                        pause_s = feed.next_wait_s()
                    else:
                        retry_after = retry_after_s(found.headers.get("retry-after"))
                        pause_s = feed.pause_s(found.status_code, await found.aread(), retry_after)
            except (httpx2.HTTPError, RuntimeError) as error:  # RuntimeError: closed meanwhile
                pause_s = feed.next_wait_s()
                if not self._closing:
                    log.info("the incidents are asked for again in %.1f s: %s", pause_s, error or type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), pause_s)

    async def _lines(self, found: httpx2.Response) -> AsyncGenerator[str]:
        """The lines of an answer, until it ends or the client is closed."""
        lines = found.aiter_lines()
        closed = asyncio.create_task(self._closed.wait())
        tasks: tuple[asyncio.Future[Any], ...] = (closed,)
        try:
            while True:
                line = asyncio.ensure_future(anext(lines, None))
                tasks = line, closed
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if not line.done() or (text := line.result()) is None:
                    return
                yield text
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """How many readings are not acknowledged yet."""
        return len(self._outbox.queue)

    async def close(self, timeout_s: float = 10.0) -> None:
        """Send what waits, then end; see Client.close."""
        with contextlib.suppress(Unavailable, Refused):
            await self.flush(timeout_s)
        async with self._change:
            self._closing = True
            self._closed.set()
            self._change.notify_all()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._http.aclose()
        left = len(self._outbox.queue)
        self._outbox.queue.close()
        if left and self._settings.spool is None:
            raise Unavailable(f"{left} readings were not acknowledged and are lost: {self._trouble or 'no time left'}")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work(), name="gatewatch client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _has_room(self) -> bool:
        return self._closing or len(self._outbox.queue) < self._settings.waiting_readings

    def _is_full(self) -> bool:
        return len(self._outbox.queue) >= self._settings.batch_readings

    def _put(self, readings: Sequence[Reading]) -> list[int]:
        if self._closing or self._task is None:
            raise ClientError("the client is not open; expected `async with AsyncClient(...)`")
        numbers = self._outbox.queue.put(readings)
        self._change.notify_all()
        return numbers

    async def _await(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait for a condition; Refused where the service refuses, Unavailable after the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._change.wait_for(lambda: condition() or isinstance(self._trouble, Refused))
        if not condition():
            raise self._trouble or Unavailable(f"{len(self._outbox.queue)} readings were not acknowledged in time")

    async def _work(self) -> None:
        """One batch after the other, until the client is closed."""
        while True:
            async with self._change:
                await self._change.wait_for(lambda: bool(len(self._outbox.queue)))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.linger_s):
                        await self._change.wait_for(lambda: bool(self._urgent) or self._is_full())
            try:
                delivered = await self._deliver()
            except ClientError as error:
                log.warning("%s; the readings wait", error)
                await self._note(error)
                await asyncio.sleep(REFUSED_WAIT_S)
                continue
            async with self._change:
                self._trouble = None
                for one in delivered:
                    if one.number in self._results:
                        self._results[one.number] = one.result
                self._change.notify_all()
            for one in delivered:
                self._settings.tell(one.reading, one.result)

    async def _deliver(self) -> list[Delivered]:
        """One batch."""
        steps, reply = self._outbox.deliver_batch(), None
        while True:
            try:
                action = steps.send(reply)
            except StopIteration as end:
                delivered: list[Delivered] = end.value
                return delivered
            reply = None
            if isinstance(action, Wait):
                await self._note(Unavailable(action.why))
                await asyncio.sleep(action.seconds)
            else:
                reply = await self._ask(action)

    async def _note(self, trouble: ClientError) -> None:
        async with self._change:
            self._trouble = trouble
            self._change.notify_all()

    async def _ask(self, action: Post | Get) -> Reply:
        try:
            if isinstance(action, Get):
                found = await self._http.get(action.path)
            else:
                found = await self._http.post("/v1/readings", content=action.body)
        except httpx2.HTTPError as error:
            return Reply(0, str(error).encode() or type(error).__name__.encode())
        return Reply(found.status_code, found.content, retry_after_s(found.headers.get("retry-after")))
