"""What goes wrong in one run, drawn from its seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field

TIMEOUT_S = 0.25
LATEST_S = 2.0
"""How long after its time-out a command may still arrive, or arrive again."""

KINDS = (
    "request lost",
    "reply lost",
    "slow",
    "late",
    "twice",
    "pause",
    "server crash",
    "server crash after",
    "worker crash",
    "worker crash after",
    "post lost",
    "answer lost",
    "post slow",
)
"""Of commands: not arrived, not answered, delayed, arrived after its time-out, arrived twice; paused before a write;
server or worker gone before or after a command. Of requests to a worker: the last three."""


@dataclass
class Faults:
    """What goes wrong in one run: at most `left` things, each command and request with the same chance.

    Each run has some kinds of faults only: what takes three of one kind is then not drowned by the others.
    """

    rng: random.Random
    kinds: frozenset[str]
    rate: float
    left: int
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, rng: random.Random, always: Set[str]) -> Faults:
        """Few or many, of some kinds or of all, and of these in any case."""
        share = rng.choice((0.1, 0.3, 0.6, 1.0))
        kinds = frozenset(kind for kind in KINDS if rng.random() < share or kind in always)
        return cls(rng, kinds, rng.choice((0.05, 0.15, 0.3)), rng.randint(0, 20))

    def strike(self, *kinds: str) -> str:
        """One of these faults, or "" if nothing goes wrong."""
        if not self.left or self.rng.random() >= self.rate:
            return ""
        possible = [kind for kind in kinds if kind in self.kinds]
        if not possible:
            return ""
        kind = self.rng.choice(possible)
        self.left -= 1
        self.counts[kind] += 1
        return kind

    def long(self) -> float:
        """Seconds from a few commands' time to LATEST_S, long ones as often as short ones."""
        return float(LATEST_S * 0.01 ** self.rng.random())
