"""The tasks of benchmarks.memory: episodes at whose end a reading is due that only memory can tell.

An episode is at least LAG readings long, and begins in the reading after the end of the one before; nothing else marks
its beginning. A trigger comes one reading before the end. What is due is for the last reading of the episode alone.

- `bit`: a command, one reading long, or none; LAG readings later the response to it. A violation is a response without
  a command, or none to a command. Before the command come 2 to 9 readings more.
- `adding`: a value in each reading, evenly from -1 to 1; two are marked, one in the first tenth of the episode, one
  between there and its middle. Due is the mean of the two (Hochreiter & Schmidhuber 1997, experiment 4).
- `order`: a symbol in each reading. X or Y stands once in the first tenth and once between there and the middle, A and
  B at random elsewhere. Due is which of XX, XY, YX and YY it was (experiment 6).
- `noisy`: in the first three readings a value, evenly from -1 to 1, under noise of 0.2; then the same noise alone, on
  the same channel. Due is the value (after experiment 3, where it is a sign).

In the last three, LAG is the length of the episode but for 2 to 9 readings, and what is due is given without noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
"""(N, C) readings."""

SIGNAL, SIGNAL_NOISE = 3, 0.2
"""`noisy`: readings that show the value, and the noise in all."""


@dataclass(frozen=True)
class Task:
    """What its streams look like.

    Attributes:
        channels: names; those of the answer come last.
        answers: how many channels the answer has.
        noise: in all channels that say nothing.
        fill: makes an episode (N, C) of noise one of the task, given LAG and the share of violations; returns whether
            its answer is right.
    """

    channels: tuple[str, ...]
    answers: int
    noise: float
    fill: Callable[[np.random.Generator, Rows, int, float], bool]

    def stream(
        self, rng: np.random.Generator, lags: list[int], violations: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
        """(N, C) readings, an episode for each lag, and (N,) 1 where a right answer is due, -1 for a wrong, else 0."""
        pauses = rng.integers(2, 10, len(lags))
        values = rng.normal(0, self.noise, (int(sum(lags) + pauses.sum()) + 1, len(self.channels)))
        kinds = np.zeros(len(values), np.int8)
        begin = due = 0
        for lag, pause in zip(lags, pauses, strict=True):
            due += int(pause) + lag
            kinds[due] = 1 if self.fill(rng, values[begin : due + 1], lag, violations) else -1
            begin = due + 1
        return values.astype(np.float32), kinds


def _bit(rng: np.random.Generator, rows: Rows, lag: int, violations: float) -> bool:
    commanded, right = rng.random() < 0.5, rng.random() >= violations
    rows[-1 - lag, 0] += commanded
    rows[-2, 1] += 1
    rows[-1, 2] += commanded == right
    return right


def _two_places(rng: np.random.Generator, length: int) -> tuple[int, int]:
    """One in the first tenth of an episode, one between there and its middle."""
    tenth = max(1, length // 10)
    return int(rng.integers(tenth)), int(rng.integers(tenth, max(length // 2, tenth + 1)))


def _adding(rng: np.random.Generator, rows: Rows, _lag: int, _violations: float) -> bool:
    rows[:, 0] = rng.uniform(-1, 1, len(rows))
    marked = list(_two_places(rng, len(rows)))
    rows[marked, 1] += 1
    rows[-2, 2] += 1
    rows[-1, 3] = rows[marked, 0].mean()
    return True


def _order(rng: np.random.Generator, rows: Rows, _lag: int, _violations: float) -> bool:
    symbols = rng.integers(2, 4, len(rows))
    first, second = rng.integers(2, size=2)
    symbols[list(_two_places(rng, len(rows)))] = first, second
    rows[np.arange(len(rows)), symbols] += 1
    rows[-2, 4] += 1
    rows[-1, 5:] = np.eye(4)[2 * first + second]
    return True


def _noisy(rng: np.random.Generator, rows: Rows, _lag: int, _violations: float) -> bool:
    value = rng.uniform(-1, 1)
    rows[:, 0] = rng.normal(0, SIGNAL_NOISE, len(rows))
    rows[:SIGNAL, 0] += value
    rows[-2, 1] += 1
    rows[-1, 2] = value
    return True


TASKS = {
    "bit": Task(("command", "trigger", "response"), 1, 0.05, _bit),
    "adding": Task(("value", "mark", "trigger", "mean"), 1, 0.1, _adding),
    "order": Task(("X", "Y", "A", "B", "trigger", "XX", "XY", "YX", "YY"), 4, 0.1, _order),
    "noisy": Task(("signal", "trigger", "value"), 1, 0.1, _noisy),
}


def explained(forecasts: Rows, answers: Rows) -> float:
    """The share of the answers' variance that (N, A) forecasts explain: 1 all, 0 what their mean does."""
    missed = ((forecasts - answers) ** 2).sum()
    return float(1 - missed / ((answers - answers.mean(axis=0)) ** 2).sum())


def told(forecasts: Rows, answers: Rows) -> float:
    """The share of (N, A) answers, each one of A channels, whose channel has the largest forecast."""
    return float((forecasts.argmax(axis=1) == answers.argmax(axis=1)).mean())
