"""How much time has passed between two readings of a stream, whatever its clock did.

A clock that steps back tells nothing of the time that has passed, nor does its return: what counts then is the time
since the step. A leap forward beyond a limit may be a gap or a wrong clock; the next reading tells. If it goes on from
there, there was a gap, and the stream starts anew; if it comes back, nothing was. A gap that recurs, not longer than
GAP_MARGIN times one of those before, belongs to the stream's rhythm and starts nothing anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Records = NDArray[Any]

GAP_MARGIN = 3.0
GAP_MEMORY = 0.9
"""The longest gap is remembered less with each other one: after a month's outage, ten daily gaps leave ten days."""

NEVER = -(2**62)
"""The time of the last reading of a stream that has not seen any."""

LONGEST_MS = 2**61
"""Nothing has lasted longer: what seems to is a stream's first reading, the time since NEVER."""

UNKNOWN = -1
"""An elapsed time of which the clock tells nothing; the usual interval stands for it."""


def clock_fields() -> list[tuple[str, str]]:
    """The fields of a stream's state that this module keeps: 25 bytes.

    `before_ms` is the time before the clock stepped, as long as it has not come back, else 0; `leapt` tells whether the
    last reading leapt forward beyond the limit; `gap_ms` is the longest gap of late.
    """
    return [("last_ms", "<i8"), ("before_ms", "<i8"), ("leapt", "?"), ("gap_ms", "<f8")]


def set_back(states: Records, to_ms: int) -> None:
    """Take streams for ones whose last reading was at `to_ms`, and whose clocks have done nothing odd."""
    states["last_ms"], states["before_ms"], states["leapt"] = to_ms, 0, False


def take_time(
    states: Records, timestamps_ms: NDArray[np.int64], limit_ms: NDArray[Any] | float
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Milliseconds since the reading before of B streams, or UNKNOWN; and which streams start anew, after a gap.

    Args:
        states: (B,) records with `clock_fields`; changed.
        timestamps_ms: (B,) of the reading.
        limit_ms: one or (B,), above which a step forward is a gap; at most LONGEST_MS, which stands for no limit.

    Returns:
        (B,), and (B,) or None, where every clock has gone on as usual.
    """
    elapsed = timestamps_ms - states["last_ms"]
    odd = (elapsed.view(np.uint64) > limit_ms) | (states["before_ms"] != 0)  # one that is negative is large there
    anew = None
    if np.count_nonzero(odd):
        anew, limits = np.zeros(len(states), bool), np.broadcast_to(limit_ms, odd.shape)
        for at in np.flatnonzero(odd).tolist():
            if states["last_ms"][at] == NEVER:
                elapsed[at] = UNKNOWN
            else:
                elapsed[at], anew[at] = _stepped(states[at : at + 1], int(timestamps_ms[at]), float(limits[at]))
    states["last_ms"] = timestamps_ms
    return elapsed, anew


def _stepped(state: Records, now_ms: int, limit_ms: float) -> tuple[int, bool]:
    """Of one stream whose clock has stepped, or did before."""
    last, before, leapt = (state[name].item() for name in ("last_ms", "before_ms", "leapt"))
    anew, since = False, last
    if leapt:
        state["leapt"] = False
        if now_ms >= last:
            anew, before = _take_gap(state, last - before), 0
        elif now_ms >= before:
            since, before = before, 0  # the leap was a wrong clock
        else:
            since = before
    elif before and now_ms > before:
        since, before = before, 0  # it came back
    elapsed = now_ms - since
    if elapsed < 0:
        before = max(before, since)
        elapsed = UNKNOWN
    elif elapsed > limit_ms:
        if elapsed > GAP_MARGIN * state["gap_ms"].item() and not before:
            before = since
            state["leapt"] = True
        else:
            anew |= _take_gap(state, elapsed)
        elapsed = UNKNOWN
    state["before_ms"] = before
    return elapsed, anew


def _take_gap(state: Records, gap_ms: int) -> bool:
    """Remember a gap; whether it is longer than those of the stream's rhythm."""
    longest = state["gap_ms"].item()
    state["gap_ms"] = max(gap_ms, GAP_MEMORY * longest)
    return bool(gap_ms > GAP_MARGIN * longest)
