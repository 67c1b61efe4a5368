"""ShadowStream: one stream as a shadow follows it: its state under the shadow, and the readings that wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import Detector, Records
from gatewatch.service.core.history import Entries
from gatewatch.service.core.records import ENDED, KEPT

Columns = NDArray[np.intp]


class Taken(NamedTuple):
    """A reading that this process scored.

    Attributes:
        entry: as it stands in the stream's history, in the channels `names`.
    """

    entry: Any
    names: tuple[str, ...]


class ShadowStream:
    """A stream's state under a shadow.

    The shadow sees a stream's readings without a gap, as the model beside it does. Others may score some of them; so
    one whose number is not the next is looked for in the history. There each entry carries the chain tag, which tells
    whether the readings before it are those that the state has seen.

    Attributes:
        state: (1,) after the readings seen; None before the first look into the history.
        before_ms: time of the last one.
        waiting: readings that this process scored, in order; their comparison is what counts.
        replay: readings from the history that come first, and whether each is to be compared.
        looked_at: when the history was looked at last.
    """

    def __init__(self) -> None:
        self.state: Records | None = None
        self.before_ms: int | None = None
        self.waiting: deque[Taken] = deque()
        self.replay: deque[tuple[Any, bool]] = deque()
        self.looked_at = 0.0
        self.used_at = 0.0
        self._next = 0
        self._tag = b""
        self._status: int | None = None  # of the last reading
        self._names: tuple[str, ...] = ()

    def begins(self, taken: Taken, detector: Detector) -> bool:
        """Whether a reading is the stream's first one, and needs no history."""
        if taken.entry["n"] != 0:
            return False
        self._restart(detector, taken.names)
        return True

    def is_next(self, taken: Taken) -> bool:
        """Whether a reading follows what the state has seen, in its channels."""
        return self.state is not None and int(taken.entry["n"]) == self._next and taken.names == self._names

    def was_seen(self, taken: Taken) -> bool:
        """Whether a reading was among those that the history had."""
        return self.state is not None and self._next - int(taken.entry["n"]) > 0 and taken.names == self._names

    def catch_up(self, kept: Entries, names: tuple[str, ...], detector: Detector) -> None:
        """Go by a stream's history: on from the reading that the state has seen last, else from its beginning.

        It ends with the last one that waits: what came after it may be this process's own, and is not counted yet.

        Args:
            kept: in the channels `names`, oldest first; something waits.
        """
        numbers = kept["n"].astype(np.int64)
        last = np.flatnonzero(numbers == self._next - 1)
        follows = self.state is not None and names == self._names and len(last) == 1
        if follows and bytes(kept["tag"][last[0]]) == self._tag:
            kept = kept[numbers >= self._next]
        else:
            self._restart(detector, names)
        own = {int(taken.entry["n"]) for taken in self.waiting}
        kept = kept[kept["n"].astype(np.int64) <= max(own)]
        self.replay = deque((entry, int(entry["n"]) in own) for entry in kept)
        if len(kept):
            newest = int(kept["n"][-1])
            self.waiting = deque(taken for taken in self.waiting if int(taken.entry["n"]) > newest)

    def seen(self, entry: Any, state: Records) -> int:
        """A reading was stepped; returns the milliseconds since the one before, 0 where there was none."""
        self.state = state
        self._next, self._tag, self._status = int(entry["n"]) + 1, bytes(entry["tag"]), int(entry["status"])
        now_ms = int(entry["timestamp_ms"])
        elapsed = 0 if self.before_ms is None else max(0, now_ms - self.before_ms)
        self.before_ms = now_ms
        return elapsed

    def is_kept(self, entry: Any) -> bool:
        """Whether the stream was kept from learning before a reading, which is the next one."""
        status = int(entry["status"]) if self._status is None else self._status
        return bool(status & KEPT) and not status & ENDED

    def was_let_go(self, entry: Any) -> bool:
        """Whether its incident was ended before a reading, which is the next one; where that is not said, it follows
        from what it teaches."""
        status = 0 if self._status is None else self._status
        return bool(status & ENDED or status & KEPT > int(entry["status"]) & KEPT)

    @property
    def names(self) -> tuple[str, ...]:
        """The channels of the readings that the state has seen."""
        return self._names

    def _restart(self, detector: Detector, names: tuple[str, ...]) -> None:
        self.state, self.before_ms, self._names, self._status = detector.initial(1), None, names, None


def columns_of(names: Sequence[str], channels: Sequence[str]) -> Columns:
    """(C,) where each channel of a model stands among `names`, -1 for one that does not."""
    return np.array([names.index(channel) if channel in names else -1 for channel in channels], np.intp)


def in_channels(values: Any, columns: Columns) -> NDArray[np.float64]:
    """(B, S) values to (B, C), NaN where a channel is not among them."""
    found = np.asarray(values, np.float64)[:, columns]
    found[:, columns < 0] = np.nan
    return found
