"""What the general model would find with a part that knows when a cycle is wrong: its scores replayed with one.

    python -m benchmarks.quality.shape OUT DATA --eval EVAL --to SHAPED [--sets cycles,nab] [--ways nearest]
    python -m benchmarks.quality.choose SHAPED/shipped SHAPED/nearest SHAPED/season

OUT is what `benchmarks.quality` wrote of `general`, of SMAP and MSL of `general-target`. SHAPED gets the counts of
that, and of the same with the part, for `choose`.

Of each channel the last RING means of b readings are kept, each a block. Every SEARCH blocks the period is looked for.
With D_k the mean of (y_t - y_(t-k))² over the ring and V its variance, r_k = 1 - D_k / 2V, it is the least k that is a
local maximum of r with r_k >= ALIKE, by CONTRAST above the least r before it, and NEARLY the largest such. If the ring
is full and there is none, or it is more than FINE blocks, pairs of blocks become one: b doubles, up to 2^MOST_FOLDS,
and then all begins anew. While there is a period, each block ends a window w of WINDOW blocks, less their mean:

    d_k = rms of (w_t - w_(t-k)),  d = d_k* the least of them;     e = rms of the NEWEST blocks' differences at k*
    size = min(d / usual d, e / usual e)

so that it ends when what was odd has ended, though the window still holds it. `season` takes the period for k*
instead. Channels are pooled and sizes counted as those of levels are (models.detectors.general.score), but while a
window holds what the other parts judged anomalous.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality.__main__ import load
from benchmarks.quality.detectors import filled
from benchmarks.quality.measures import JOIN, Scorers, first_of_incident
from benchmarks.quality.plots import load_scores
from benchmarks.quality.report import Measured
from benchmarks.quality.series import SETS, WEEK_S, Series, read_set
from gatewatch.models.detectors.general.alert_budget import threshold_at
from gatewatch.models.detectors.general.codes import CODES
from gatewatch.models.detectors.general.score import MORE_NATS, MOST_NATS
from gatewatch.models.detectors.general.tail import COUNTED_READINGS, COUNTERS, LEAST, count, place_of, rarity
from gatewatch.models.detectors.operands import NUMBERS

Float64Array = NDArray[np.float64]

RING, WINDOW, NEWEST = 320, 24, 6
SEARCH, PERIODS = 32, 4
"""Blocks between searches; periods that the ring holds at least."""

SHORTEST, FINE, LONGEST = 12, 48, 80
ALIKE, CONTRAST, NEARLY = 0.5, 0.3, 0.9
STILL_ALIKE, SAME = 0.3, 1.25
"""For a period that there is, within this factor."""

MOST_FOLDS = 6
USUAL_BLOCKS, CLIP, SETTLING = 2000, 4.0, 64
"""Memory of the usual distances; times them that one teaches; windows before any is judged."""

LEAST_SHARE, YOUNG_READINGS = 0.02, 200.0
"""Of the ring's deviation: distances are taken for that at least. For the rarity, as of levels."""

BEGIN_READINGS, LOOKED_AT = 64, 1.5
"""Readings until the scale of a channel is taken; sizes whose rarity is reckoned: less comes to no threshold."""


class Memory:
    """What one channel has shown lately; 640 bytes for the ring and some 30 more."""

    def __init__(self, way: Callable[[Float64Array, int], int]) -> None:
        self.way = way
        self.ring = np.zeros(0, np.float16)
        self.fold = self.period = self.windows = self.searched = self.held = 0
        self.sum, self.size = 0.0, np.nan
        self.usual = np.zeros(2)

    def take(self, value: float) -> float:
        """Size after a reading; not a number where there is no cycle, or not for long enough."""
        self.sum += value
        self.held += 1
        if self.held == 1 << self.fold:
            mean = np.float16(np.clip(self.sum / self.held, -6e4, 6e4))
            self.sum, self.held = 0.0, 0
            self.ring = np.append(self.ring[-RING + 1 :], mean)
            if self.period:
                self.size = self._compare(self.ring.astype(np.float64))
            self.searched += 1
            if self.searched >= SEARCH:
                self.searched = 0
                self._search(self.ring.astype(np.float64))
        return self.size

    @property
    def span(self) -> int:
        """Readings of a window."""
        return WINDOW << self.fold

    def _compare(self, y: Float64Array) -> float:
        """The size of the newest window, which is then taken in."""
        y = y - y[-WINDOW:].mean()
        newest, past = y[-WINDOW:], np.lib.stride_tricks.sliding_window_view(y[:-WINDOW], WINDOW)
        distance = np.square(past - past.mean(1, keepdims=True) - newest).mean(1)
        at = self.way(distance, self.period)
        off = newest - (past[at] - past[at].mean())
        found = np.sqrt([distance[at], np.square(off[-NEWEST:]).mean()])
        usual = np.maximum(self.usual, LEAST_SHARE * y.std() + 1e-6)
        self.windows += 1
        lesson = np.minimum(found, CLIP * usual) if self.windows > SETTLING else found
        self.usual += (lesson - self.usual) / min(self.windows, USUAL_BLOCKS)
        return float((found / usual).min()) if self.windows > SETTLING else np.nan

    def _search(self, y: Float64Array) -> None:
        """Look for the period; without one, or with more blocks than it takes, double the readings of a block."""
        found = 0
        if self.period:
            found = find_period(y, STILL_ALIKE, int(self.period / SAME), int(self.period * SAME))
        found = found or find_period(y, ALIKE)
        if (found > FINE or (not found and len(y) == RING)) and self.fold < MOST_FOLDS:
            y = y[len(y) % 2 :]
            self.ring = ((y[::2] + y[1::2]) / 2).astype(np.float16)
            self.fold += 1
            self.period, self.windows, self.size = (found + 1) // 2, 0, np.nan
            return
        if not found:
            self.windows, self.size = 0, np.nan
            if len(y) == RING:
                self.fold, self.ring = 0, self.ring[:0]
        self.period = found


def find_period(y: Float64Array, alike: float, least: int = SHORTEST, most: int = LONGEST) -> int:
    """Blocks of the period, within bounds; 0 if there is none."""
    least, most = max(least, SHORTEST), min(most, LONGEST, len(y) // PERIODS)
    variance = float(y.var())
    if most < least or variance == 0:
        return 0
    lags = np.arange(most + 2)
    r = np.array([1 - np.square(y[k:] - y[: len(y) - k]).mean() / (2 * variance) for k in lags])
    inner, valley = r[least:-1], np.minimum.accumulate(r)[least:-1]
    good = (inner >= r[least - 1 : -2]) & (inner >= r[least + 1 :])
    good &= (inner >= alike) & (inner - valley >= CONTRAST)
    at = np.flatnonzero(good)
    return least + int(at[inner[at] >= NEARLY * inner[at].max()][0]) if len(at) else 0


def nearest(distance: Float64Array, period: int) -> int:  # noqa: ARG001
    """The window that is most alike."""
    return int(distance.argmin())


def season(distance: Float64Array, period: int) -> int:
    """The window a period ago, or two, where that is not behind the newest one."""
    back = period if period >= WINDOW else 2 * period
    return len(distance) - 1 + WINDOW - back


WAYS = {"nearest": nearest, "season": season}


def sizes(values: Float64Array, way: str) -> tuple[Float64Array, NDArray[np.intp]]:
    """(N, C) sizes and readings of a window of each channel; values as the general model's scales would have them."""
    values = filled(np.where(np.isin(values, CODES), np.nan, values))
    found, spans = np.full(values.shape, np.nan), np.zeros(values.shape, np.intp)
    for channel, column in enumerate(values.T):
        memory, unit = Memory(WAYS[way]), 0.0
        for row, value in enumerate(column.tolist()):
            if not unit and row >= BEGIN_READINGS and value != column[row - 1]:
                unit, origin = float(column[max(0, row - 500) : row + 1].std()), value
            if unit:
                found[row, channel] = memory.take((value - origin) / unit)
                spans[row, channel] = memory.span
    return found, spans


def replayed(one: Series, scored: pd.DataFrame, way: str) -> pd.DataFrame:
    """Scores, flags and alerts of a series with the part beside the others."""
    found, spans = sizes(one.values, way)
    flag = np.zeros(len(found), bool)
    flag[-one.rows :] = scored["flag"].to_numpy(bool)
    before = np.maximum.accumulate(np.where(flag, np.arange(len(found)), -(10**9)))
    known: NDArray[np.bool_] = np.isfinite(found) & ((np.arange(len(found)) - before)[:, None] >= spans)
    pooled = (np.where(known, found, 0.0) ** 4).mean(1) ** 0.25
    pace_ms = 1000 * one.weeks * WEEK_S / (one.rows - one.probation)
    limit = float(threshold_at(NUMBERS, 1.0, pace_ms)) + MORE_NATS
    part = (_nats(pooled, np.asarray(known.any(1)), flag, limit) / limit)[-one.rows :]
    flag = flag[-one.rows :] | (part > 1.0)
    alert = scored["alert"].to_numpy(bool) | (first_of_incident(flag) & (part > 1.0))
    score = np.maximum(scored["score"].to_numpy(float), part)
    return pd.DataFrame({"score": score, "flag": flag.astype(int), "alert": alert.astype(int)})


def _nats(size: Float64Array, known: NDArray[np.bool_], flag: NDArray[np.bool_], limit: float) -> Float64Array:
    """(N,) how rare sizes are by those before, 0 below LOOKED_AT; what is anomalous within an incident counts less."""
    counted, nats, last = np.zeros((1, 1, COUNTERS), np.float32), np.zeros(len(size)), -JOIN
    counters, fading, places = counted[0, 0], np.float32(1 - 1 / COUNTED_READINGS), place_of(size, LEAST)
    for row in range(len(size)):
        if known[row] and size[row] < LOOKED_AT:
            counters *= fading
            counters[int(places[row])] += 1
        elif known[row]:
            of, place = rarity(size[None, row : row + 1], counted, np.array([row]), np.array([YOUNG_READINGS]))
            nats[row] = min(of.item(), MOST_NATS * size[row])
            held = np.array([[nats[row] > limit and row - last < JOIN]])
            count(place, counted, np.ones(1, bool), held, np.array([[limit]]))
        if flag[row] or nats[row] > limit:
            last = row
    return nats


def main() -> None:
    """Replay the sets that OUT has, those that SHAPED lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    options = parser.parse_args()
    scorers = Scorers(options.eval)
    for name in options.sets.split(","):
        detector = "general-target" if name == "smap_msl" else "general"
        if load(options.out / detector / name) is None:
            continue
        series = read_set(options.data, name, options.out)
        shipped = {one.name: load_scores(options.out, detector, name, one) for one in series}
        for way in ("shipped", *options.ways.split(",")):
            folder = options.to / way / "general" / name
            if load(folder) is None:
                scored = (
                    shipped if way == "shipped" else {one.name: replayed(one, shipped[one.name], way) for one in series}
                )
                folder.mkdir(parents=True, exist_ok=True)
                measured = Measured(0.0, None, scorers.count(name, series, scored))
                (folder / "measured.json").write_text(json.dumps(asdict(measured), indent=1))
                print(f"{name}, {way}: {len(series)} series", flush=True)


if __name__ == "__main__":
    main()
