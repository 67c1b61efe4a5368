"""Jumps: one reading far from what the one before let expect, however usual its value is; by each channel's own tail.

A jump is what both the forecast one ahead and the last value have missed by, z = min(|x - forecast|, |x - x'|)/S with
the mean miss S. How far z goes on normal readings differs from channel to channel by a factor of fifty: a smooth curve
never misses by ten, a bursty count does so every day. So each channel learns the edge q that one of EDGE_READINGS
readings is beyond, and the mean ξ of e = ln z/q of those that are:

    ln q' = ln q + g(1{z > q} - 1/EDGE_READINGS),  g = max(0.05, 2/n)       ξ' = ξ + (min(e, 3ξ) - ξ)/(m + PRIOR)
    nats of a jump beyond q:  ln EDGE_READINGS + (m + PRIOR) ln(1 + e/((m + PRIOR) ξ))

Beyond the edge that is a Pareto law, as misses have (Pickands 1975), whose exponent 1/ξ is known only as well as m
jumps tell it: the predictive law under a gamma prior of weight PRIOR. The bounds on what one jump teaches are those of
contract 12. How often such nats come in the stream is counted, see models.detectors.general.tail.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.general.features import UNCLIPPED
from gatewatch.models.detectors.operands import ARRAYS, Functions
from gatewatch.models.record_fields import load, store

Float64Array = NDArray[np.float64]
Records = NDArray[Any]

EDGE_READINGS = 100.0
LOG_EDGE = float(np.log(EDGE_READINGS))
FIRST_EDGE, FIRST_EXCESS = 3.0, 0.5
"""Of z, as a mean miss is its unit; and of e: a tail that falls with the square."""

LEAST_GAIN = 0.05
PRIOR, MOST_JUMPS = 10.0, 50.0
"""With a prior of 5, a recording of 500 readings of 52 channels alerts where the next one begins; with 20, spikes on
smooth curves are found less often."""

LARGEST_EXCESS = 3.0
SETTLING_READINGS = 200
"""Forecasts of a channel that have been held against its readings before a jump of it is judged."""


def jump_fields(channels: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """The fields of a stream's state that this module keeps: 12 bytes a channel."""
    return [(name, "<f4", (channels,)) for name in ("jump_edge", "jump_excess", "jumps")]


def begin_jumps(states: Records) -> None:
    """Turn fields that are 0 into those of channels that have not jumped."""
    states["jump_edge"], states["jump_excess"] = FIRST_EDGE, FIRST_EXCESS


def jump_nats(size: Float64Array, told: NDArray[np.bool_], states: Records) -> Float64Array:
    """(B, C) nats of jumps by the tail of their channels, 0 within the edge; then takes the reading in.

    Args:
        size: (B, C) z.
        told: (B, C) whether there was anything to be missed.
        states: (B,) records with `jump_fields`, and `misses` and `moves` before the reading.
    """
    lessons = jump_lessons(size, told, states["misses"][..., 0], states["moves"] > UNCLIPPED)
    *fields, nats = jump_after(ARRAYS, load(states, "jump_edge", 3), *lessons)
    store(states, "jump_edge", np.array(fields))
    return np.broadcast_to(nats, size.shape)


def jump_lessons(
    size: Float64Array, told: NDArray[np.bool_], forecasts: NDArray[Any], known: NDArray[np.bool_]
) -> tuple[Any, ...]:
    """What `jump_after` takes, by how many forecasts were held against each channel, which is `known` or rests."""
    gain = told * np.maximum(LEAST_GAIN, 2.0 / (forecasts + 1.0))
    return size, told, gain, 1.0 - gain / EDGE_READINGS, (forecasts >= SETTLING_READINGS) & known


def jump_after(
    of: Functions, kept: Any, size: Any, told: Any, gain: Any, fade: Any, known: Any
) -> tuple[Any, Any, Any, Any]:
    """q', ξ' and m' of channels, and nats of their jumps; arrays (..., C), or numbers."""
    edge, excess, jumps = kept
    beyond = told & (size > edge)
    nats: Any = 0.0
    if of.some(beyond):
        e = of.log(of.where(beyond, size / edge, 1.0))
        weight = jumps + PRIOR
        nats = (beyond & known) * (LOG_EDGE + weight * of.log1p(e / (weight * excess)))
        jumps = of.smaller(jumps + beyond, MOST_JUMPS)
        excess = excess + beyond * (of.smaller(e, LARGEST_EXCESS * excess) - excess) / (jumps + PRIOR)
        edge = edge * of.exp(of.smaller(gain * beyond, e))
    return of.larger(edge * fade, 1.0), excess, jumps, nats
