"""Is the alert budget kept? Alerts that the general model raises on synthetic normal streams, against those allowed.

    python -m benchmarks.budget [--streams 200] [--weeks 8] [--budgets 0.5,2,10] [--plot FILE.png]

One reading every five minutes, ten kinds of signal, series that the network was not trained on. "Normal" includes
lasting changes of level, outliers and gaps, as in training: some alerts tell of them. The first week, in which the
stream counts what is rare, is shown apart; so are the first 64 readings of streams of all kinds and intervals, as they
are and with a spike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.training.general.synthetic import KINDS, generate

INTERVAL_S = 300
WEEK_READINGS = 7 * 86_400 // INTERVAL_S
SEED = 2**40
"""Beyond those of the training and of its held-out series."""

KINDS_USED = 10

YOUNG_STREAMS, YOUNG_READINGS = 1300, 64
YOUNG_SEED = SEED + 1
SPIKE_AT, SPIKE_SPREADS, SPIKE_READINGS = 40, 30.0, 3
"""A gross anomaly: one reading so many spreads from the median of those before, to be found within so many readings."""


def watch(
    budget: float, values: NDArray[np.float32], times_ms: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """(T, N) the alerts and the scores of N streams of one channel."""
    detector = load_detector(model_folder("general"), ["value"], budget)
    states = detector.initial(values.shape[0])
    raised, score = np.zeros(values.T.shape, bool), np.zeros(values.T.shape, np.float32)
    for now in range(values.shape[1]):
        step = detector.advance(values[:, now, None].astype(np.float64), times_ms[:, now], states)
        raised[now], score[now] = step.alert, step.score
    return raised, score


def main() -> None:
    """Print alerts per stream and week by budget and kind; plot asked against kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--weeks", type=int, default=8)
    parser.add_argument("--budgets", default="0.5,2,10")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    budgets = [float(text) for text in options.budgets.split(",")]
    kinds, values, times_ms = _streams(options.streams, options.weeks * WEEK_READINGS)
    table = Table(title=f"alerts per stream and week; {len(values)} streams, {options.weeks} weeks")
    for column in ("allowed", "first week", "later", "kept / allowed", *list(KINDS)[:KINDS_USED]):
        table.add_column(column, justify="right")
    kept = []
    for budget in budgets:
        raised, _ = watch(budget, values, times_ms)
        later = raised[WEEK_READINGS:].sum(axis=0) / (options.weeks - 1)
        kept.append(later)
        by_kind = [f"{later[kinds == kind].mean():.2f}" for kind in range(KINDS_USED)]
        first = raised[:WEEK_READINGS].sum(axis=0).mean()
        table.add_row(f"{budget:g}", f"{first:.2f}", f"{later.mean():.2f}", f"{later.mean() / budget:.2f}", *by_kind)
    Console(width=200).print(table, _young(budgets))
    if options.plot:
        _plot(options.plot, budgets, kept, kinds)


def _young(budgets: list[float]) -> Table:
    """Shares of young streams that score above 1 in the warm-up, that alert, and in which a spike is found."""
    table = Table(title=f"the first {YOUNG_READINGS} readings; {YOUNG_STREAMS} streams of {len(KINDS)} kinds")
    for column in ("allowed", "above 1 in the warm-up", "alert", f"spike of {SPIKE_SPREADS:g} spreads found"):
        table.add_column(column, justify="right")
    corpus = generate(YOUNG_STREAMS, YOUNG_READINGS, YOUNG_SEED)
    values, times_ms = corpus.values, corpus.timestamps_ms
    warm_up = load_detector(model_folder("general"), ["value"]).warm_up
    moving = np.nanstd(values[:, :SPIKE_AT], axis=1) > 0
    before = values[moving, :SPIKE_AT]
    spiked = values.copy()
    spiked[moving, SPIKE_AT] = np.nanmedian(before, axis=1) + SPIKE_SPREADS * np.nanstd(before, axis=1)
    for budget in budgets:
        raised, score = watch(budget, values, times_ms)
        found, _ = watch(budget, spiked, times_ms)
        shares = (
            (score[:warm_up] > 1).any(axis=0).mean(),
            raised.any(axis=0).mean(),
            found[SPIKE_AT : SPIKE_AT + SPIKE_READINGS, moving].any(axis=0).mean(),
        )
        table.add_row(f"{budget:g}", *(f"{share:.1%}" for share in shares))
    return table


def _streams(count: int, rows: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.int64]]:
    """Kinds (N,), values and times (N, T) of streams at one interval."""
    corpus = generate(count * len(KINDS) // KINDS_USED + len(KINDS), rows, SEED, (INTERVAL_S,))
    chosen = np.flatnonzero(corpus.kinds < KINDS_USED)[:count]
    return corpus.kinds[chosen], corpus.values[chosen], corpus.timestamps_ms[chosen]


def _plot(path: Path, budgets: list[float], kept: list[NDArray[np.float64]], kinds: NDArray[np.intp]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 5))
    for kind in range(KINDS_USED):
        axes.plot(budgets, [later[kinds == kind].mean() for later in kept], "o-", lw=0.8, ms=3, label=list(KINDS)[kind])
    axes.plot(budgets, [later.mean() for later in kept], "k-o", lw=2, label="all")
    axes.fill_between(budgets, np.array(budgets) / 1.5, np.array(budgets) * 1.5, color="0.9", label="factor 1.5")
    axes.set(xscale="log", yscale="log", xlabel="allowed, alerts a week", ylabel="raised, alerts a week")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
