"""Runtime: what a process asks of the C library and of the system.

Memory that a batch frees is kept for the next one. One of 1,000 readings takes and frees some ten arrays of a megabyte
each. glibc hands such memory back to the system at once and gets it again, page by page: 970 page faults a batch, 4 of
24 µs a reading (measured).
"""

from __future__ import annotations

import ctypes
import resource
from typing import Final

import structlog

log = structlog.get_logger(__name__)

SPARE_FILES: Final = 2048 + 256
"""Beside the connections: those of one backlog, taken before any of them gives way, and the service's own files."""

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


def allow_files(connections: int) -> int:
    """Raise this process's limit of open files to what `connections` need; return how many can then be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    fewer = max(soft - SPARE_FILES, soft // 2)
    if fewer < connections:
        log.warning(
            "the limit of open files is too low for GATEWATCH_CONNECTIONS", open_files=soft, wanted=wanted, used=fewer
        )
    return min(fewer, connections)
