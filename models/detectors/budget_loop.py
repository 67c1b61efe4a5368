"""Budget loop: a factor on a stream's score that follows its alerts, so that they stay near those allowed.

A calibrated threshold keeps a budget on streams like those that it was calibrated on; a stream of its own kind may
alert five times as often, or never. With alerts a_t (0 or 1) of reading t, Δ_t the time since the one before, b alerts
a week allowed, and ℓ the logarithm of the factor:

    ℓ_t = clip(ℓ_{t-1} + GAIN (b Δ_t / week - a_{t-1}), ln LEAST, ln MOST)        score times e^ℓ

An online quantile tracker: the update of adaptive conformal inference (Gibbs and Candès 2021, "Adaptive Conformal
Inference Under Distribution Shift"), of the threshold itself as in conformal PID control (Angelopoulos, Candès and
Tibshirani 2023), in units of time and on a logarithm. Where the bounds do not hold it, the alerts of W weeks are
within (ln MOST - ln LEAST + GAIN) / GAIN of b W, whatever the stream does.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import Floats

GAIN: Final = 0.1
"""An alert lowers the factor by a tenth; so much time as the budget has for one raises it as much. Of 0.02, 0.05 and
0.1 the nearest to the budget on every second stream of benchmarks.budget, with models too quiet and too loud, too."""

LEAST, MOST = 0.5, 1.5
"""Bounds of the factor: what is twice as strange as the model's threshold alerts whatever was before."""

_MOST = float(np.log(MOST))

WEEK_MS = 7 * 86_400_000
LONGEST_MS = 86_400_000
"""A day: of the time between two readings no more counts. An outage tells nothing of false alarms."""


def drifted(levels: Floats, held: Floats, least: Floats, elapsed_ms: NDArray[np.int64]) -> Floats:
    """(B,) levels once time has passed; 0 where no budget is held.

    Args:
        levels: (B,) logarithms of the factors.
        held: (B,) alerts a week that are held; NaN where none are.
        least: (B,) lower bounds of the factors; LEAST where nothing else is asked.
        elapsed_ms: (B,) since the reading before; 0 where nothing was judged.
    """
    passed = np.minimum(np.maximum(elapsed_ms, 0), LONGEST_MS) / WEEK_MS
    return np.where(np.isfinite(held), _bounded(levels + GAIN * held * passed, least), 0.0)


def alerted(levels: Floats, least: Floats, alerts: NDArray[np.bool_]) -> Floats:
    """(B,) levels after readings, some of which raised an alert; see `drifted`."""
    return _bounded(levels - GAIN * alerts, least)


def at_bound(levels: Floats, least: Floats) -> NDArray[np.bool_]:
    """(B,) whether factors are at a bound; see `drifted`."""
    return np.asarray((levels <= _lowest(least)) | (levels >= _MOST))


def notable(before: Floats, after: Floats, least: Floats) -> NDArray[np.bool_]:
    """(B,) which levels moved so far that it is worth a line: by about a tenth of the factor, or to or off a bound."""
    moved = np.rint(10 * before) != np.rint(10 * after)
    return np.asarray(moved | (at_bound(before, least) != at_bound(after, least)))


def _bounded(levels: Floats, least: Floats) -> Floats:
    """Within the bounds; what is no number, as from a state that is damaged, is at the lower one."""
    return np.asarray(np.minimum(np.fmax(levels, _lowest(least)), _MOST))


def _lowest(least: Floats) -> Floats:
    """Never 0, which says that no budget is held: what is at a factor of 1 as a bound is told from that."""
    return np.minimum(np.log(np.minimum(np.maximum(least, LEAST), 1.0)), -np.finfo(np.float64).tiny)
