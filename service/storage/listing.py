"""A page of a list that lies in parts, one a bucket, in alphabetical order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

LEAST_CHUNK = 8

Fetch = Callable[[Sequence[tuple[bytes, bytes, int]]], Awaitable[Sequence[Sequence[bytes]]]]
"""Gives the next names of some parts: the key of each, the last name before them, and how many at most."""


@dataclass
class _Part:
    key: bytes
    last: bytes
    chunk: int
    ended: bool = False
    names: list[bytes] = field(default_factory=list)


async def page(parts: Sequence[bytes], after: bytes, most: int, fetch: Fetch) -> list[bytes]:
    """Up to `most` names behind `after`, of all parts together.

    Of each part twice its share is fetched at first; of one that has more of the page, twice as many each time. So a
    page of names that are spread evenly is one round trip and takes three times its length.
    """
    chunk = max(LEAST_CHUNK, 2 * most // len(parts))
    every = wanted = [_Part(key, after, chunk) for key in parts]
    while True:
        fetched = await fetch([(part.key, part.last, part.chunk) for part in wanted])
        for part, names in zip(wanted, fetched, strict=True):
            part.names += names
            part.ended = len(names) < part.chunk
            part.last = names[-1] if names else part.last
            part.chunk *= 2
        going_on = [part for part in every if not part.ended]
        known = sorted({name for part in every for name in part.names})
        if not going_on:
            return known[:most]
        complete_to = min(part.last for part in going_on)
        if len(known) >= most and known[most - 1] <= complete_to:
            return known[:most]
        wanted = [part for part in going_on if part.last == complete_to]
