"""The service's core on virtual time, under faults drawn from seeds; and proof that nine bugs would be seen."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.faults import KINDS
from tests.simulation.world import quiet, run

SPENT_S = 5.0
"""The long form is `python -m tests.simulation --seeds 100000`."""


PINNED = [
    ("no dedupe of retries", 0),
    ("state and history in two steps", 2),
    ("SET without a fence", 5),
    ("answer before the write", 4),
    ("a remembered state, not compared", 13),
    ("a remembered state, watched but not compared", 42),
    ("cached state, fenced by a counter", 35),
    ("delayed write, fenced by a counter", 2484),
    ("a lease instead of compare-and-set", 0),
]
"""Each bug and the first seed that catches it."""


@pytest.fixture(autouse=True)
def without_logs() -> Iterator[None]:
    with quiet():
        yield


def test_no_seed_breaks_the_contract() -> None:
    faults, began = Counter[str](), time.monotonic()
    for seed in itertools.count():
        if time.monotonic() - began > SPENT_S and faults.keys() == set(KINDS):
            break
        outcome = run(seed)
        faults += outcome.faults
        assert not outcome.violations, f"python -m tests.simulation --seed {seed}: {outcome.violations}"


@pytest.mark.parametrize(("bug", "seed"), PINNED)
def test_each_bug_is_caught(bug: str, seed: int) -> None:
    assert run(seed, BUGS[bug]).violations, f"seed {seed} no longer catches: {bug}"
    assert not run(seed).violations


def test_every_bug_has_its_seed() -> None:
    assert {bug for bug, _ in PINNED} == BUGS.keys()


def test_a_run_is_all_in_its_seed() -> None:
    for seed in range(20):
        assert run(seed) == run(seed)
