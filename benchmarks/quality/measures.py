"""Figures of a detector on a set, from counts of each series, with intervals over series.

Every figure is a function of sums and means over series, so that a bootstrap only draws other weights of the series.
The scorers are loaded from the folder given with --eval: `multi_eval.py` and `nab_score.py`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality.series import SETS, Series, period

Counts = dict[str, dict[str, float]]  # of each series
Figures = dict[str, NDArray[np.float64]]  # (R,) each, for R weightings of the series

PROFILES = {"standard": "standard", "low FP": "reward_low_FP_rate", "low FN": "reward_low_FN_rate"}
MAIN = dict.fromkeys(SETS, ("event F1", "alert F1", "VUS-PR")) | {
    "nab": ("standard", "alert F1", "VUS-PR"),
    "skab": ("F1", "alert F1", "VUS-PR"),
    "cycles": ("event F1", "top", "VUS-PR"),
}
"""The figures of each set that come with an interval; by the first of them versions are chosen."""

MERGE_GAP = 60
"""Rows; flags that are no farther apart are one event, where the scorer knows no other gap for a set."""

NEAR = 100
"""Rows, or the length of the event, within which after an event the highest score still belongs to it."""

JOIN = 200
"""Flags of a peer with fewer than so many rows between them raise one alert, as in Gatewatch."""

RESAMPLES = 2000


class Scorers:
    """The scorers in a folder."""

    def __init__(self, folder: Path) -> None:
        self.multi = _module(folder / "multi_eval.py")
        self.nab = _module(folder / "nab_score.py")

    def count(self, set_name: str, series: list[Series], scored: Mapping[str, pd.DataFrame]) -> Counts:
        """What the figures need of each series."""
        ranked = {one.name: self._ranked(one, scored[one.name]["score"].to_numpy(float)) for one in series}
        counts = {one.name: ranked[one.name] | count_alerts(one, scored[one.name]) for one in series}
        if set_name == "nab":
            return self._count_nab(series, scored, counts)
        gap = self.multi.MERGE_GAP.get(set_name, MERGE_GAP)
        return {one.name: counts[one.name] | self._count_flags(one, scored[one.name], gap) for one in series}

    def _ranked(self, one: Series, score: NDArray[np.float64]) -> dict[str, float]:
        """AUC-PR and VUS-PR over the rows that count; not a number for a series without a label."""
        labels = one.labels()[one.probation :]
        if not labels.any():
            return {"auc_pr": math.nan, "vus_pr": math.nan}
        window = period(one.values[:, 0]) if one.window is None else one.window
        score = score[one.probation :]
        top = {"top": float(tops(one, score))} if len(one.events) == 1 else {}
        return top | {
            "auc_pr": self.multi.average_precision(labels.astype(int), score),
            "vus_pr": self.multi.vus_pr(labels, score, window),
        }

    def _count_flags(self, one: Series, scored: pd.DataFrame, gap: int) -> dict[str, float]:
        flag, label = scored["flag"].to_numpy(bool), one.labels()
        runs = self.multi.runs(flag)
        touched, false, missed = self.multi.event_counts(one.events, self.multi.merge(runs, gap))
        return {
            "tp": float((flag & label).sum()), "fp": float((flag & ~label).sum()),
            "fn": float((~flag & label).sum()), "tn": float((~flag & ~label).sum()),
            "events_touched": float(touched), "events_false": float(false), "events_missed": float(missed),
            "events_hit": float(self.multi.event_counts(one.events, runs)[0]), "events": float(len(one.events)),
        }  # fmt: skip

    def _count_nab(
        self, series: list[Series], scored: Mapping[str, pd.DataFrame], ranked: dict[str, dict[str, float]]
    ) -> Counts:
        """NAB's raw points: by alert and by flag as they are, by score at the best threshold for all series."""
        counts: Counts = {name: dict(found) for name, found in ranked.items()}
        for kind in ("alert", "flag", "score"):
            given = [self._nab_series(one, scored[one.name][kind].to_numpy(float)) for one in series]
            thresholds = None if kind == "score" else dict.fromkeys(PROFILES.values(), 0.5)
            profiles = self.nab.score_series(given, thresholds, per_file=True)["profiles"]
            for profile in PROFILES.values():
                for at, row in enumerate(profiles[profile]["per_file"]):
                    null, perfect = self.nab.bounds([given[at]], profile)
                    counts[row["file"]] |= {
                        f"{kind}_{profile}": row["raw"] - null,
                        f"span_{profile}": perfect - null,
                        f"{kind}_hit": row["windows_hit"],
                        f"{kind}_false": row["fp_rows"],
                    }
        return counts

    def _nab_series(self, one: Series, values: NDArray[np.float64]) -> Any:
        stamps = pd.date_range("2000-01-01", periods=one.rows, freq="min")  # only tell the rows apart
        windows = [(stamps[first], stamps[last]) for first, last in one.events]
        return self.nab.Series(one.name, stamps, values, windows, any_scale=True)


def tops(one: Series, score: NDArray[np.float64]) -> bool:
    """Whether the highest score of the rows behind the probation is in the series' only event, or right after."""
    ((first, last),) = one.events
    return first <= one.probation + int(score.argmax()) <= last + max(NEAR, last - first + 1)


def first_of_incident(flag: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The flagged rows that have none among the JOIN rows before them."""
    at = np.flatnonzero(flag)
    first = at[np.diff(at, prepend=-JOIN - 1) > JOIN]
    alert = np.zeros(len(flag), bool)
    alert[first] = True
    return alert


def count_alerts(one: Series, scored: pd.DataFrame) -> dict[str, float]:
    """Events in which an alert went out, alerts outside of any, and weeks; the rows to learn from left out."""
    at = np.flatnonzero(scored["alert"].to_numpy(bool))
    at = at[at >= one.probation]
    return {
        "alerts_hit": float(sum(bool(((at >= first) & (at <= last)).any()) for first, last in one.events)),
        "alerts_false": float((~one.labels()[at]).sum()),
        "all_events": float(len(one.events)),
        "weeks": one.weeks,
    }


def figures(set_name: str, counts: Counts, weights: NDArray[np.float64] | None = None) -> Figures:
    """The set's figures, each (R,), for weights (R, S) of its S series; as they are if None."""
    table = pd.DataFrame(list(counts.values())).to_numpy(float)
    column = {name: at for at, name in enumerate(pd.DataFrame(list(counts.values())).columns)}
    weights = np.ones((1, len(table))) if weights is None else weights
    sums = weights @ np.nan_to_num(table)
    present = weights @ np.isfinite(table)

    def total(name: str) -> NDArray[np.float64]:
        return np.asarray(sums[:, column[name]])

    def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)

    hit, false_alerts, events = (total(name) for name in ("alerts_hit", "alerts_false", "all_events"))
    found = {
        "alert R": ratio(hit, events),
        "alert F1": ratio(2 * hit, hit + false_alerts + events),
        "false/week": ratio(false_alerts, total("weeks")),
        "AUC-PR": ratio(total("auc_pr"), present[:, column["auc_pr"]]),
        "VUS-PR": ratio(total("vus_pr"), present[:, column["vus_pr"]]),
    }
    if "top" in column:
        found["top"] = ratio(total("top"), present[:, column["top"]])
    if set_name == "nab":
        for title, profile in PROFILES.items():
            found[title] = 100 * ratio(total(f"alert_{profile}"), total(f"span_{profile}"))
        found["by flag"] = 100 * ratio(total("flag_standard"), total("span_standard"))
        found["best threshold"] = 100 * ratio(total("score_standard"), total("span_standard"))
        return found | {"hit": total("alert_hit"), "false alerts": total("alert_false")}
    tp, fp, fn, tn = (total(name) for name in ("tp", "fp", "fn", "tn"))
    touched, false, missed = (total(f"events_{name}") for name in ("touched", "false", "missed"))
    precision, recall = ratio(tp, tp + fp), ratio(total("events_hit"), total("events"))
    return found | {
        "F1": ratio(2 * tp, 2 * tp + fp + fn),
        "FAR %": 100 * ratio(fp, fp + tn),
        "MAR %": 100 * ratio(fn, fn + tp),
        "event P": ratio(touched, touched + false),
        "event R": ratio(touched, touched + missed),
        "event F1": ratio(2 * touched, 2 * touched + false + missed),
        "composite": ratio(2 * precision * recall, precision + recall),
    }


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of a bootstrap."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def resamples(series: int) -> NDArray[np.float64]:
    """(RESAMPLES, S) how often each series is drawn; the same draws for every detector, so that they can be paired."""
    draws = np.random.default_rng(0).multinomial(series, np.full(series, 1 / series), RESAMPLES)
    return draws.astype(np.float64)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
