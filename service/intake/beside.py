"""Beside: readings that are no live ones, scored beside the batches: those of the past, and those that are only tried.

A request of them may be long, and nobody waits for it in a control room. So they go in chunks, one at a time in a
process and each request's in turn, off the event loop. Batches go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from gatewatch.service.core.outcomes import Answer, Encoder
from gatewatch.service.core.readings import Part, Readings
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.errors import ServiceError, TooManyWaiting
from gatewatch.service.intake.queue import size_of_part

CHUNK: Final = 512
"""Readings; of one stream they take some 0.3 s, and what saves them is a hundredth of that."""


class Beside:
    """Scores requests, with a bound on the readings that wait."""

    def __init__(self, most_readings: int) -> None:
        self._most = most_readings
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def score(
        self,
        scorer: Scorer,
        requests: Sequence[Readings],
        encoder: Encoder,
        most_per_stream: int,
        on_progress: Callable[[Sequence[Answer]], None] = lambda _: None,
    ) -> list[list[Answer]]:
        """The answers to readings, each stream's applied in their order; see Scorer.

        Args:
            requests: the readings of each model.
            most_per_stream: of a chunk. What is sent again finds its answer only in the history as it is behind that.
            on_progress: is given the answers of each chunk.

        Raises:
            TooManyWaiting: others' leave no room for them.
            ServiceError: what one of the streams met, or the store; what was scored before that is.
        """
        size = sum(map(len, requests))
        if self._waiting and self._waiting + size > self._most:
            raise TooManyWaiting(
                f"{self._waiting} readings of the past, or to be tried, wait; at most {self._most} may wait "
                "(GATEWATCH_WAITING_READINGS): send again after the time in Retry-After"
            )
        self._waiting += size
        try:
            return [await self._score(scorer, one, encoder, most_per_stream, on_progress) for one in requests]
        finally:
            self._waiting -= size

    async def _score(
        self,
        scorer: Scorer,
        readings: Readings,
        encoder: Encoder,
        most_per_stream: int,
        on_progress: Callable[[Sequence[Answer]], None],
    ) -> list[Answer]:
        order = readings.places_in_order()
        ordered, answers = readings.rearranged(order), list[Answer]([None] * len(order))
        start = 0
        while start < len(order):
            next_ones = ordered.streams[start : start + CHUNK]
            stop = start + size_of_part(next_ones, CHUNK, Counter(), most_per_stream)
            async with self._turn:
                scored = await scorer.score_batch([Part(ordered, start, stop, encoder)])
                scored = [await one if isinstance(one, asyncio.Future) else one for one in scored]
            for answer in scored:
                if isinstance(answer, ServiceError):
                    raise answer
            for place, answer in zip(order[start:stop], scored, strict=True):
                answers[place] = answer
            on_progress(scored)
            start = stop
        return answers
