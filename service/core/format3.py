"""Records and histories of format 3 (versions up to 0.1), converted to format 4 where a stream is first touched.

A record of format 3 had readings as float32 in the order of the model's channels, whose names stood nowhere. They are
found by the checksum of the history's slots, which began with those names: those of this model are tried, in any order
if they are few. Nothing is lost: readings, tag, order and settings go on in any case; the history and the model's state
where the channels are found and the model is the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations
from typing import Any, Final

import numpy as np

from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, entry_dtype, layout_of
from gatewatch.service.core.records import FIRST_SESSION, STREAM_PART, Records
from gatewatch.service.core.stepper import Stepper

FORMAT: Final = 3
MOST_ORDERS: Final = 720
"""Orders of channels that are tried: all of six."""

TRIED_SLOTS: Final = 4
"""Of a history, with each other order: 3 ms a stream whose channels are not found; with all slots it took 70 ms."""

_HEAD: Final = np.dtype(
    [
        ("magic", "S2"),
        ("format", "<u2"),
        ("model", "V8"),
        ("tag", "V16"),
        ("hold", "u1"),
        ("reorder_ms", "<u4"),
        ("readings", "<u8"),
        ("last_seq", "<i8"),
        ("history", "<u4"),
        ("score", "<f4"),
        ("status", "u1"),
        ("earlier", "<u4"),
        ("earlier_ms", "<i8"),
        ("last_ms", "<i8"),  # the first field of every detector's state
    ]
)


@dataclass(frozen=True)
class Converted:
    """A stream of format 3.

    Attributes:
        stream: (1,) its stream part.
        layout: its channels under this model.
        kept: its history.
        record: (1,) the whole record, where its state is this model's.
    """

    stream: Records
    layout: Layout
    kept: Entries
    record: Records | None


def is_old(packed: bytes | None) -> bool:
    """Whether a record is of format 3."""
    return packed is not None and packed[:4] == state.MAGIC + FORMAT.to_bytes(2, "little")


def convert(stepper: Stepper, packed: bytes, seed: int, ring: bytes) -> Converted | None:
    """Read a record of format 3 and its history; None where it is damaged or none."""
    if not is_old(packed) or len(packed) < _HEAD.itemsize + 4 or zlib.crc32(packed, seed) != state.WHOLE:
        return None
    old = np.frombuffer(packed, _HEAD, 1)
    channels, kept = _history(stepper, ring)
    layout = _layout(stepper, channels)
    stream = np.zeros(1, STREAM_PART)
    for name in ("tag", "hold", "reorder_ms", "readings", "last_seq", "last_ms", "score", "status"):
        stream[name] = old[name]
    stream["history"] = stepper.slots
    stream["session_ms"] = FIRST_SESSION
    stream["newest_ms"] = max(int(old["last_ms"][0]), *kept["timestamp_ms"].tolist(), FIRST_SESSION)
    if not old["readings"][0]:
        stream["newest_ms"] = FIRST_SESSION
    return Converted(stream, layout, kept, _record(stepper, packed, old, stream, channels, kept))


def read_history(stepper: Stepper, ring: bytes) -> tuple[Layout, Entries]:
    """The layout and the history of a stream whose record is lost."""
    channels, kept = _history(stepper, ring)
    layout = _layout(stepper, channels)
    return layout, history.rearranged(kept, layout_of(channels, channels), layout)


def _layout(stepper: Stepper, channels: tuple[str, ...]) -> Layout:
    return layout_of(channels, channels).taken_over(stepper.detector.channels)


def _record(
    stepper: Stepper, packed: bytes, old: Records, stream: Records, channels: tuple[str, ...], kept: Entries
) -> Records | None:
    detector = stepper.detector
    before = detector.state_dtype_1
    same = channels == detector.channels and bytes(old["model"][0]) == detector.digest_1(channels)
    if not same or len(packed) != _HEAD.itemsize - 8 + before.itemsize + 4:
        return None
    record = stepper.fresh(1)
    for name in state.STREAM_FIELDS:
        record[name] = stream[name]
    record["detector"] = detector.from_version_1(np.frombuffer(packed, before, 1, _HEAD.itemsize - 8))
    record["present"] = np.isfinite(kept["values"][-1]) if len(kept) else True
    return record


def _history(stepper: Stepper, ring: bytes) -> tuple[tuple[str, ...], Entries]:
    """The channels of a history of format 3, and its entries; this model's, and none, where they are not found."""
    own = stepper.detector.channels
    for channels in islice(_orders(own), MOST_ORDERS):
        seed = zlib.crc32("\0".join(channels).encode())
        for forecasts in (len(channels), 2 * len(channels)):
            dtype = _entry_dtype(len(channels), forecasts)
            if channels != own and not len(history.unpack_slots(ring[: TRIED_SLOTS * dtype.itemsize], dtype, seed)):
                continue
            entries = history.unpack_slots(ring, dtype, seed)
            if len(entries):
                return channels, _converted(stepper, entries, channels)[-stepper.slots :]
    return own, np.empty(0, entry_dtype(len(own)))


def _orders(channels: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield channels
    for order in permutations(channels):
        if order != channels:
            yield order


def _entry_dtype(channels: int, forecasts: int) -> np.dtype[Any]:
    return np.dtype(
        [
            ("checksum", "<u4"),
            ("n", "<u8"),
            ("timestamp_ms", "<i8"),
            ("seq", "<i8"),
            ("tag", "V16"),
            ("model", "V8"),
            ("score", "<f4"),
            ("status", "u1"),
            ("reason", "u1"),
            ("values", "<f4", (channels,)),
            ("forecast", "<f4", (forecasts,)),
            ("attribution", "<f4", (channels,)),
        ]
    )


def _converted(stepper: Stepper, old: Entries, channels: tuple[str, ...]) -> Entries:
    entries = np.zeros(len(old), entry_dtype(len(channels)))
    for name in ("n", "timestamp_ms", "seq", "tag", "model", "score", "status", "reason", "values", "attribution"):
        entries[name] = old[name]
    entries["single"] = 1
    forecast = old["forecast"].astype(np.float64)
    if forecast.shape[1] == 2 * len(channels):
        mid, half = np.split(forecast, 2, axis=1)
        unknown = half >= np.finfo(np.float32).max
        entries["mid"], entries["half"] = np.where(unknown, np.nan, mid), np.where(unknown, np.inf, half)
    elif channels == stepper.detector.channels and bytes(old["model"][-1]) == stepper.detector.digest:
        entries["mid"], entries["half"] = stepper.detector.band_1(forecast)
        unknown = (old["model"] != old["model"][-1])[:, None]
        entries["mid"] = np.where(unknown, np.nan, entries["mid"])
    else:
        entries["mid"], entries["half"] = np.nan, np.inf
    return entries
