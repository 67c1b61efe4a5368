"""Loading: from what a store holds of streams to their states before a batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np

from gatewatch.models.detectors.asked import Asked
from gatewatch.service.core import records as state
from gatewatch.service.core.first_look import FirstLook
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, layout_of, of_ring
from gatewatch.service.core.readings import Model, Models, Policies
from gatewatch.service.core.records import Records
from gatewatch.service.core.recovery import Lost, Recovered, recover
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_channels import all_channels
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_limit import StreamLimits
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.errors import NewerRecord, StoreUnavailable
from gatewatch.service.incidents.rules import Rules

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
        begun: row of such a stream to its (1,) record as it was recovered.
        causes: row of such a stream to what was wrong with its record; not of new streams.
        new: rows of new streams.
        excess: row of a stream that is, or whose new channels are, more than there may be, to what its readings get.
        channels_were: row of a stream that may have other channels from now on, to how many it had; 0 of a new one.
        before: row of a stream that has more channels from now on, to its layout before; only a reading makes it so.
        others: row of a stream that has other channels than was presumed, to its layout, or None
            where the store has forgotten it; nothing of it is applied.
        newer: rows of streams that a later version wrote in a format that this one cannot read; nothing of them is
            applied.
        overwritten: streams that a version before format 4 wrote after this one, unless their save finds otherwise.
        moved: streams that have another model by now; they have no state here, and nothing is saved with one of them.
        asked: of their scoring; None where that is nothing of any.
        rules: row to the rules of a stream that has any.
    """

    streams: list[StreamKey]
    seeds: list[int]
    fences: list[bytes]
    records: Records
    layouts: list[Layout]
    recovered: dict[int, Entries] = field(default_factory=dict)
    begun: dict[int, Records] = field(default_factory=dict)
    causes: dict[int, str] = field(default_factory=dict)
    new: list[int] = field(default_factory=list)
    excess: dict[int, str] = field(default_factory=dict)
    channels_were: dict[int, int] = field(default_factory=dict)
    before: dict[int, Layout] = field(default_factory=dict)
    others: dict[int, Layout | None] = field(default_factory=dict)
    newer: set[int] = field(default_factory=set)
    overwritten: set[StreamKey] = field(default_factory=set)
    moved: set[StreamKey] = field(default_factory=set)
    asked: Asked | None = None
    rules: dict[int, Rules] = field(default_factory=dict)

    def require_readable(self) -> None:
        """Raise NewerRecord for streams that only a later version can read."""
        if self.newer:
            raise NewerRecord({self.streams[row] for row in self.newer})

    def more_channels(self) -> dict[int, int]:
        """Row of each stream whose number of channels changes, to how many more they are."""
        if not self.channels_were:
            return {}
        of_rows = {row: len(self.layouts[row].channels) - were for row, were in self.channels_were.items()}
        return {row: more for row, more in of_rows.items() if more}


class Loader:
    """Makes states of what a store holds; gives streams whose record is absent, or of no use, another one."""

    def __init__(
        self, models: Models, store: Store, takeover: Takeover, limits: StreamLimits, policies: Policies
    ) -> None:
        self._models = models
        self._store = store
        self._takeover = takeover
        self._limits = limits
        self._policies = policies
        self.first_look = FirstLook(store)

    async def load(
        self,
        model: Model,
        streams: list[StreamKey],
        packed: Sequence[bytes | None],
        sound: bool = False,
        layouts: list[Layout] | None = None,
    ) -> LoadedBatch:
        """The states of streams from their records as bytes.

        Where other models wrote records, the newest rules say whether their streams move to this one.

        Args:
            sound: they were written by this process, and need no look.
            layouts: of a model that takes any channels: what the streams' are presumed to be.
        """
        await self._takeover.claim()  # records tell of one that is later only to who has a number
        await self._policies.know(streams)
        rules = self._policies.rules(streams)
        stepper = model.stepper
        own = [stepper.detector.channels] * len(streams) if layouts is None else [one.channels for one in layouts]
        asked = self._policies.asked(streams, own)
        size = state.fixed_bytes(stepper.record)
        seeds = self._store.seeds(streams)
        presumed = layouts
        if sound and state.of_model(packed, stepper.record, model.detector.digest):
            written = cast("Sequence[bytes]", packed)
            if presumed is None:
                layouts = state.layouts_in(written, stepper.usual, size)
            if presumed is None or state.encoded_layouts(written, size) == [layout.encoded for layout in presumed]:
                records = state.sound(written, stepper.record)
                return LoadedBatch(
                    streams,
                    seeds,
                    [p[state.FENCE] for p in written],
                    records,
                    layouts or [],
                    asked=asked,
                    rules=rules,
                )
        records, layouts, flaws = state.unpack(
            packed, seeds, stepper.record, presumed or stepper.usual, model.detector.digest, stepper.slots
        )
        fences = [state.fence_of(p) for p in packed]
        loaded = LoadedBatch(streams, seeds, fences, records, layouts, asked=asked, rules=rules)
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
            await self._recover(model, loaded, packed, flaws, presumed)
        if presumed is not None:
            for row, (layout, expected) in enumerate(zip(layouts, presumed, strict=True)):
                if layout is not expected and layout.channels != expected.channels and row not in flaws:
                    loaded.others.setdefault(row, _whole(layout.channels))
            if loaded.others:
                records[list(loaded.others)] = stepper.fresh(1)
        records["takeover"] = self._takeover.number
        return loaded

    async def load_one(self, model: Model, stream: StreamKey, packed: bytes | None) -> tuple[Model, LoadedBatch]:
        """A stream's state with the channels that it has, whatever they are, and the model for so many.

        Raises NewerRecord.
        """
        if not model.any_channels:
            loaded = await self.load(model, [stream], [packed])
            loaded.require_readable()
            return model, loaded
        (seed,), (ring,) = self._store.seeds([stream]), await self._store.load_histories([stream])
        part = state.stream_part(packed or b"", seed)
        layout = _whole(all_channels((of_ring(ring), part[1].channels if part else None)))
        sized = model.sized(len(layout.channels))
        loaded = await self.load(sized, [stream], [packed], layouts=[layout])
        loaded.require_readable()
        return sized, loaded

    async def admit(self, loaded: LoadedBatch) -> None:
        """Tell which new streams and channels are more than there may be; until `over` the other streams count."""
        if loaded.new:
            refused = await self._limits.admit(loaded.streams, [loaded.streams[row] for row in loaded.new])
            loaded.excess = {row: self._limits.refusal for row in loaded.new if loaded.streams[row] in refused}
        grown = {row: more for row, more in loaded.more_channels().items() if row not in loaded.excess and more > 0}
        if grown:
            too_many = await self._limits.admit_channels([(loaded.streams[row], more) for row, more in grown.items()])
            loaded.excess |= {row: why for row, why in zip(grown, too_many, strict=True) if why}

    async def too_many_channels(self, stream: StreamKey, more: int) -> str:
        """Why a stream may not have so many channels more; empty where it may."""
        return (await self._limits.admit_channels([(stream, more)]))[0] if more > 0 else ""

    def over(self, streams: Sequence[StreamKey]) -> None:
        """A batch of these streams is over: the store counts those that it began."""
        self._limits.end(streams)

    async def saved(self, loaded: LoadedBatch, saved: set[StreamKey]) -> None:
        """Forget what a version before format 4 kept of streams that were converted and saved."""
        for stream in loaded.overwritten & saved:
            self._takeover.overwritten(stream)
        converted = [loaded.streams[row] for row, cause in loaded.causes.items() if cause in MAY_BE_OLD]
        if converted and saved.issuperset(converted):
            with contextlib.suppress(StoreUnavailable):  # it is only in the way
                await self._store.drop_old_histories(converted)

    async def _recover(
        self,
        model: Model,
        loaded: LoadedBatch,
        packed: Sequence[bytes | None],
        flaws: dict[int, str],
        presumed: Sequence[Layout] | None,
    ) -> None:
        """Give streams whose record is absent or not this model's a state; see recovery.py."""
        names = [loaded.streams[row] for row in flaws]
        rings, settings = await self._store.load_histories(names), await self._store.load_settings(names)
        for row, flaw in flaws.items():
            if flaw == "corrupt":
                await self._store.quarantine(loaded.streams[row], packed[row] or b"")
        old_rings = await self._old_rings(loaded.streams, flaws, rings)
        asked = loaded.asked
        lost = [
            Lost(flaw, packed[row] or b"", loaded.seeds[row], ring, old_rings.get(row, b""), asked and asked.at([row]))
            for (row, flaw), ring in zip(flaws.items(), rings, strict=True)
        ]
        if presumed is None:
            recovered = await asyncio.to_thread(recover, model.stepper, lost)
        else:
            lost, settings = self._as_presumed(loaded, lost, settings, flaws, presumed)
            channels = [presumed[row].channels for row in flaws]
            recovered = await asyncio.to_thread(_recover_each, model, lost, channels)
        loaded.newer = {
            row
            for row, loss, found in zip(flaws, lost, recovered, strict=True)
            if not len(found.kept) and state.is_newer(loss.record, loss.seed)
        }
        if loaded.newer:
            loaded.records[list(loaded.newer)] = model.stepper.fresh(1)
            known = [at for at, row in enumerate(flaws) if row not in loaded.newer]
            flaws = {row: flaw for row, flaw in flaws.items() if row not in loaded.newer}
            lost, settings = [lost[at] for at in known], [settings[at] for at in known]
            recovered = [recovered[at] for at in known]
        for row, loss, found in zip(flaws, lost, recovered, strict=True):
            self._takeover.check(found.record["takeover"])
            loaded.records[row], loaded.begun[row] = found.record[0], found.record
            loaded.layouts[row], loaded.recovered[row] = found.layout, found.kept
            if found.overwritten:
                loaded.overwritten.add(loaded.streams[row])
            if row not in loaded.before and (loss.flaw != "missing" or len(found.kept)):
                loaded.causes[row] = "version" if found.taken_over else loss.flaw
        loaded.new = [row for row in flaws if row not in loaded.causes and row not in loaded.before]
        loaded.channels_were = dict.fromkeys(loaded.new, 0)
        for row, loss in zip(flaws, lost, strict=True):
            if row not in loaded.channels_were and (part := state.stream_part(loss.record, loss.seed)):
                loaded.channels_were[row] = len(part[1].channels)
        for row, content in zip(flaws, settings, strict=True):
            if content:
                StreamSettings.decode(content).write(loaded.records[row : row + 1])

    def _as_presumed(
        self,
        loaded: LoadedBatch,
        lost: list[Lost],
        settings: list[bytes],
        flaws: dict[int, str],
        presumed: Sequence[Layout],
    ) -> tuple[list[Lost], list[bytes]]:
        """What was lost, and the settings, of streams that have no channels but those presumed; others are no flaws."""
        as_presumed = []
        for at, (row, loss) in enumerate(zip(list(flaws), lost, strict=True)):
            part = state.stream_part(loss.record, loss.seed)
            before = all_channels((of_ring(loss.ring), part[1].channels if part else None))
            whole = all_channels((before, presumed[row].channels))
            if whole != presumed[row].channels:
                loaded.others[row] = _whole(before)
                del flaws[row]
                continue
            if loss.flaw == "channels" and before != whole:
                loaded.before[row] = _whole(before)
            as_presumed.append(at)
        return [lost[at] for at in as_presumed], [settings[at] for at in as_presumed]

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


def _whole(channels: tuple[str, ...]) -> Layout:
    return layout_of(channels, channels)


def _recover_each(model: Model, lost: Sequence[Lost], channels: Sequence[tuple[str, ...]]) -> list[Recovered]:
    """Recover streams that have these channels each, those of a list together."""
    places: dict[tuple[str, ...], list[int]] = {}
    found: dict[int, Recovered] = {}
    for at, (loss, names) in enumerate(zip(lost, channels, strict=True)):
        if loss.record or loss.ring or loss.old_ring:
            places.setdefault(names, []).append(at)
        else:
            found[at] = Recovered(model.stepper.fresh(1), _whole(names), np.empty(0, model.stepper.entry))
    for names, of_list in places.items():
        found.update(zip(of_list, recover(model.named(names), [lost[at] for at in of_list]), strict=True))
    return [found[at] for at in range(len(lost))]
