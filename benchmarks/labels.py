"""What people say, and what comes of it: labels, and the loop that holds a budget, over simulated weeks.

    python -m benchmarks.labels [--seed 1] [--only labels,loop] [--choose]

Streams are stepped, judged, marked and folded into incidents as the service does it, one reading every five minutes,
with the general model; no Redis and no HTTP.

labels: 50 streams of two channels. From the second week on each has a false alarm of its own: a pulse on its first
channel every two to four days, never of quite the same size. The first one that is told is labelled when it has ended;
then come eight weeks with the pulse as before and one real fault in each stream. The same without the label, and with
a label on each pulse that is told again.

loop: the 200 streams of benchmarks.budget over eight weeks, two alerts a week allowed; with their model as it is, and
with one that is too quiet and one that is too loud for them (a sensitivity of 0.75 and of 1.4), without and with
`hold_budget`. The first week, in which a stream counts what is rare, is left out. `--choose` tries constants of the
loop on every second stream; without it the others are told of by themselves, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.budget import INTERVAL_S, KINDS_USED, SEED, WEEK_READINGS
from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors import budget_loop
from gatewatch.models.detectors.asked import nothing_asked
from gatewatch.models.detectors.detector import ANOMALOUS, REASONS
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.training.general.synthetic import KINDS, generate
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.records import REASON_BITS, STATUS_BITS
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.incidents.ruled import Fold, fold
from gatewatch.service.incidents.rules import Rules, mark
from gatewatch.service.policies.quiet import quiet_of, strange_at_peak, strange_in

BUDGET = 2.0

LABEL_STREAMS, LABEL_WEEKS = 50, 8
CHANNELS = ("usual", "other")
PULSE_READINGS, PULSE_JITTER = 6, 0.2
FAULTS = ("larger", "downwards", "other channel", "level", "drift", "frozen")
FAULT_READINGS = 48

LOOP_STREAMS, LOOP_WEEKS = 200, 8
SENSITIVITIES = (0.75, 1.0, 1.4)
GAINS = (0.02, 0.05, 0.1)
SLOTS: Final = 32

Floats = NDArray[np.float64]


@dataclass
class Streams:
    """N streams of C channels.

    Attributes:
        values: (N, T, C).
        times_ms: (N, T).
        pulses: of each stream the first readings of its pulses, and each one's height in noises.
        faults: of each stream its fault: kind, first reading, and the one after its last.
    """

    values: Floats
    times_ms: NDArray[np.int64]
    pulses: list[list[tuple[int, float]]]
    faults: list[tuple[str, int, int]]


class Watch:
    """Streams under watch: their records, and their incidents by the rules that they have."""

    def __init__(self, streams: int, channels: Sequence[str], budget: float) -> None:
        detector = load_detector(model_folder("general"), channels, budget)
        self.stepper = Stepper(detector, SLOTS)
        self.records = self.stepper.fresh(streams)
        self.asked = nothing_asked(streams, len(channels))
        self.rules = [Rules() for _ in range(streams)]
        self.names = [tuple(channels)] * streams
        self.latest: list[Fold | None] = [None] * streams
        self._no_seq = np.full(streams, -1, np.int64)

    def take(self, values: Floats, times_ms: NDArray[np.int64]) -> Entries:
        """Feed each stream a reading."""
        entries = self.stepper.step(self.records, self._no_seq, times_ms, values, asked=self.asked)
        anomalous = np.flatnonzero((entries["status"] & STATUS_BITS) == ANOMALOUS).tolist()
        mark(entries, [(row, self.rules[row]) for row in anomalous], self.names)
        self.stepper.settle(self.records, entries, self.asked, entries["reason"])
        return entries

    def incidents(self, entries: Entries, was_open: NDArray[np.bool_]) -> Iterator[tuple[int, Incident]]:
        """Rows whose incidents changed with these entries, and those."""
        concerned = ((entries["status"] & (state.ALERT | state.OPEN)) != 0) | was_open
        for row in np.flatnonzero(concerned).tolist():
            last = self.latest[row]
            before = (None, None) if last is None else (last.incident, last.pending)
            made = fold(
                self.rules[row], str(row), self.names[row], *before, bool(was_open[row]), entries[row : row + 1]
            )
            self.latest[row] = made
            for incident in made.changed.values():
                yield row, incident


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="labels,loop")
    parser.add_argument("--choose", action="store_true", help="try constants of the loop on every second stream")
    options = parser.parse_args()
    console = Console(width=200)
    if options.choose:
        console.print(chosen(options.seed))
        return
    if "labels" in options.only:
        console.print(labels(options.seed))
    if "loop" in options.only:
        console.print(*loop(options.seed))


# Labels


def labels(seed: int) -> Table:
    """What a label does to pulses and faults."""
    streams = drawn(seed)
    table = Table(title=f"{LABEL_STREAMS} streams, seed {seed}: {LABEL_WEEKS} weeks after the label")
    for column in ("", "labelled", "pulses since", "told again", "of streams", "other incidents", "faults missed"):
        table.add_column(column, justify="right")
    found = followed(streams)
    for name, told in zip(("without", "labelled once", "labelled each time"), found, strict=True):
        table.add_row(name, *summed(streams, told))
    missed = [missed_faults(streams, told) for told in found]
    more, fewer = ([streams.faults[row][0] for row in sorted(a - b)] for a, b in (missed[1::-1], missed[:2]))
    table.caption = (
        f"missed only with one label: {', '.join(more) or 'none'}; only without: {', '.join(fewer) or 'none'}"
    )
    return table


@dataclass
class Told:
    """What was told of a stream.

    Attributes:
        first: the reading after which the first pulse that was told had ended; None without one.
        begun: readings with which incidents began.
        counted: readings that count.
    """

    first: int | None
    begun: set[int]
    counted: set[int]


def followed(streams: Streams) -> list[list[Told]]:
    """What is told of the streams without a label, with one on the first pulse that is told, and with one on each."""
    count, rows, _ = streams.values.shape
    watch, told = Watch(3 * count, CHANNELS, BUDGET), [Told(None, set(), set()) for _ in range(3 * count)]
    shown: list[list[tuple[Floats, Any]]] = [[] for _ in told]
    was_open = np.zeros(3 * count, bool)
    for now in range(rows):
        values, times_ms = np.tile(streams.values[:, now], (3, 1)), np.tile(streams.times_ms[:, now], 3)
        entries = watch.take(values, times_ms)
        for row, incident in watch.incidents(entries, was_open):
            one, pulses = told[row], streams.pulses[row % count]
            if incident.last_n == now:
                one.counted.add(now)
                shown[row].append((values[row], entries[row].copy()))
            if incident.n == now:
                one.begun.add(now)
            if incident.is_open:
                continue
            wanted = one.first is None or row >= 2 * count
            if wanted and incident.n >= WEEK_READINGS and in_pulse(pulses, incident):
                one.first = one.first or now
                if row >= count:
                    its_own = [each for each in shown[row] if incident.n <= int(each[1]["n"]) <= incident.last_n]
                    like = tuple(each.allowance for each in likeness(incident, its_own))
                    watch.rules[row] = Rules(quiet=(*watch.rules[row].quiet, *like))
            shown[row].clear()
        was_open = watch.stepper.detector.is_open(watch.records["detector"]).copy()
    return [told[start : start + count] for start in range(0, len(told), count)]


def summed(streams: Streams, told: list[Told]) -> list[str]:
    """The cells of a row: what came after a pulse was told."""
    since = again = of_streams = other = 0
    for row, one in enumerate(told):
        if one.first is None:
            continue
        windows = [range(at - 1, at + PULSE_READINGS + 2) for at, _ in streams.pulses[row] if at > one.first]
        back = sum(any(n in window for n in one.begun) for window in windows)
        since, again, of_streams = since + len(windows), again + back, of_streams + (back > 0)
        _, start, stop = streams.faults[row]
        windows.append(range(start, stop + PULSE_READINGS))
        other += sum(n > one.first and not any(n in window for window in windows) for n in one.begun)
    known, missed = sum(one.first is not None for one in told), len(missed_faults(streams, told))
    return [str(one) for one in (known, since, again, of_streams, other, f"{missed} of {len(told)}")]


def missed_faults(streams: Streams, told: list[Told]) -> set[int]:
    """Rows of the streams in whose faults no reading counts."""
    spans = [range(start, stop + PULSE_READINGS) for _, start, stop in streams.faults]
    return {row for row, one in enumerate(told) if not any(n in spans[row] for n in one.counted)}


def likeness(incident: Incident, its_own: list[tuple[Floats, Any]]) -> Any:
    """What is like a false alarm, as the service finds it from the readings that it keeps."""
    found = [one for values, entry in its_own for one in strange_in(*as_answered(values, entry))]
    return quiet_of(incident, [*strange_at_peak(incident), *found])


def as_answered(values: Floats, entry: Any) -> tuple[dict[str, float | None], dict[str, Any]]:
    """A reading's values and result by channel, as far as `strange_in` looks."""
    named = {name: None if np.isnan(value) else float(value) for name, value in zip(CHANNELS, values, strict=True)}
    shares = dict(zip(CHANNELS, np.nan_to_num(entry["attribution"]).tolist(), strict=True))
    bands = {name: (0.0, float(mid), 0.0) for name, mid in zip(CHANNELS, entry["mid"], strict=True) if np.isfinite(mid)}
    reason = REASONS[int(entry["reason"]) & REASON_BITS]
    return named, {"score": float(entry["score"]), "attribution": shares, "expected": bands, "reason": reason}


def in_pulse(pulses: list[tuple[int, float]], incident: Incident) -> bool:
    """Whether an incident began with a pulse."""
    return any(first - 1 <= incident.n <= first + PULSE_READINGS + 1 for first, _ in pulses)


def drawn(seed: int) -> Streams:
    """Streams with pulses from the second week on, and one fault each from the fourth."""
    rng = np.random.default_rng(seed)
    rows = (LABEL_WEEKS + 3) * WEEK_READINGS
    corpus = generate(4 * LABEL_STREAMS, rows, SEED + 100 + seed, (INTERVAL_S,))
    values = corpus.values.astype(np.float64)
    noise = np.nanmedian(np.abs(np.diff(values[:, :WEEK_READINGS], axis=1)), axis=1)
    usable = np.flatnonzero((corpus.kinds < KINDS_USED) & (noise > 0) & (np.isnan(values).mean(axis=1) < 0.05))
    first, second = usable[:LABEL_STREAMS], usable[LABEL_STREAMS : 2 * LABEL_STREAMS]
    made = np.stack([values[first], values[second]], axis=-1)
    scale = np.stack([noise[first], noise[second]], axis=-1)
    pulses, faults = [], []
    for row in range(LABEL_STREAMS):
        pulses.append(pulse_times(rng, rows))
        for start, height in pulses[row]:
            made[row, start : start + PULSE_READINGS, 0] += height * scale[row, 0]
        kind = FAULTS[row % len(FAULTS)]
        while True:
            start = int(rng.integers(4 * WEEK_READINGS, rows - WEEK_READINGS // 2))
            if all(abs(start - at) > 3 * FAULT_READINGS for at, _ in pulses[row]):
                break
        faults.append((kind, start, start + broken(made[row], scale[row], kind, start)))
    return Streams(made, corpus.timestamps_ms[first], pulses, faults)


def pulse_times(rng: np.random.Generator, rows: int) -> list[tuple[int, float]]:
    """First readings and heights of a stream's pulses."""
    usual, found = rng.uniform(15.0, 40.0), list[tuple[int, float]]()
    at = WEEK_READINGS + int(rng.integers(WEEK_READINGS))
    while at < rows - PULSE_READINGS:
        found.append((at, usual * rng.uniform(1 - PULSE_JITTER, 1 + PULSE_JITTER)))
        at += int(rng.uniform(2, 4) * 86_400 / INTERVAL_S)
    return found


def broken(values: Floats, scale: Floats, kind: str, start: int) -> int:
    """Put a fault into (T, C) values; returns how many readings it lasts."""
    if kind == "larger":
        values[start : start + PULSE_READINGS, 0] += 120 * scale[0]
        return PULSE_READINGS
    if kind == "downwards":
        values[start : start + PULSE_READINGS, 0] -= 30 * scale[0]
        return PULSE_READINGS
    if kind == "other channel":
        values[start : start + PULSE_READINGS, 1] += 30 * scale[1]
        return PULSE_READINGS
    if kind == "level":
        values[start : start + FAULT_READINGS, 1] -= 40 * scale[1]
    elif kind == "drift":
        values[start : start + FAULT_READINGS, 0] -= np.linspace(0, 100, FAULT_READINGS) * scale[0]
    else:
        values[start : start + FAULT_READINGS] = values[start]
    return FAULT_READINGS


# The loop


def loop(seed: int) -> list[Table]:
    """Alerts a stream and week without and with the loop: of all streams, and of the half that chose nothing."""
    kinds, values, times_ms = budget_streams(seed)
    weeks = f"{BUDGET:g} alerts a week allowed, weeks 2 to {LOOP_WEEKS}, seed {seed}"
    whole, half = (
        loop_table(f"all {len(values)} streams; {weeks}"),
        loop_table(f"every second stream, not chosen on; {weeks}"),
    )
    runs = [(sensitivity, held) for sensitivity in SENSITIVITIES for held in (False, True)]
    for (sensitivity, held), (alerts, levels) in zip(runs, raised(values, times_ms, runs), strict=True):
        add_row(whole, f"{sensitivity:g}", held, alerts, levels, kinds)
        add_row(half, f"{sensitivity:g}", held, alerts[:, 1::2], levels[1::2], kinds[1::2])
    return [whole, half]


def chosen(seed: int) -> Table:
    """The same by gain, on every second stream."""
    kinds, values, times_ms = budget_streams(seed)
    kinds, values, times_ms = kinds[::2], values[::2], times_ms[::2]
    table = loop_table(f"every second stream, seed {seed}, by gain")
    for gain in (None, *GAINS):
        if gain is not None:
            budget_loop.GAIN = gain  # type: ignore[misc]
        runs = [(sensitivity, gain is not None) for sensitivity in SENSITIVITIES]
        for (sensitivity, held), (alerts, levels) in zip(runs, raised(values, times_ms, runs), strict=True):
            add_row(table, f"{sensitivity:g}, gain {gain}", held, alerts, levels, kinds)
    return table


def raised(
    values: Floats, times_ms: NDArray[np.int64], runs: Sequence[tuple[float, bool]]
) -> list[tuple[NDArray[np.bool_], Floats]]:
    """Of each run (T, N) the alerts of N streams of one channel, and the (N,) levels at the end; all side by side.

    Args:
        runs: of each the sensitivity, and whether the budget is held.
    """
    count = len(values)
    watch = Watch(len(runs) * count, ("value",), BUDGET)
    watch.asked = replace(
        watch.asked,
        sensitivity=np.repeat([sensitivity for sensitivity, _ in runs], count),
        held=np.repeat([BUDGET if held else np.nan for _, held in runs], count),
    )
    alerts = np.zeros((values.shape[1], len(watch.records)), bool)
    for now in range(values.shape[1]):
        readings, times = np.tile(values[:, now], len(runs))[:, None], np.tile(times_ms[:, now], len(runs))
        alerts[now] = (watch.take(readings, times)["status"] & state.ALERT) != 0
    levels = watch.records["level"]
    parts = [slice(start, start + count) for start in range(0, len(levels), count)]
    return [(alerts[:, part], levels[part].copy()) for part in parts]


def budget_streams(seed: int) -> tuple[NDArray[np.intp], Floats, NDArray[np.int64]]:
    """Kinds (N,), values and times (N, T): seed 0 gives those of benchmarks.budget."""
    corpus = generate(
        LOOP_STREAMS * len(KINDS) // KINDS_USED + len(KINDS), LOOP_WEEKS * WEEK_READINGS, SEED + seed, (INTERVAL_S,)
    )
    rows = np.flatnonzero(corpus.kinds < KINDS_USED)[:LOOP_STREAMS]
    return corpus.kinds[rows], corpus.values[rows].astype(np.float64), corpus.timestamps_ms[rows]


def loop_table(title: str) -> Table:
    """With a column for what is told of a run."""
    table = Table(title=title)
    for column in (
        "sensitivity",
        "loop",
        "first week",
        "later",
        "kept / allowed",
        "streams within 1.5",
        "worst kind",
        "quietest, loudest stream",
        "factor: median, at a bound",
    ):
        table.add_column(column, justify="right")
    return table


def add_row(
    table: Table, name: str, held: bool, alerts: NDArray[np.bool_], levels: Floats, kinds: NDArray[np.intp]
) -> None:
    """What a run came to."""
    later = alerts[WEEK_READINGS:].sum(axis=0) / (LOOP_WEEKS - 1)
    within = ((later >= BUDGET / 1.5) & (later <= BUDGET * 1.5)).mean()
    by_kind = {list(KINDS)[kind]: later[kinds == kind].mean() for kind in np.unique(kinds)}
    worst = max(by_kind, key=lambda kind: abs(np.log(max(by_kind[kind], 0.01) / BUDGET)))
    factors = np.exp(levels)
    at_bound = budget_loop.at_bound(levels, np.full(len(levels), budget_loop.LEAST)).mean()
    table.add_row(
        name, "on" if held else "off", f"{alerts[:WEEK_READINGS].sum(axis=0).mean():.2f}", f"{later.mean():.2f}",
        f"{later.mean() / BUDGET:.2f}", f"{within:.0%}", f"{worst} {by_kind[worst]:.2f}",
        f"{later.min():.1f}, {later.max():.1f}", f"{np.median(factors):.2f}, {at_bound:.0%}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
