"""Loading: from what a store holds of streams to their states before a batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from gatewatch.service.core import records as state
from gatewatch.service.core.first_look import FirstLook
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.readings import Model, Models
from gatewatch.service.core.records import Records
from gatewatch.service.core.recovery import Lost, recover
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_limit import StreamLimits
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.errors import StoreUnavailable

MAY_BE_OLD: Final = ("format", "missing", "corrupt")
"""Flaws of records that a version before format 4 may have written."""


@dataclass
class LoadedBatch:
    """The B streams of a batch and their states before it.

    Attributes:
        streams: their keys.
        seeds: where the checksums of their records start.
        fences: what the store held of each when it was loaded.
        records: (B,) the states before; moved forward in place.
        layouts: (B,) which channels each has sent.
        recovered: row of a stream whose state had to be rebuilt, to the history to be written anew, in its channels.
        causes: row of such a stream to what was wrong with its record; not of new streams.
        new: rows of new streams.
        excess: those of them that are more than there may be.
        overwritten: streams that a version before format 4 wrote after this one, unless their save finds otherwise.
        moved: streams that have another model by now; they have no state here, and nothing is saved with one of them.
    """

    streams: list[StreamKey]
    seeds: list[int]
    fences: list[bytes]
    records: Records
    layouts: list[Layout]
    recovered: dict[int, Entries] = field(default_factory=dict)
    causes: dict[int, str] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    excess: set[int] = field(default_factory=set)
    overwritten: set[StreamKey] = field(default_factory=set)
    moved: set[StreamKey] = field(default_factory=set)


class Loader:
    """Makes states of what a store holds; gives streams whose record is absent, or of no use, another one."""

    def __init__(self, models: Models, store: Store, takeover: Takeover, limits: StreamLimits) -> None:
        self._models = models
        self._store = store
        self._takeover = takeover
        self._limits = limits
        self.first_look = FirstLook(store)

    async def load(
        self, model: Model, streams: list[StreamKey], packed: Sequence[bytes | None], sound: bool = False
    ) -> LoadedBatch:
        """The states of streams from their records as bytes.

        Where other models wrote records, the newest rules say whether their streams move to this one.

        Args:
            sound: they were written by this process, and need no look.
        """
        stepper = model.stepper
        usual, size = stepper.usual, stepper.record.itemsize
        seeds = self._store.seeds(streams)
        if sound and state.of_model(packed, stepper.record, model.detector.digest):
            written = cast("Sequence[bytes]", packed)
            records = state.sound([p[:size] for p in written], stepper.record)
            layouts = [state.layout_in(p, usual, size) for p in written]
            return LoadedBatch(streams, seeds, [p[state.FENCE] for p in written], records, layouts)
        records, layouts, flaws = state.unpack(
            packed, seeds, stepper.record, usual, model.detector.digest, stepper.slots
        )
        loaded = LoadedBatch(streams, seeds, [state.fence_of(p) for p in packed], records, layouts)
        self._takeover.check(records["takeover"])
        others = [row for row, flaw in flaws.items() if flaw == "model"]
        if others:
            moved = await self._models.moved(model, [streams[row] for row in others])
            loaded.moved = {streams[others[at]] for at in moved}
            if loaded.moved:
                return loaded
        rows = [row for row in range(len(streams)) if row not in flaws]
        stale = await self.first_look.stale(stepper, rows, streams, seeds, layouts, records)
        flaws |= dict.fromkeys(stale, "stale")
        if flaws:
            await self._recover(model, loaded, packed, flaws)
        records["takeover"] = self._takeover.number
        return loaded

    async def admit(self, loaded: LoadedBatch) -> None:
        """Tell which new streams are more than there may be; until `over` the others count."""
        if loaded.new:
            refused = await self._limits.admit(loaded.streams, [loaded.streams[row] for row in loaded.new])
            loaded.excess = {row for row in loaded.new if loaded.streams[row] in refused}

    def over(self, streams: Sequence[StreamKey]) -> None:
        """A batch of these streams is over: the store counts those that it began."""
        self._limits.end(streams)

    @property
    def refusal(self) -> str:
        """What a reading gets that would begin one stream too many."""
        return self._limits.refusal

    async def saved(self, loaded: LoadedBatch, saved: set[StreamKey]) -> None:
        """Forget what a version before format 4 kept of streams that were converted and saved."""
        for stream in loaded.overwritten & saved:
            self._takeover.overwritten(stream)
        converted = [loaded.streams[row] for row, cause in loaded.causes.items() if cause in MAY_BE_OLD]
        if converted and saved.issuperset(converted):
            with contextlib.suppress(StoreUnavailable):  # it is only in the way
                await self._store.drop_old_histories(converted)

    async def _recover(
        self, model: Model, loaded: LoadedBatch, packed: Sequence[bytes | None], flaws: dict[int, str]
    ) -> None:
        """Give streams whose record is absent or not this model's a state; see recovery.py."""
        names = [loaded.streams[row] for row in flaws]
        rings, settings = await self._store.load_histories(names), await self._store.load_settings(names)
        for row, flaw in flaws.items():
            if flaw == "corrupt":
                await self._store.quarantine(loaded.streams[row], packed[row] or b"")
        old_rings = await self._old_rings(loaded.streams, flaws, rings)
        lost = [
            Lost(flaw, packed[row] or b"", loaded.seeds[row], ring, old_rings.get(row, b""))
            for (row, flaw), ring in zip(flaws.items(), rings, strict=True)
        ]
        for row, loss, found in zip(flaws, lost, await asyncio.to_thread(recover, model.stepper, lost), strict=True):
            self._takeover.check(found.record["takeover"])
            loaded.records[row] = found.record[0]
            loaded.layouts[row], loaded.recovered[row] = found.layout, found.kept
            if found.overwritten:
                loaded.overwritten.add(loaded.streams[row])
            if loss.flaw != "missing" or len(found.kept):
                loaded.causes[row] = loss.flaw
        loaded.new = [row for row in flaws if row not in loaded.causes]
        for row, content in zip(flaws, settings, strict=True):
            if content:
                StreamSettings.decode(content).write(loaded.records[row : row + 1])

    async def _old_rings(
        self, streams: list[StreamKey], flaws: dict[int, str], rings: Sequence[bytes]
    ) -> dict[int, bytes]:
        """What a version before format 4 kept as history, of streams that may have one.

        Args:
            rings: what this version keeps of them.
        """
        rows = [
            row
            for (row, flaw), ring in zip(flaws.items(), rings, strict=True)
            if flaw == "format" or (flaw in MAY_BE_OLD and not ring)
        ]
        if not rows:
            return {}
        rings = await self._store.load_old_histories([streams[row] for row in rows])
        return dict(zip(rows, rings, strict=True))
