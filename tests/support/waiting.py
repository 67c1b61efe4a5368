"""Wait for what another process or thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], object], within_s: float = 60) -> float:
    """Wait until something holds; after how many s it did."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, "it has not come about"
        time.sleep(0.05)
    return time.monotonic() - began
