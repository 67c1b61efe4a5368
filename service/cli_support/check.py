"""Check: what one look of `gatewatch doctor` came to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Check:
    """What one look came to: in plain words, with what to do where something is to be done."""

    about: str
    verdict: Verdict
    words: str


Checks = Iterator[Check]
