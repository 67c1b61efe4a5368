"""Deadlines: which connections owe something, and who of them is overdue."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatewatch.service.http.connection import EdgeProtocol


class Clock:
    """Connections that owe the same thing. All have the same time for it, so the first in is the first overdue."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._due: OrderedDict[EdgeProtocol, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._due)

    def start(self, connection: EdgeProtocol, now: float) -> None:
        self._due[connection] = now + self.seconds
        self._due.move_to_end(connection)

    def stop(self, connection: EdgeProtocol) -> None:
        self._due.pop(connection, None)

    def first(self) -> EdgeProtocol | None:
        return next(iter(self._due), None)

    def used_up(self, now: float) -> float:
        """The share of its time that the first has used up; -1 without any."""
        first = self.first()
        return -1.0 if first is None else 1 - (self._due[first] - now) / self.seconds

    def overdue(self, now: float, most: int) -> list[EdgeProtocol]:
        found: list[EdgeProtocol] = []
        for connection, due in self._due.items():
            if due > now or len(found) == most:
                break
            found.append(connection)
        return found
