"""Layout: which channels a stream has sent, in which order its readings are kept, and where a model's channels stand.

A stream's channels are its own: one that a later model does not know stays in the history, one that is new is appended.
The layout stands at the end of each record, as MessagePack: the names, and where the model's channels stand among them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gatewatch.service.core.chain import Chain

KNOWN_LAYOUTS: Final = 4096

Columns = NDArray[np.intp]


class _Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """How a layout is written."""

    channels: list[str]
    model: list[int]


_decoder = msgspec.msgpack.Decoder(_Kept)


class Layout:
    """The channels of a stream, and those of its model among them.

    Attributes:
        channels: (S,) of the stream, in the order of its history.
        model: (C,) names of the model's channels, in the model's order.
        columns: (C,) where these stand among the stream's.
        whole: the stream's channels are the model's, in the same order.
        encoded: as it stands in a record.
    """

    def __init__(self, channels: Sequence[str], model: Sequence[str]) -> None:
        self.channels = tuple(channels)
        self.model = tuple(model)
        places = {name: at for at, name in enumerate(self.channels)}
        self.columns: Columns = np.array([places[name] for name in self.model], np.intp)
        self.whole = self.channels == self.model
        self.encoded = msgspec.msgpack.encode(_Kept(list(self.channels), self.columns.tolist()))

    @cached_property
    def chain(self) -> Chain:
        """The tags of streams whose model has these channels."""
        return Chain(self.model)

    @cached_property
    def ring_header(self) -> bytes:
        """How the stream's history begins: the length of the names (uint32), the names, and their checksum."""
        names = msgspec.msgpack.encode(self.channels)
        return len(names).to_bytes(4, "little") + names + zlib.crc32(names).to_bytes(4, "little")

    @cached_property
    def _channels_seed(self) -> int:
        return zlib.crc32("\0".join(self.channels).encode())

    def slot_seed(self, seed: int) -> int:
        """Where a slot's checksum starts: readings of other channels, or another stream's, are never taken for these.

        Args:
            seed: where the checksum of the stream's record starts.
        """
        return self._channels_seed ^ seed

    @cached_property
    def entry(self) -> np.dtype[Any]:
        """One slot of the stream's history."""
        return entry_dtype(len(self.channels))

    def taken_over(self, model: Sequence[str]) -> Layout:
        """The stream's layout under a model of other channels: those it has not sent yet come behind its own."""
        return layout_of((*self.channels, *(name for name in model if name not in self.channels)), tuple(model))


@lru_cache(KNOWN_LAYOUTS)
def layout_of(channels: tuple[str, ...], model: tuple[str, ...]) -> Layout:
    """The layout of a stream with these channels under a model with those, which are among them."""
    return Layout(channels, model)


@lru_cache(KNOWN_LAYOUTS)
def decode(encoded: bytes) -> Layout | None:
    """The layout that stands at the end of a record; None where it cannot be one."""
    try:
        kept = _decoder.decode(encoded)
        return layout_of(tuple(kept.channels), tuple(kept.channels[at] for at in kept.model))
    except (msgspec.MsgspecError, IndexError, UnicodeDecodeError):
        return None


def of_ring(ring: bytes) -> tuple[str, ...] | None:
    """The channels that a history says it has; None where its beginning is lost."""
    end = 4 + int.from_bytes(ring[:4], "little")
    names = ring[4:end]
    if len(ring) < end + 4 or not names or zlib.crc32(names) != int.from_bytes(ring[end : end + 4], "little"):
        return None
    try:
        return tuple(msgspec.msgpack.decode(names, type=list[str]))
    except (msgspec.MsgspecError, UnicodeDecodeError):  # a later version may write them in another way
        return None


def entry_dtype(channels: int) -> np.dtype[Any]:
    """One slot of a history: 63 bytes and 24 a channel; what it says needs no model to be read.

    `values`, `mid` and `half` (of the band expected) are in physical units, NaN where there are none. A channel that
    the model did not know has the attribution NaN. `single`: the values are known as float32 only.
    """
    return np.dtype(
        [
            ("checksum", "<u4"),
            ("n", "<u8"),
            ("timestamp_ms", "<i8"),
            ("seq", "<i8"),
            ("session", "<u4"),
            ("tag", "V16"),
            ("model", "V8"),
            ("score", "<f4"),
            ("status", "u1"),
            ("reason", "u1"),
            ("single", "u1"),
            ("values", "<f8", (channels,)),
            ("mid", "<f8", (channels,)),
            ("half", "<f4", (channels,)),
            ("attribution", "<f4", (channels,)),
        ]
    )
