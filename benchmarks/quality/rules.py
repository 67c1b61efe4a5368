"""What the rules of policies make of alerts: events found, false alerts and delay, before and after each rule.

    python -m benchmarks.quality.rules --data DATA [--sets nab,skab,smd] [--most 4]

Each series is scored once by the general model, its train part first; then the incidents are made anew for each policy.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality.series import Series, read_set
from gatewatch.models.artefact.files import load_artefact, model_folder
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.service.core.records import state_dtype
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.incidents.ruled import fold
from gatewatch.service.incidents.rules import NO_RULES, mark
from gatewatch.service.policies.policy import Policy, rules_of

POLICIES: Final[dict[str, dict[str, Any]]] = {
    "each run by itself": {"merge": {"readings": 1}},
    "none": {},
    "minimum 3 readings": {"minimum": {"readings": 3}},
    "minimum 10 readings": {"minimum": {"readings": 10}},
    "merge 500 readings": {"merge": {"readings": 500}},
    "gate: deviation of 10 %": {"gates": [{"relative": 0.1}]},
    "cool off 500 readings": {"cool_off": {"readings": 500}},
    "minimum 3, merge 500, deviation of 10 %": {
        "minimum": {"readings": 3},
        "merge": {"readings": 500},
        "gates": [{"relative": 0.1}],
    },
}


def main() -> None:
    """Print a table a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="nab,skab,smd")
    parser.add_argument("--most", type=int, help="series of a set")
    given = parser.parse_args()
    for name in given.sets.split(","):
        series = read_set(given.data, name, Path("."), given.most)
        scored = scored_by_general(series)
        events, weeks = sum(len(one.events) for one in series), sum(one.weeks for one in series)
        print(f"\n{name}: {len(series)} series, {events} events, {weeks:.1f} weeks\n")
        print("| policy | alerts | events found | alerts an event found | false alerts a week | delay, readings |")
        print("|---|---|---|---|---|---|")
        for title, asked in POLICIES.items():
            print(
                f"| {title} | {' | '.join(figures(series, scored, Policy.model_validate(asked), weeks))} |", flush=True
            )


def scored_by_general(series: Sequence[Series]) -> list[tuple[NDArray[Any], tuple[str, ...]]]:
    """Each series' readings as entries, and their channels; those of one number of channels are stepped together."""
    artefact = load_artefact(model_folder("general"))
    tables = [_table(one) for one in series]
    found: dict[int, NDArray[Any]] = {}
    together: dict[int, list[int]] = defaultdict(list)
    for at, (_, _, channels) in enumerate(tables):
        together[len(channels)].append(at)
    for size, places in together.items():
        stepper = Stepper(GeneralDetector(artefact, [str(at) for at in range(size)]), 32)
        longest = max(len(tables[at][0]) for at in places)
        records = stepper.fresh(len(places))
        entries = np.zeros((longest, len(places)), stepper.entry)
        for row in range(longest):
            rows = [of for of, at in enumerate(places) if row < len(tables[at][0])]
            heads = records[rows]
            times, values = (np.stack([tables[places[of]][what][row] for of in rows]) for what in (1, 0))
            entries[row, rows] = stepper.step(heads, np.full(len(rows), -1), times, values)
            records[rows] = heads
        found |= {at: entries[: len(tables[at][0]), of] for of, at in enumerate(places)}
    return [(found[at], channels) for at, (_, _, channels) in enumerate(tables)]


def _table(one: Series) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[str, ...]]:
    """(N, C) values, (N,) times in milliseconds and (C,) channels, the train part first."""
    parts = [pd.read_csv(path) for path in (one.train, one.path) if path is not None]
    channels = tuple(name for name in parts[-1].columns if name != "timestamp")
    values = np.concatenate([part[[*channels]].to_numpy(float) for part in parts])
    stamps = pd.to_datetime(parts[-1]["timestamp"])
    step_ms = max(1, round(float(stamps.diff().dt.total_seconds().median()) * 1000))
    return values, 1_600_000_000_000 + step_ms * np.arange(len(values), dtype=np.int64), channels


def figures(
    series: Sequence[Series], scored: Sequence[tuple[NDArray[Any], tuple[str, ...]]], policy: Policy, weeks: float
) -> list[str]:
    """Alerts, share of events found, alerts an event found, false alerts a week, and the median delay."""
    rules = rules_of(policy, ()) or NO_RULES
    alerts = hit = false = inside = 0
    events = sum(len(one.events) for one in series)
    delays: list[int] = []
    for one, (entries, channels) in zip(series, scored, strict=True):
        marked = entries.copy()
        heads = np.zeros(len(marked), state_dtype(np.dtype([]), len(channels)))  # moved by labels, which none has
        mark(marked, [(at, rules) for at in range(len(marked))], [channels] * len(marked), heads)
        made = fold(rules, one.name, channels, None, None, False, marked)
        first = len(entries) - one.rows
        at = np.array([n - first for n, _ in made.alerts if n - first >= one.probation], int)
        alerts += len(at)
        false += int((~one.labels()[at]).sum()) if len(at) else 0
        for begin, end in one.events:
            of_event = at[(at >= begin) & (at <= end)]
            hit += bool(len(of_event))
            inside += len(of_event)
            delays += [int(of_event[0]) - begin] if len(of_event) else []
    delay = f"{np.median(delays):.0f}" if delays else "–"
    return [str(alerts), f"{hit} of {events}", f"{inside / max(hit, 1):.2f}", f"{false / weeks:.2f}", delay]


if __name__ == "__main__":
    main()
