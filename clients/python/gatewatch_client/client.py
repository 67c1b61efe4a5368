"""Client: sends readings from any thread; a thread of its own posts them in batches."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self

import httpx2

from .delivery import Get, Post, Reply, Wait
from .errors import ClientError, QueueFull, Refused, Unavailable
from .incidents import EVENTS, SILENCE_S, Incident, IncidentFeed
from .outbox import Delivered
from .readings import Reading, Result, Values
from .settings import ANSWER_TIMEOUT_S, REFUSED_WAIT_S, ClientSettings, log

EVENTS_TIMEOUT = httpx2.Timeout(ANSWER_TIMEOUT_S, read=SILENCE_S)


class Client:
    """Sends readings to one service, each applied exactly once however often the way is interrupted.

    with Client("http://127.0.0.1:8000", spool="readings.spool") as gatewatch:
        gatewatch.send("pump-7", {"pressure": 3.1, "flow": 120.0})
    """

    def __init__(self, url: str, **settings: Any) -> None:
        """Begin to send what the spool holds; `settings` are those of ClientSettings.

        Raises:
            ClientError: the spool cannot be used.
        """
        self._settings = ClientSettings(**settings)
        self._outbox = self._settings.outbox()
        self._http = httpx2.Client(
            base_url=url, headers=self._settings.headers, timeout=ANSWER_TIMEOUT_S, trust_env=False
        )
        self._change = threading.Condition()  # of everything below, and of the queue
        self._results: dict[int, Result | None] = {}  # of readings that somebody waits for
        self._trouble: ClientError | None = None  # why nothing is acknowledged at present
        self._urgent = 0  # who wait for their results
        self._closing = False
        self._connections: set[socket.socket] = set()  # on which somebody listens for incidents
        self._thread = threading.Thread(target=self._work, name="gatewatch client", daemon=True)
        self._thread.start()

    def send(
        self, stream: str, values: Values, timestamp: datetime | float | None = None, seq: int | None = None
    ) -> None:
        """Take a reading to be sent; returns at once, or when there is room for it.

        Raises:
            ValueError, TypeError: what was given is no reading.
            SpoolFailed: the disk is full.
        """
        self.send_many([Reading.of(stream, values, timestamp, seq)])

    def send_many(self, readings: Iterable[Reading]) -> None:
        """Take readings to be sent, as `send` does."""
        for part in parts(readings, self._settings.batch_readings):
            with self._change:
                self._change.wait_for(self._has_room)
                self._put(part)

    def try_send(self, readings: Sequence[Reading]) -> None:
        """Take readings to be sent, all or none, without waiting. Raises QueueFull."""
        with self._change:
            if not self._has_room():
                raise QueueFull(f"{len(self._outbox.queue)} readings wait to be sent")
            self._put(readings)

    def post(self, readings: Iterable[Reading], timeout_s: float = 60.0) -> list[Result]:
        """Send readings, behind those that wait, and wait for their results, in the order given.

        Raises:
            Unavailable, Refused: they were not acknowledged. They stay and are sent later, so do not post them again.
        """
        deadline = time.monotonic() + timeout_s
        numbers: list[int] = []
        with self._change:
            self._urgent += 1
            try:
                for part in parts(readings, self._settings.batch_readings):
                    self._await(self._has_room, deadline)
                    taken = self._put(part)
                    self._results.update(dict.fromkeys(taken))
                    numbers += taken
                self._await(lambda: all(self._results[number] is not None for number in numbers), deadline)
                return [result for number in numbers if (result := self._results[number]) is not None]
            finally:
                self._urgent -= 1
                for number in numbers:
                    self._results.pop(number, None)

    def flush(self, timeout_s: float = 60.0) -> None:
        """Wait until everything is acknowledged. Raises Unavailable or Refused when it was not in time."""
        with self._change:
            self._urgent += 1
            self._change.notify_all()
            try:
                self._await(lambda: not len(self._outbox.queue), time.monotonic() + timeout_s)
            finally:
                self._urgent -= 1

    def incidents(self, since: datetime | float | None = None) -> Generator[Incident]:
        """Each change of an incident, as it comes, until the client is closed; each change once.

        Where the connection ends or the service is away, it goes on later where it was. Of a break, the last 1,000
        changes are told.

        Args:
            since: begin with what changed since then, Unix seconds or a time with a zone; else with what comes.

        Raises:
            Refused: the service does not let this client listen, or is none.
        """
        feed = IncidentFeed(since)
        while not self._closing:
            try:
                with self._http.stream("GET", EVENTS, headers=feed.headers(), timeout=EVENTS_TIMEOUT) as found:
                    if found.status_code == 200:
                        feed.opened(found.headers)
                        with self._listening_on(found):
                            for line in found.iter_lines():
                                if (incident := feed.take(line)) is not None:
                                    yield incident
                        pause_s = feed.next_wait_s()
                    else:
                        retry_after = retry_after_s(found.headers.get("retry-after"))
                        pause_s = feed.pause_s(found.status_code, found.read(), retry_after)
            except (httpx2.HTTPError, RuntimeError) as error:  # RuntimeError: closed meanwhile
                pause_s = feed.next_wait_s()
                if not self._closing:
                    log.info("the incidents are asked for again in %.1f s: %s", pause_s, error or type(error).__name__)
            self._pause(pause_s)

    @contextlib.contextmanager
    def _listening_on(self, found: httpx2.Response) -> Iterator[None]:
        """Have `close` end this connection, on which nothing may come for long."""
        connection = found.extensions["network_stream"].get_extra_info("socket")
        with self._change:
            self._connections.add(connection)
            if self._closing:
                _end(connection)
        try:
            yield
        finally:
            with self._change:
                self._connections.discard(connection)

    @property
    def waiting(self) -> int:
        """How many readings are not acknowledged yet."""
        with self._change:
            return len(self._outbox.queue)

    def close(self, timeout_s: float = 10.0) -> None:
        """Send what waits, then end. With a spool the rest is sent by the next client that opens it.

        Raises:
            Unavailable: there is no spool, and readings were not acknowledged in time: they are lost.
        """
        with contextlib.suppress(Unavailable, Refused):
            self.flush(timeout_s)
        with self._change:
            self._closing = True
            self._change.notify_all()
            for connection in self._connections:
                _end(connection)
        self._thread.join(1.0)  # or it hangs in a request, and ends with the process
        self._http.close()
        with self._change:
            left = len(self._outbox.queue)
            self._outbox.queue.close()
        if left and self._settings.spool is None:
            raise Unavailable(f"{left} readings were not acknowledged and are lost: {self._trouble or 'no time left'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _has_room(self) -> bool:
        return self._closing or len(self._outbox.queue) < self._settings.waiting_readings

    def _is_full(self) -> bool:
        return len(self._outbox.queue) >= self._settings.batch_readings

    def _put(self, readings: Sequence[Reading]) -> list[int]:
        if self._closing:
            raise ClientError("the client is closed")
        before = len(self._outbox.queue)
        numbers = self._outbox.queue.put(readings)
        if before == 0 or self._urgent or before < self._settings.batch_readings <= before + len(numbers):
            self._change.notify_all()  # not with each reading: to wake the thread costs more than to take it
        return numbers

    def _await(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait for a condition; Refused where the service refuses, Unavailable after the deadline."""

        def settled() -> bool:
            return condition() or isinstance(self._trouble, Refused)

        self._change.wait_for(settled, max(0.0, deadline - time.monotonic()))
        if condition():
            return
        raise self._trouble or Unavailable(f"{len(self._outbox.queue)} readings were not acknowledged in time")

    def _work(self) -> None:
        """The thread: one batch after the other, until the client is closed."""
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closing or len(self._outbox.queue))
                if not self._closing and not self._urgent:
                    self._change.wait_for(
                        lambda: self._closing or self._urgent or self._is_full(),
                        self._settings.linger_s,
                    )
                if self._closing:
                    return
            try:
                delivered = self._deliver()
            except ClientError as error:
                log.warning("%s; the readings wait", error)
                self._note(error)
                self._pause(REFUSED_WAIT_S)
                continue
            if delivered is None:
                return
            with self._change:
                self._trouble = None
                for one in delivered:
                    if one.number in self._results:
                        self._results[one.number] = one.result
                self._change.notify_all()
            for one in delivered:
                self._settings.tell(one.reading, one.result)

    def _deliver(self) -> list[Delivered] | None:
        """One batch; None if the client was closed meanwhile."""
        steps, reply = self._outbox.deliver_batch(), None
        while True:
            try:
                with self._change:  # the queue is looked at between two requests
                    action = steps.send(reply)
            except StopIteration as end:
                delivered: list[Delivered] = end.value
                return delivered
            reply = None
            if isinstance(action, Wait):
                self._note(Unavailable(action.why))
                self._pause(action.seconds)
            else:
                reply = self._ask(action)
            if self._closing:
                return None

    def _note(self, trouble: ClientError) -> None:
        with self._change:
            self._trouble = trouble
            self._change.notify_all()

    def _pause(self, seconds: float) -> None:
        with self._change:
            self._change.wait_for(lambda: self._closing, seconds)

    def _ask(self, action: Post | Get) -> Reply:
        try:
            if isinstance(action, Get):
                found = self._http.get(action.path)
            else:
                found = self._http.post("/v1/readings", content=action.body)
        except (httpx2.HTTPError, RuntimeError) as error:  # RuntimeError: closed meanwhile
            return Reply(0, str(error).encode() or type(error).__name__.encode())
        return Reply(found.status_code, found.content, retry_after_s(found.headers.get("retry-after")))


def retry_after_s(header: str | None) -> float | None:
    """Seconds of a Retry-After header; None where it is absent or a date."""
    try:
        return None if header is None else min(max(0.0, float(header)), 60.0)
    except ValueError:
        return None


def parts(readings: Iterable[Reading], size: int) -> Iterator[list[Reading]]:
    """Readings in lists of at most `size`."""
    rest = iter(readings)
    while part := list(islice(rest, size)):
        yield part


def _end(connection: socket.socket) -> None:
    """Wake who reads from it: there is nothing more."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
