"""Every fault at once, and the contract at the end.

    make chaos SEED=7 MINUTES=5
    python -m tests.faults.chaos --seed 7 --minutes 5 [--store cluster] [--round 3]

Rounds of three replicas each, with a Redis alone, one that Sentinels watch, or a Cluster. Senders go through proxies
that drop, cut and delay, and send some readings to two replicas at once. Meanwhile Redis is killed, hung, failed over
or moved; replicas are killed, stopped and renewed; versions of a model are swapped; keys are replaced and revoked;
clocks are set; hostile clients send mutants, dribble, and show keys that were revoked. The seed says when and to whom.

At the end of a round everything is healed. Then every reading that was acknowledged must have been applied once and in
its order (chain tags), scores and states must be those of a sequential replay, every answer must have had its shape,
and there must have been no 5xx but 503. A round with anything wrong prints its faults and the command that runs it
again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.faults.chaos.schedule import STORES, faults_of, store_of_round
from tests.faults.chaos.world import World

ROUND_S = 40.0
"""Of faults; beginning and checking take some 25 s more."""


def main() -> None:
    """Run rounds until the time is over, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=5.0, help="rounds are begun for so long")
    parser.add_argument("--store", choices=STORES, help="of every round; else each in its turn")
    parser.add_argument("--round", type=int, help="only this one")
    options = parser.parse_args()
    began, number, failed = time.monotonic(), options.round or 0, 0
    faults, answers, acknowledged = Counter[str](), Counter[str](), 0
    while True:
        store = options.store or store_of_round(options.seed, number)
        schedule = faults_of(options.seed, number, ROUND_S, store)
        with tempfile.TemporaryDirectory(prefix="gatewatch-chaos-") as scratch:
            world = World(Path(scratch), options.seed, number, replicas=3, streams=24, senders=6)
            ledger = world.ledger
            try:
                asyncio.run(world.run(store, schedule, ROUND_S))
            except Exception:
                ledger.blame(traceback.format_exc())
            errors = world.errors()
        faults, answers = faults + ledger.faults, answers + ledger.answers
        acknowledged += ledger.acknowledged
        print(
            f"round {number}, {store}: {ledger.faults.total()} faults, {ledger.sent} requests, "
            f"{ledger.acknowledged} readings acknowledged, {len(ledger.wrong)} wrong",
            flush=True,
        )
        if ledger.wrong:
            failed += 1
            print(*ledger.wrong[:20], *errors, sep="\n")
            print("faults as they happened:", *world.performed, sep="\n  ")
            again = f"python -m tests.faults.chaos --seed {options.seed} --round {number} --store {store}"
            print(f"to run it again: {again}", flush=True)
        number += 1
        if options.round is not None or time.monotonic() - began > 60 * options.minutes:
            break
    print(f"faults {dict(sorted(faults.items()))}")
    print(f"answers {dict(sorted(answers.items()))}")
    print(f"{acknowledged} readings acknowledged; rounds with anything wrong: {failed}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
