"""Names alike: channels of a stream that differ in case, spaces or Unicode form alone: mostly one channel, twice.

Both are taken as they are sent; whoever looks at the stream, or at the log, is told.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from functools import lru_cache
from typing import Final

LISTS_KEPT: Final = 4096


def folded(name: str) -> str:
    """What is left of a name without case, spaces and Unicode form."""
    return "".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


@lru_cache(LISTS_KEPT)
def names_alike(channels: tuple[str, ...]) -> list[list[str]]:
    """Of the names those that are alike, in groups of two and more; in their order."""
    groups: dict[str, list[str]] = {}
    for name in channels:
        groups.setdefault(folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def joined_alike(channels: tuple[str, ...], before: Collection[str]) -> list[tuple[str, str]]:
    """Each channel that was not there before and is like one in front of it, and that one."""
    return [
        (name, group[at - 1])
        for group in names_alike(channels)
        for at, name in enumerate(group)
        if at and name not in before
    ]
