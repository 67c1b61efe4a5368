"""Clock: the time, as everything that compares times is given it. The simulation has one of its own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two times: one to be written down, one to wait by."""

    def unix_ms(self) -> int:
        """Unix time in milliseconds; it may be set back or forth."""

    def monotonic(self) -> float:
        """Seconds since some moment; it only goes on."""


class SystemClock:
    """The machine's."""

    def unix_ms(self) -> int:
        """Unix time in milliseconds."""
        return int(time.time() * 1000)

    def monotonic(self) -> float:
        """Seconds since some moment, the same as the event loop's."""
        return time.monotonic()
