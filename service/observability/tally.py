"""Tally: the values of all series of all worker processes, in memory that they share.

The memory has no name in any folder: nothing that cleans folders takes it away, and it needs no folder that can be
written. Each process adds to a slot of its own. One that takes over the slot of a process that ended goes on from what
stands there, so nothing is lost with a process and nothing grows with their number.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import weakref
from collections import Counter
from multiprocessing.reduction import DupFd
from threading import Lock
from typing import Any, Final

SLOTS: Final = 128
"""Most processes at a time: workers, and those that replace them."""

NAMES_BYTES: Final = 2**18
CELLS: Final = 2**13
SLOT_BYTES: Final = NAMES_BYTES + 8 * CELLS
"""Of a slot; what is not used of it takes no memory."""


class _Slot:
    """The series of one process: how many bytes their names take, the names, a line each, and the values."""

    def __init__(self, memory: memoryview) -> None:
        self._used = memory[:8].cast("q")
        self._names = memory[8:NAMES_BYTES]
        self.values = memory[NAMES_BYTES:].cast("d")

    def names(self) -> list[str]:
        return bytes(self._names[: self._used[0]]).decode().splitlines()

    def add(self, name: str) -> None:
        """Note the name last, so that another process never reads half of it."""
        line, used = f"{name}\n".encode(), self._used[0]
        self._names[used : used + len(line)] = line
        self._used[0] = used + len(line)


class Tally:
    """The slots of all processes, or of one alone; sent to another process, shared slots are the same memory there."""

    def __init__(self, descriptor: int | None = None) -> None:
        """`descriptor`: of memory with SLOTS slots; without it the tally is that of one process."""
        self._descriptor = descriptor
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)
        slots = 1 if descriptor is None else SLOTS
        memory = memoryview(mmap.mmap(-1 if descriptor is None else descriptor, slots * SLOT_BYTES))
        self._slots = [_Slot(memory[at * SLOT_BYTES : (at + 1) * SLOT_BYTES]) for at in range(slots)]
        self._own = -1
        self._places: dict[str, int] = {}
        self._live: set[str] = set()
        self._others: Counter[str] = Counter()
        self._lock = Lock()

    @classmethod
    def shared(cls) -> Tally:
        """A new one for several processes."""
        descriptor = os.memfd_create("gatewatch-tally")
        os.ftruncate(descriptor, SLOTS * SLOT_BYTES)
        return cls(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._descriptor is None:
            raise TypeError("the tally of one process is sent to no other")
        return _received, (DupFd(self._descriptor),)

    def claim(self) -> None:
        """Take a slot for this process, which keeps it until it ends, however it ends."""
        self._own = next(number for number in range(len(self._slots)) if self._lockable(number, keep=True))
        self._places = {name: place for place, name in enumerate(self._slots[self._own].names())}

    def cell(
        self,
        kind: str,
        _metric: str,
        name: str,
        label_names: tuple[str, ...],
        label_values: tuple[str, ...],
        _text: str,
        multiprocess_mode: str = "",
        **_: object,
    ) -> Cell:
        """What prometheus-client keeps a value in; it calls this with what its own classes take.

        A gauge is this process's own, but for one that is to be summed over those that live.
        """
        if kind == "gauge" and multiprocess_mode != "livesum":
            return Cell(self, self._lock, "", memoryview(bytearray(8)).cast("d"), 0)
        full = json.dumps([name, *zip(label_names, label_values, strict=True)])
        values = self._slots[self._own].values
        if full not in self._places:
            self._slots[self._own].add(full)
            self._places[full] = len(self._places)
        if kind == "gauge":
            self._live.add(full)
            values[self._places[full]] = 0.0
        return Cell(self, self._lock, full, values, self._places[full])

    def gather(self) -> None:
        """Add up the slots of the other processes, for `Cell.get`."""
        self._others.clear()
        for number, slot in enumerate(self._slots):
            names = slot.names()
            if not names:
                break  # the lowest free slot is taken first
            if number == self._own:
                continue
            ended = self._lockable(number)
            for name, value in zip(names, slot.values, strict=False):
                if not (ended and name in self._live):
                    self._others[name] += value  # type: ignore[assignment]

    def _lockable(self, number: int, keep: bool = False) -> bool:
        """Whether no other process holds a slot; the kernel gives back what a process held that ended."""
        if self._descriptor is None:
            return True
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        if not keep:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)
        return True

    def of_others(self, name: str) -> float:
        return self._others[name]


def _received(descriptor: Any) -> Tally:
    return Tally(descriptor.detach())


class Cell:
    """One value, with what prometheus-client asks of its own."""

    def __init__(self, tally: Tally, lock: Lock, name: str, values: memoryview[float], place: int) -> None:
        self._tally = tally
        self._lock = lock
        self._name = name
        self._values = values
        self._place = place

    def inc(self, amount: float) -> None:
        with self._lock:
            self._values[self._place] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002
        self._values[self._place] = value

    def get(self) -> float:
        return self._values[self._place] + self._tally.of_others(self._name)

    def set_exemplar(self, exemplar: object) -> None: ...

    def get_exemplar(self) -> None: ...
