"""What people say, and what comes of it: labels, and the loop that holds a budget, over simulated weeks.

    python -m benchmarks.labels [--seed 1 2] [--only labels,loop] [--choose]

Streams are stepped, judged, marked and folded into incidents as the service does it, one reading every five minutes,
with the general model; no Redis and no HTTP.

labels: 50 streams of two channels. From the second week on each has a false alarm of its own: a pulse on its first
channel every two to four days, never of quite the same size. The first one that is told is labelled when it has ended;
then come eight weeks with the pulse as before and one real fault in each stream. The same without the label, and with
a label on each pulse that is told again. What was chosen, was chosen on every second stream; the others are told of by
themselves. Labels change nothing of what a model learns, so each reading is stepped once.

loop: the 200 streams of benchmarks.budget over eight weeks, two alerts a week allowed; with their model as it is, and
with one that is too quiet and one that is too loud for them (a sensitivity of 0.75 and of 1.4), without and with
`hold_budget`. The first week, in which a stream counts what is rare, is left out. `--choose` tries constants of the
loop on every second stream; without it the others are told of by themselves, too.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.budget import INTERVAL_S, KINDS_USED, SEED, WEEK_READINGS
from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors import budget_loop
from gatewatch.models.detectors.asked import nothing_asked
from gatewatch.models.detectors.detector import ANOMALOUS, REASONS, STATUSES
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.training.general.synthetic import KINDS, generate
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.records import GATE_BITS, REASON_BITS, STATUS_BITS
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.incidents.incident import Incident, Scored
from gatewatch.service.incidents.ruled import Fold, fold
from gatewatch.service.incidents.rules import GATE_SHIFT, LABEL, Rules, mark
from gatewatch.service.policies.quiet import Quiet, Reading, quiet_of

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
SHOWN_READINGS: Final = 32
"""Before a reading, in which an onset is sought."""

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
    """Streams under watch: their records, and their incidents by the rules that they have, in several variants."""

    def __init__(self, streams: int, channels: Sequence[str], budget: float, variants: int = 1) -> None:
        detector = load_detector(model_folder("general"), channels, budget)
        self.stepper = Stepper(detector, SLOTS)
        self.records = self.stepper.fresh(streams)
        self.asked = nothing_asked(streams, len(channels))
        self.heads = np.tile(self.records, variants)
        self.rules = [Rules() for _ in range(streams * variants)]
        self.names = [tuple(channels)] * (streams * variants)
        self.latest: list[Fold | None] = [None] * (streams * variants)
        self.shown: deque[Entries] = deque(maxlen=SHOWN_READINGS)
        self._no_seq = np.full(streams, -1, np.int64)
        self._variants = variants

    def take(self, values: Floats, times_ms: NDArray[np.int64]) -> Entries:
        """Feed each stream a reading; returns the entries of all variants."""
        entries = self.stepper.step(self.records, self._no_seq, times_ms, values, asked=self.asked)
        self.stepper.settle(self.records, entries, self.asked, entries["reason"])
        self.shown.append(entries)
        every = np.tile(entries, self._variants)
        with np.errstate(invalid="ignore"):
            outside = (np.abs(every["values"] - every["mid"]) > every["half"]).any(axis=1)
        outside |= ((every["status"] & STATUS_BITS) == ANOMALOUS) | (self.heads["step_n"] != 0)
        ruled = [(row, rules) for row in np.flatnonzero(outside).tolist() if (rules := self.rules[row]).quiet]
        mark(every, ruled, self.names, self.heads)
        return every

    def incidents(self, entries: Entries, was_open: NDArray[np.bool_]) -> Iterator[tuple[int, Incident]]:
        """Rows whose incidents changed with these entries, and those."""
        concerned = ((entries["status"] & (state.ALERT | state.OPEN)) != 0) | was_open
        for row in np.flatnonzero(concerned).tolist():
            last = self.latest[row]
            before = (None, None) if last is None else (last.incident, last.pending)
            earlier = () if before[0] is not None and before[0].is_open else self._earlier(row)
            made = fold(
                self.rules[row],
                str(row),
                self.names[row],
                *before,
                bool(was_open[row]),
                entries[row : row + 1],
                earlier,
            )
            self.latest[row] = made
            for incident in made.changed.values():
                yield row, incident

    def _earlier(self, row: int) -> list[Scored]:
        """The readings before this one: an onset is sought there."""
        own = [entries[row % len(entries)] for entries in list(self.shown)[:-1]]
        return [Scored(int(one["n"]), int(one["timestamp_ms"]), float(one["score"])) for one in own]


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--only", default="labels,loop")
    parser.add_argument("--choose", action="store_true", help="try constants of the loop on every second stream")
    options = parser.parse_args()
    console = Console(width=200)
    if options.choose:
        console.print(*map(chosen, options.seed))
        return
    if "labels" in options.only:
        console.print(labels(options.seed))
    if "loop" in options.only:
        for seed in options.seed:
            console.print(*loop(seed))


# Labels


def labels(seeds: Sequence[int]) -> Table:
    """What a label does to pulses and faults, by seed and half."""
    table = Table(title=f"{LABEL_STREAMS} streams a seed: {LABEL_WEEKS} weeks after the label")
    columns = ("seed", "half", "", "labelled", "pulses since", "told again", "not by the pulse", "of streams")
    for column in (*columns, "other incidents", "faults missed", "more than without", "of these quieted"):
        table.add_column(column, justify="right")
    for seed in seeds:
        streams = drawn(seed)
        found = followed(streams)
        for half, rows in (("all", slice(None)), ("chosen on", slice(0, None, 2)), ("other", slice(1, None, 2))):
            own = range(LABEL_STREAMS)[rows]
            for name, told in zip(("without", "labelled once", "labelled each time"), found, strict=True):
                table.add_row(str(seed), half, name, *summed(streams, told, found[0], own))
    return table


@dataclass
class Told:
    """What was told of a stream.

    Attributes:
        first: the reading after which the first pulse that was told had ended; None without one.
        begun: readings with which incidents began, to whether the pulse's channel was strange at them.
        counted: readings that count.
        quieted: readings that are like a false alarm.
    """

    first: int | None = None
    begun: dict[int, bool] = field(default_factory=dict)
    counted: set[int] = field(default_factory=set)
    quieted: set[int] = field(default_factory=set)


def followed(streams: Streams) -> list[list[Told]]:
    """What is told of the streams without a label, with one on the first pulse that is told, and with one on each."""
    count, rows, _ = streams.values.shape
    watch, told = Watch(count, CHANNELS, BUDGET, 3), [Told() for _ in range(3 * count)]
    own: list[list[Any]] = [[] for _ in told]
    was_open = np.zeros(3 * count, bool)
    for now in range(rows):
        entries = watch.take(streams.values[:, now], streams.times_ms[:, now])
        for row in np.flatnonzero((entries["reason"] & GATE_BITS) >> GATE_SHIFT == LABEL).tolist():
            told[row].quieted.add(now)
        for row, incident in watch.incidents(entries, was_open):
            one, pulses = told[row], streams.pulses[row % count]
            if incident.n == now:
                one.begun[now] = CHANNELS[0] in as_reading(entries[row]).strange()
                onset = [each[row % count] for each in list(watch.shown)[:-1]]
                own[row] = [each for each in onset if int(each["timestamp_ms"]) >= incident.onset_ms]
            if incident.last_n == now:
                one.counted.add(now)
            if incident.is_open:
                own[row].append(entries[row].copy())
                continue
            wanted = one.first is None or row >= 2 * count
            if wanted and incident.n >= WEEK_READINGS and in_pulse(pulses, incident):
                one.first = one.first or now
                if row >= count:
                    like = tuple(each.allowance for each in likeness(incident, own[row]))
                    watch.rules[row] = Rules(quiet=(*watch.rules[row].quiet, *like))
        was_open = np.tile(watch.stepper.detector.is_open(watch.records["detector"]), 3)
    return [told[start : start + count] for start in range(0, len(told), count)]


def summed(streams: Streams, told: list[Told], without: list[Told], rows: Sequence[int]) -> list[str]:
    """The cells of a line: what came after a pulse was told, in some of the streams."""
    since = again = elsewhere = of_streams = other = 0
    for row in rows:
        one = told[row]
        if one.first is None:
            continue
        windows = [range(at - 1, at + PULSE_READINGS + 2) for at, _ in streams.pulses[row] if at > one.first]
        begins = [[n for n in one.begun if n in window] for window in windows]
        back = sum(map(bool, begins))
        elsewhere += sum(
            all(n < window[1] or not one.begun[n] for n in each)
            for each, window in zip(begins, windows, strict=True)
            if each
        )
        since, again, of_streams = since + len(windows), again + back, of_streams + (back > 0)
        _, start, stop = streams.faults[row]
        windows.append(range(start, stop + PULSE_READINGS))
        other += sum(n > one.first and not any(n in window for window in windows) for n in one.begun)
    known, missed = sum(told[row].first is not None for row in rows), missed_faults(streams, told, rows)
    more = missed - missed_faults(streams, without, rows)
    spans = {row: range(streams.faults[row][1], streams.faults[row][2] + PULSE_READINGS) for row in more}
    hidden = sum(any(n in spans[row] for n in told[row].quieted) for row in more)
    cells = [known, since, again, elsewhere, of_streams, other, f"{len(missed)} of {len(rows)}", len(more), hidden]
    return list(map(str, cells))


def missed_faults(streams: Streams, told: list[Told], rows: Sequence[int]) -> set[int]:
    """Rows, of these, of the streams in whose faults no reading counts."""
    spans = [range(start, stop + PULSE_READINGS) for _, start, stop in streams.faults]
    return {row for row in rows if not any(n in spans[row] for n in told[row].counted)}


def likeness(incident: Incident, own: list[Any]) -> list[Quiet]:
    """What is like a false alarm, as the service finds it from the readings that it keeps."""
    return quiet_of(incident, [as_reading(one) for one in own if int(one["n"]) <= incident.last_n])


def as_reading(entry: Any) -> Reading:
    """A reading as the history shows it, as far as `quiet_of` looks."""
    values = {name: None if np.isnan(one) else float(one) for name, one in zip(CHANNELS, entry["values"], strict=True)}
    shares = dict(zip(CHANNELS, np.nan_to_num(entry["attribution"]).tolist(), strict=True))
    bands = {
        name: (mid - half, mid, mid + half)
        for name, mid, half in zip(CHANNELS, entry["mid"].tolist(), entry["half"].tolist(), strict=True)
        if np.isfinite(mid)
    }
    result = {"score": float(entry["score"]), "attribution": shares, "expected": bands}
    result["reason"] = REASONS[int(entry["reason"]) & REASON_BITS]
    result["status"] = STATUSES[int(entry["status"]) & STATUS_BITS]
    return Reading(values, result)


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
