"""The labelled sets: files, train parts and labels of their series."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.quality.cycles import LEARN, cycle_streams
from benchmarks.quality.injected import VUS_WINDOW, WEEK, injected_streams, write_streams

INJECTED, CYCLES = "injected", "cycles"
SETS = ("nab", "skab", "smap_msl", "smd", "asd", "gecco", "tep", "motes", "hvac", INJECTED, CYCLES)

WEEK_S = 7 * 86_400

Span = tuple[int, int]


@dataclass(frozen=True)
class Series:
    """One series of a set. Rows count from the first one of `path`; labels and scores are about them.

    Attributes:
        name: within the set, as `valve1_11` or `realTweets/Twitter_volume_FB`.
        train: file of its train part; None if its first `probation` rows are that.
        probation: rows of `path` to learn from, which nobody scores.
        targets: the channels that the labels are about.
        events: labelled spans, first and last row.
        window: tolerance of VUS-PR in rows; None: the series' period.
    """

    name: str
    path: Path
    train: Path | None
    probation: int
    targets: tuple[str, ...]
    events: tuple[Span, ...]
    window: int | None

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """(N, C) the target channels, train file included, and its rows come first."""
        parts = [self.path] if self.train is None else [self.train, self.path]
        tables = [pd.read_csv(part, usecols=self.targets) for part in parts]
        return np.concatenate([table[[*self.targets]].to_numpy(float) for table in tables])

    @cached_property
    def others(self) -> NDArray[np.float64]:
        """(N, D) the other channels, in the same rows."""
        tables = [pd.read_csv(part) for part in ([self.path] if self.train is None else [self.train, self.path])]
        names = [name for name in tables[0].columns if name != "timestamp" and name not in self.targets]
        return np.concatenate([table[names].to_numpy(float) for table in tables])

    @cached_property
    def rows(self) -> int:
        """Rows of `path`."""
        return len(pd.read_csv(self.path, usecols=["timestamp"]))

    @cached_property
    def weeks(self) -> float:
        """How long `path` is, without the rows to learn from, at its median interval."""
        stamps = pd.to_datetime(pd.read_csv(self.path, usecols=["timestamp"])["timestamp"])
        return float(stamps.diff().dt.total_seconds().median()) * (self.rows - self.probation) / WEEK_S

    @property
    def train_rows(self) -> int:
        """Rows of `values` to fit on."""
        return self.probation if self.train is None else len(self.values) - self.rows

    def labels(self) -> NDArray[np.bool_]:
        """(rows,) whether a row is labelled anomalous."""
        labels = np.zeros(self.rows, bool)
        for first, last in self.events:
            labels[first : last + 1] = True
        return labels


def read_set(data: Path, name: str, out: Path, most: int | None = None) -> list[Series]:
    """The series of one set, in order of name; evenly chosen ones, if there are more than `most`.

    Args:
        out: where benchmarks.quality writes; sets that are made are kept there.
    """
    if name in {INJECTED, CYCLES}:
        folder = out / "data" / name
        if not (folder / "labels.json").exists():
            _make(name, folder)
        found = _split(folder)
    else:
        found = _nab(data / "nab") if name == "nab" else _split(data / name)
    if most is None or most >= len(found):
        return found
    return [found[at * len(found) // most] for at in range(most)]


def _make(name: str, folder: Path) -> None:
    if name == INJECTED:
        write_streams(folder, injected_streams(), WEEK, VUS_WINDOW)
    else:
        write_streams(folder, cycle_streams(), LEARN)


def _split(folder: Path) -> list[Series]:
    """A set with a train and a test file a stream; what the labels are about is all a peer sees of it."""
    streams = json.loads((folder / "labels.json").read_text())["streams"]
    return [
        Series(
            name,
            folder / about["test_file"],
            folder / about["train_file"],
            0,
            tuple(about["target_channels"]),
            tuple(sorted((event["start"], event["end"]) for event in about["anomalies"])),
            about["vus_window"],
        )
        for name, about in sorted(streams.items())
    ]


def _nab(folder: Path) -> list[Series]:
    """NAB: windows are given by timestamp, the first 15 % of a file (at most 750 rows) are for learning."""
    windows = json.loads((folder / "labels" / "combined_windows.json").read_text())
    found = []
    for name, spans in sorted(windows.items()):
        stamps = pd.to_datetime(pd.read_csv(folder / "data" / name, usecols=["timestamp"])["timestamp"])
        at = {stamp: row for row, stamp in reversed([*enumerate(stamps)])}  # clocks stand still: the first row counts
        events = tuple((at[pd.Timestamp(first)], at[pd.Timestamp(last)]) for first, last in spans)
        probation = min(len(stamps) * 15 // 100, 750)
        series = name.removesuffix(".csv")
        found.append(Series(series, folder / "data" / name, None, probation, ("value",), events, None))
    return found


def period(values: NDArray[np.float64]) -> int:
    """Lag (6 to 303 rows) of the largest local maximum of the autocorrelation; 125 if it is not there or there is none.

    The rule from which the other sets' `vus_window` comes, for those that bring none.
    """
    centred = values[:20_000] - values[:20_000].mean()
    lags = min(400, len(centred) - 2)
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: lags + 1]
    peaks = 4 + np.flatnonzero((correlation[4:-1] > correlation[3:-2]) & (correlation[4:-1] > correlation[5:]))
    if not len(peaks) or correlation[0] <= 0:
        return 125
    best = int(peaks[correlation[peaks].argmax()])
    return best if 6 <= best <= 303 else 125
