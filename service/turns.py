"""Turns: who waits is served tenant by tenant, so that whoever sends most does not keep the others waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """What waits: each tenant's in the order in which it came, and tenants one after the other."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, tenant: str, one: T) -> None:
        """Have one wait behind all of its tenant's."""
        self._lines.setdefault(tenant, deque()).append(one)

    def next(self) -> tuple[str, T]:
        """Take the one whose turn it is, with its tenant, whose next one comes after those of the others."""
        tenant, line = next(iter(self._lines.items()))
        one = line.popleft()
        if not line:
            del self._lines[tenant]
        elif len(self._lines) > 1:
            self._lines[tenant] = self._lines.pop(tenant)
        return tenant, one

    def put_back(self, tenant: str, ones: Iterable[T], first: bool = False) -> None:
        """Have some that were taken wait again, before the others of their tenant.

        Args:
            ones: in their order.
            first: it is their tenant's turn next.
        """
        line = self._lines.pop(tenant, deque()) if first else self._lines.setdefault(tenant, deque())
        line.extendleft(reversed([*ones]))
        if first:
            self._lines = {tenant: line, **self._lines}

    def remove(self, tenant: str, one: T) -> bool:
        """Have one wait no more; whether it did."""
        line = self._lines.get(tenant, ())
        if one not in line:
            return False
        self._lines[tenant].remove(one)
        if not self._lines[tenant]:
            del self._lines[tenant]
        return True

    def clear(self) -> list[T]:
        """Nothing waits any more; returns what did."""
        left = [one for line in self._lines.values() for one in line]
        self._lines.clear()
        return left


def has_room(more: int, own: int, waiting: int, tenants: int, most: int) -> bool:
    """Whether more of a tenant may wait: as long as there is room, or it has less than its share; never twice the most.

    Args:
        own: of the tenant, that wait already.
        waiting: of all.
        tenants: that wait, with this one.
        most: that may wait.
    """
    return waiting + more <= most or (own + more <= most // tenants and waiting + more <= 2 * most)
