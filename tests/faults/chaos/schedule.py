"""What happens in a round, drawn from a seed: the same seed and round give the same faults at the same seconds."""

from __future__ import annotations

import random
from typing import Final, NamedTuple

STORES: Final = ("single", "sentinel", "cluster")

OF_STORE: Final = {
    "single": ("kill", "hang", "cut"),
    "sentinel": ("failover", "hang"),
    "cluster": ("move", "move", "node", "hang"),
}

HANDS: Final = {
    "replica": (("kill", "terminate", "stop", "renew"), 5.0, 10.0),
    "model": (("promote", "promote past the service", "roll back"), 3.0, 6.0),
    "key": (("rotate",), 5.0, 9.0),
    "clock": (("step",), 2.0, 5.0),
    "hostile": (("mutants", "mutants", "dribble", "old keys"), 1.0, 3.0),
}
"""What each hand does, and the fewest and most seconds between two of its faults."""


class Fault(NamedTuple):
    """One fault: when, in seconds of the round; whose; what; and a number from 0 to 1 that says to whom."""

    at_s: float
    hand: str
    what: str
    pick: float

    def __str__(self) -> str:
        return f"{self.at_s:6.2f} s  {self.hand:8s} {self.what} ({self.pick:.3f})"


def store_of_round(seed: int, number: int) -> str:
    """Each kind of Redis comes in its turn."""
    return STORES[(seed + number) % len(STORES)]


def faults_of(seed: int, number: int, seconds: float, store: str) -> list[Fault]:
    """The faults of a round, in order of time."""
    found = []
    for hand, (kinds, least_s, most_s) in {"store": (OF_STORE[store], 3.0, 6.0), **HANDS}.items():
        rng = random.Random(f"{seed} {number} {hand}")
        at_s = rng.uniform(0.5, least_s)
        while at_s < seconds:
            found.append(Fault(at_s, hand, rng.choice(kinds), rng.random()))
            at_s += rng.uniform(least_s, most_s)
    return sorted(found)
