"""Many runs, and a table of what became of them.

python -m tests.simulation --seeds 100000 --jobs 2      the service as it is
python -m tests.simulation --seeds 2000 --bugs          each of the seeded bugs: how many seeds catch it
python -m tests.simulation --seed 140                   one run again, with all that is wrong
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.bugs import BUGS
from tests.simulation.world import CORRECT, Outcome, quiet, run

CHUNK = 100


def _runs(bug: str, first: int, seeds: int) -> list[Outcome]:
    with quiet():
        return [run(seed, BUGS.get(bug, CORRECT)) for seed in range(first, first + seeds)]


def _all_runs(bug: str, first: int, seeds: int, jobs: int) -> Iterator[Outcome]:
    starts = range(first, first + seeds, CHUNK)
    sizes = [min(CHUNK, first + seeds - start) for start in starts]
    with ProcessPoolExecutor(jobs) as pool:
        for outcomes in pool.map(_runs, [bug] * len(starts), starts, sizes):
            yield from outcomes


def _report(bug: str, first: int, seeds: int, jobs: int) -> int:
    """Run seeds and print what came of them; returns how many have violations."""
    began, faults, readings, requests, caught = time.perf_counter(), Counter[str](), 0, 0, 0
    for outcome in _all_runs(bug, first, seeds, jobs):
        faults += outcome.faults
        readings += outcome.readings
        requests += outcome.requests
        if outcome.violations:
            caught += 1
            if not bug and caught <= 20:
                print(f"seed {outcome.seed}: {outcome.violations[0]}", flush=True)
            if bug and caught == 1:
                print(f"{bug}: first at seed {outcome.seed}", end="", flush=True)
    spent = time.perf_counter() - began
    if bug:
        print(f", {caught} of {seeds} seeds ({caught / seeds:.2%})", flush=True)
        return caught
    print(f"{seeds} seeds from {first}, {seeds / spent:.0f} a second with {jobs} processes")
    print(f"{readings} readings in {requests} requests, {faults.total()} faults")
    for fault, count in faults.most_common():
        print(f"{count:>9} {fault}")
    print(f"{caught} seeds with violations")
    return caught


def main() -> int:
    """Parse the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--bugs", action="store_true", help="run the seeded bugs instead of the service")
    parser.add_argument("--bug", default="", choices=["", *BUGS], help="with --seed: one of the seeded bugs")
    parser.add_argument("--seed", type=int, help="run this one seed only")
    given = parser.parse_args()
    if given.seed is not None:
        (outcome,) = _runs(given.bug, given.seed, 1)
        print(f"seed {given.seed}: {dict(outcome.faults)}, ending {outcome.ending}", *outcome.violations, sep="\n")
        return bool(outcome.violations)
    if given.bugs:
        caught = [_report(bug, given.first, given.seeds, given.jobs) for bug in BUGS]
        return not all(caught)
    return bool(_report("", given.first, given.seeds, given.jobs))


if __name__ == "__main__":
    sys.exit(main())
