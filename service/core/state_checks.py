"""What a state that somebody hands in may say. Its checksums show what was damaged, and prove nothing of who wrote it.

Numbers that no service writes would harm more than their own stream: an answer that cannot be written fails its batch.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import REASONS, STATUSES
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.readings import LARGEST_SEQ, NO_SEQ
from gatewatch.service.core.records import FIRST_SESSION, Records
from gatewatch.service.core.stream_settings import LONGEST_WINDOW_S

LARGEST_VALUE: Final = float(np.finfo(np.float32).max)
"""Of a reading."""

LAST_MS: Final = 253_402_300_799_999
"""The last time that has four digits for its year, which RFC 3339 asks for."""

MOST_READINGS: Final = 2**53
"""Of a stream; one a millisecond for 285,000 years."""

LONGEST_NAME: Final = 256
"""Characters of a channel's name."""

MOST_CHANNELS: Final = 4096
"""Of a stream, whatever GATEWATCH_STREAM_CHANNELS says."""


def check_channels(layout: Layout) -> None:
    """Raise ValueError unless a stream may have these channels."""
    channels = layout.channels
    if len(channels) > MOST_CHANNELS:
        raise ValueError(f"it has {len(channels)} channels; at most {MOST_CHANNELS} are taken")
    if len(set(channels)) < len(channels) or len(set(layout.model)) < len(layout.model):
        raise ValueError("a channel stands in it twice")
    for name in channels:
        if not 0 < len(name) <= LONGEST_NAME or name != name.strip() or not name.isprintable():
            raise ValueError(f"a channel is called {name[:64]!r}")


def check_part(part: Records) -> None:
    """Raise ValueError unless the (1,) stream part of a record is one that readings lead to."""
    one = part[0]
    _require(
        hold=one["hold"] <= 1,
        join=one["join"] <= 1,
        reorder_ms=one["reorder_ms"] <= LONGEST_WINDOW_S * 1000,
        readings=one["readings"] <= MOST_READINGS,
        last_seq=NO_SEQ <= one["last_seq"] <= LARGEST_SEQ,
        last_ms=0 <= one["last_ms"] <= LAST_MS,
        newest_ms=one["newest_ms"] == FIRST_SESSION or 0 <= one["newest_ms"] <= LAST_MS,
        session_ms=one["session_ms"] <= FIRST_SESSION + 1 or 0 <= one["session_ms"] <= LAST_MS + 1,
        earlier_ms=0 <= one["earlier_ms"] <= LAST_MS,
        score=np.isfinite(one["score"]),
        status=(one["status"] & state.STATUS_BITS) < len(STATUSES),
    )


def check_entries(kept: Entries) -> None:
    """Raise ValueError unless the entries of a history are those of readings."""
    values, shares = kept["values"], kept["attribution"]
    _require(
        n=kept["n"] <= MOST_READINGS,
        timestamp_ms=_within(kept["timestamp_ms"], 0, LAST_MS),
        seq=_within(kept["seq"], NO_SEQ, LARGEST_SEQ),
        score=np.isfinite(kept["score"]),
        status=(kept["status"] & state.STATUS_BITS) < len(STATUSES),
        reason=(kept["reason"] & state.REASON_BITS) < len(REASONS),
        values=np.isnan(values) | _within(values, -LARGEST_VALUE, LARGEST_VALUE),
        attribution=(np.isnan(shares) | np.isfinite(shares)).all(axis=1) & np.isfinite(shares).any(axis=1),
    )


def _within(numbers: NDArray[Any], least: float, most: float) -> NDArray[np.bool_]:
    return np.asarray((numbers >= least) & (numbers <= most))


def _require(**sound: Any) -> None:
    for name, holds in sound.items():
        if not np.all(holds):
            raise ValueError(f"{name} is nothing that a reading leads to")
