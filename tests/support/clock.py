"""What several tests share."""

from __future__ import annotations


class Hands:
    """A Clock that stands until it is set."""

    seconds = 0.0

    def unix_ms(self) -> int:
        return 1_800_000_000_000

    def monotonic(self) -> float:
        return self.seconds
