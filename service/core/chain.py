"""Chain: the tag that says which readings a stream has seen, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Records = NDArray[Any]

KNOWN_NAMES: Final = 4096
"""Sets of channels whose digests are kept."""


class Chain:
    """The tags of streams: BLAKE2b-128 over the tag before and the reading.

    Chained are, little-endian: the tag (16 bytes; zeros at first), seq (int64, -1 without), Unix ms (int64), 16 bytes
    over the names of the channels that the reading has (see `names_digest`), and their values as float64 in the
    order of their sorted names. So neither the model nor its order of channels shows in a tag, and a channel that is
    missing is one that is not there. Equal tags prove that exactly the same readings were applied in the same order.
    """

    def __init__(self, channels: tuple[str, ...]) -> None:
        order = sorted(range(len(channels)), key=channels.__getitem__)
        self._names = tuple(channels[at] for at in order)
        self._sorted = np.array(order, np.intp)
        self._digest = np.void(names_digest(self._names))
        self._link = np.dtype(
            [("tag", "V16"), ("seq", "<i8"), ("time_ms", "<i8"), ("names", "V16"), ("values", "<f8", (len(channels),))]
        )
        self._in_order = order == list(range(len(channels)))

    def tags(
        self, tags: Records, seqs: NDArray[np.int64], times_ms: NDArray[np.int64], values: NDArray[np.float64]
    ) -> Records:
        """(B,) tags after one more reading of each of B streams; `values` (B, C) with NaN where missing."""
        return tags_of((self,), tags, seqs, times_ms, values)


def tags_of(
    chains: Sequence[Chain],
    tags: Records,
    seqs: NDArray[np.int64],
    times_ms: NDArray[np.int64],
    values: NDArray[np.float64],
) -> Records:
    """(B,) `Chain.tags` of streams of C channels each; `chains`: (B,) that of each stream, or (1,) that of all."""
    one = chains[0]
    links = np.empty(len(tags), one._link)
    links["tag"], links["seq"], links["time_ms"] = tags, seqs, times_ms
    if len(chains) == 1:
        links["names"], links["values"] = one._digest, values if one._in_order else values[:, one._sorted]
    else:
        links["names"] = [chain._digest for chain in chains]
        links["values"] = np.take_along_axis(values, np.array([chain._sorted for chain in chains]), axis=1)
    whole, size = links.tobytes(), links.dtype.itemsize
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    missing = np.isnan(values)
    for at in np.flatnonzero(missing.any(axis=1)).tolist() if np.count_nonzero(missing) else ():
        there = np.isfinite(links["values"][at])
        known = (one if len(chains) == 1 else chains[at])._names
        names = tuple(name for name, sent in zip(known, there.tolist(), strict=True) if sent)
        pieces[at] = pieces[at][:32] + names_digest(names) + links["values"][at][there].tobytes()
    blake2b = hashlib.blake2b
    return np.frombuffer(b"".join([blake2b(piece, digest_size=16).digest() for piece in pieces]), "V16")


@lru_cache(KNOWN_NAMES)
def names_digest(channels: tuple[str, ...]) -> bytes:
    """16 bytes over the names of channels, sorted: each as its length in bytes (uint32) and its UTF-8."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(channels):
        written = name.encode()
        digest.update(len(written).to_bytes(4, "little") + written)
    return digest.digest()
