"""The learned threshold beside telemanom's non-parametric dynamic one, on the same scores.

    python -m benchmarks.quality.dynamic OUT DATA --eval EVAL [--sets skab,smd] [--detectors gatewatch,general-target]

OUT is what `benchmarks.quality` wrote. Nothing is scored anew: `score`, the smoothed error of the paper, is cut by a
threshold that is found anew every 70 readings from the 2,100 before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.quality.measures import Scorers, figures
from benchmarks.quality.plots import load_scores
from benchmarks.quality.report import NAMES
from benchmarks.quality.series import SETS, read_set

WINDOW = 2_100
STEP = 70
"""Errors that a threshold is found from, and readings it is kept for: the paper's 30 batches of 70."""

SPREADS = np.arange(2.0, 10.5, 0.5)
"""z of the paper: thresholds tried, in standard deviations above the mean."""

LEAST_FALL = 0.13
"""p of the paper: how much lower the next largest incident must be for those above it to stay."""

SHOWN = {"skab": ("F1", "FAR %"), "smap_msl": ("event P", "event R", "event F1", "FAR %")}
SHOWN["smd"] = SHOWN["smap_msl"]


def dynamic_flags(errors: NDArray[np.float64], least_fall: float = LEAST_FALL) -> NDArray[np.bool_]:
    """(N,) flags for (N,) smoothed errors, each from the errors up to the end of its step; nothing is pruned by 0.

    Hundman et al. 2018, "Detecting Spacecraft Anomalies Using LSTMs and Nonparametric Dynamic Thresholding", 3.2, 3.3.
    """
    flags = np.zeros(len(errors), bool)
    for start in range(0, len(errors), STEP):
        stop = min(start + STEP, len(errors))
        first = max(0, stop - WINDOW)
        flags[start:stop] = cut(errors[first:stop], least_fall)[start - first :]
    return flags


def cut(errors: NDArray[np.float64], least_fall: float = LEAST_FALL) -> NDArray[np.bool_]:
    """What lies above the threshold that lowers mean and deviation most for the fewest errors and incidents."""
    mean, deviation = errors.mean(), errors.std()
    best, flags = 0.0, np.zeros(len(errors), bool)
    if mean <= 0 or deviation <= 0:
        return flags
    for spreads in SPREADS:
        above = errors > mean + spreads * deviation
        if not above.any():
            break
        rest = errors[~above]
        fall = (mean - rest.mean()) / mean + (deviation - rest.std()) / deviation
        worth = fall / (above.sum() + len(_incidents(above)) ** 2)
        if worth > best:
            best, flags = worth, above
    return _pruned(errors, flags, least_fall)


def _pruned(errors: NDArray[np.float64], flags: NDArray[np.bool_], least_fall: float) -> NDArray[np.bool_]:
    """Without the incidents behind the last fall, by so much at least, from one height to the next lower one."""
    incidents = sorted(_incidents(flags), key=lambda rows: -errors[rows].max())
    if not incidents:
        return flags
    heights = np.array([*(errors[rows].max() for rows in incidents), errors[~flags].max()])
    falls = np.flatnonzero(1 - heights[1:] / heights[:-1] >= least_fall)
    kept = np.zeros_like(flags)
    for rows in incidents[: falls[-1] + 1 if len(falls) else 0]:
        kept[rows] = True
    return kept


def _incidents(flags: NDArray[np.bool_]) -> list[slice]:
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [slice(first, end) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def main() -> None:
    """Print the figures of both thresholds, by set and detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--eval", type=Path, required=True, help="folder of multi_eval.py and nab_score.py")
    parser.add_argument("--sets", default=",".join(SHOWN), help=f"of {', '.join(SETS[1:])}")
    parser.add_argument("--detectors", default="gatewatch,general,general-target")
    options = parser.parse_args()
    scorers = Scorers(options.eval)
    table = Table("set", "detector", "learned", "dynamic", title="thresholds")
    for name in options.sets.split(","):
        series = read_set(options.data, name, options.out)
        for detector in options.detectors.split(","):
            if not (options.out / detector / name / "measured.json").exists():
                continue
            scored = {one.name: load_scores(options.out, detector, name, one) for one in series}
            cut = {
                one: found.assign(flag=dynamic_flags(found["score"].to_numpy(float))) for one, found in scored.items()
            }
            cells = [figures(name, scorers.count(name, series, which)) for which in (scored, cut)]
            shown = (", ".join(f"{key} {found[key][0]:.3g}" for key in SHOWN[name]) for found in cells)
            table.add_row(NAMES[name], detector, *shown)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
