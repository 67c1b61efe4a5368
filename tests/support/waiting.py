"""Wait for what another process or thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 120.0
"""For what is sure to come: on a machine with a load of 35, 30 s were too few for a service to begin."""


def until(holds: Callable[[], object], within_s: float = PATIENCE_S) -> float:
    """Wait until something holds; after how many s it did."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within_s, "it has not come about"
        time.sleep(0.02)
    return time.monotonic() - began
