"""Outbox: the readings that wait to be acknowledged, in the order in which they were given, and their numbers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from .delivery import Action, Reply, deliver, last_seq
from .readings import Reading, Result

OF_A_STREAM = 100
"""Most readings of one stream in a request: fewer than the service answers repeats of (128)."""


class Queue(Protocol):
    """Readings in order, each under a number of the queue's own. In memory, or in a spool on disk."""

    def put(self, readings: Sequence[Reading]) -> list[int]:
        """Take readings in, all or none; their numbers. Raises QueueFull when there is no place for them."""

    def first(self, count: int) -> list[tuple[int, Reading]]:
        """The oldest readings, which stay."""

    def next_seq(self, stream: str) -> int | None:
        """The number that the next reading of a stream gets; None if it is not known yet."""

    def number(self, numbered: Sequence[tuple[int, Reading]], next_seqs: dict[str, int]) -> None:
        """Keep the numbers that readings were given, and those that come next, before anything is sent."""

    def done(self, number: int) -> None:
        """Forget the readings up to this one: they are acknowledged."""

    def close(self) -> None:
        """Let go of what is open."""

    def __len__(self) -> int: ...


class MemoryQueue:
    """Readings that end with the process."""

    def __init__(self) -> None:
        self._readings: deque[tuple[int, Reading]] = deque()
        self._next_seqs: dict[str, int] = {}
        self._count = 0

    def put(self, readings: Sequence[Reading]) -> list[int]:
        """See Queue."""
        numbers = list(range(self._count, self._count + len(readings)))
        self._readings.extend(zip(numbers, readings, strict=True))
        self._count += len(readings)
        return numbers

    def first(self, count: int) -> list[tuple[int, Reading]]:
        """See Queue."""
        return list(islice(self._readings, count))

    def next_seq(self, stream: str) -> int | None:
        """See Queue."""
        return self._next_seqs.get(stream)

    def number(self, numbered: Sequence[tuple[int, Reading]], next_seqs: dict[str, int]) -> None:
        """See Queue."""
        for at, one in enumerate(numbered):
            self._readings[at] = one
        self._next_seqs |= next_seqs

    def done(self, number: int) -> None:
        """See Queue."""
        while self._readings and self._readings[0][0] <= number:
            self._readings.popleft()

    def close(self) -> None:
        """See Queue."""

    def __len__(self) -> int:
        return len(self._readings)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A reading that was acknowledged: its number in the queue, itself, and its result."""

    number: int
    reading: Reading
    result: Result


class Outbox:
    """Has what waits in a queue acknowledged, one batch after the other."""

    def __init__(self, queue: Queue, batch_readings: int, numbered: bool) -> None:
        """Take from `queue` at most `batch_readings` at a time.

        Args:
            numbered: readings without a `seq` get one, which goes on where the stream stands.
        """
        self.queue = queue
        self._batch_readings = batch_readings
        self._numbered = numbered

    def deliver_batch(self) -> Generator[Action, Reply | None, list[Delivered]]:
        """Have the next batch acknowledged. Raises Refused, and the readings stay."""
        batch = _bounded(self.queue.first(self._batch_readings))
        if self._numbered and any(reading.seq is None for _, reading in batch):
            batch = yield from self._number(batch)
        results = yield from deliver([reading for _, reading in batch])
        if batch:
            self.queue.done(batch[-1][0])
        return [Delivered(number, reading, result) for (number, reading), result in zip(batch, results, strict=True)]

    def _number(
        self, batch: Sequence[tuple[int, Reading]]
    ) -> Generator[Action, Reply | None, list[tuple[int, Reading]]]:
        next_seqs: dict[str, int] = {}
        numbered: list[tuple[int, Reading]] = []
        for number, reading in batch:
            stream, seq = reading.stream, reading.seq
            if seq is None:
                known = next_seqs[stream] if stream in next_seqs else self.queue.next_seq(stream)
                if known is None:
                    last = yield from last_seq(stream)
                    known = 0 if last is None else last + 1
                seq = known
            next_seqs[stream] = seq + 1
            numbered.append((number, replace(reading, seq=seq)))
        self.queue.number(numbered, next_seqs)
        return numbered


def _bounded(readings: Iterable[tuple[int, Reading]]) -> list[tuple[int, Reading]]:
    """The first of them, up to the one that would be one too many of its stream."""
    batch: list[tuple[int, Reading]] = []
    counts: Counter[str] = Counter()
    for number, reading in readings:
        counts[reading.stream] += 1
        if counts[reading.stream] > OF_A_STREAM:
            break
        batch.append((number, reading))
    return batch
