"""Allocator: keeps the memory that a batch frees for the next batch.

A batch of 1,000 readings takes and frees some ten arrays of a megabyte each. glibc hands such memory back to the system
at once and gets it again, page by page: 970 page faults a batch, 4 of 24 µs a reading (measured).
"""

from __future__ import annotations

import ctypes
from typing import Final

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""From malloc.h."""

KEPT_BYTES: Final = 32 * 2**20
"""Freed memory that stays with the process; also the most that glibc takes as a MMAP_THRESHOLD."""


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, up to KEPT_BYTES; one without glibc's `mallopt` does as it does."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(TOP_PAD, 2**20)
