"""States: what a stream stands at as a user's good: exported, taken in, gone back to, begun anew, copied.

Each is one compare-and-set on the stream's record, with its history, earlier records and settings. A reading that comes
meanwhile is applied before it, or after it and on top of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import numpy as np
import structlog

from gatewatch.models.text import listed
from gatewatch.service.clock import Clock
from gatewatch.service.core import history, state_file
from gatewatch.service.core import records as state
from gatewatch.service.core.applying import whole
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, layout_of
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.outcomes import clip
from gatewatch.service.core.readings import Model, Models
from gatewatch.service.core.recovery import carried
from gatewatch.service.core.state_file import SEED, Standing, StateFile, resealed
from gatewatch.service.core.stepper import let_go
from gatewatch.service.core.store import Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.errors import (
    AlreadyThere,
    BadRequest,
    ChannelInUse,
    Contended,
    InvalidState,
    NoSuchChannel,
    UnknownStream,
)
from gatewatch.service.incidents.left import incidents_left, is_settled

log = structlog.get_logger(__name__)

PERSISTENCE: Final = 10
"""Times as many attempts as a batch has: whoever asks is one person, and the stream may have many senders."""


class Incidents(Protocol):
    """Where incidents are kept."""

    async def all_of(self, stream: StreamKey) -> dict[int, bytes]:
        """All incidents of a stream that are kept, by number."""


class WholeStore(Store, Protocol):
    """What is asked of a store beside."""

    @property
    def incidents(self) -> Incidents:
        """Those of its streams."""

    async def load_whole(self, stream: StreamKey) -> list[bytes]:
        """A stream's record, history, both earlier records and settings as they are at one moment; b"" for none."""


class KnownModels(Models, Protocol):
    """What is asked of the models beside."""

    async def knows(self, digest: bytes) -> bool:
        """Whether a model is served here, or is a version of the repository. Raises ModelAway."""


class States:
    """The states of streams over one store."""

    def __init__(
        self,
        models: KnownModels,
        store: WholeStore,
        loader: Loader,
        takeover: Takeover,
        clock: Clock,
        attempts: int,
        stream_channels: int,
        on_replaced: Callable[[StreamKey], None],
    ) -> None:
        """Work with the core's parts.

        Args:
            attempts: of a batch, to save a stream that others write.
            stream_channels: that a stream may have where it may have any.
            on_replaced: is told of a stream whose list of channels may be another one.
        """
        self._models = models
        self._store = store
        self._loader = loader
        self._takeover = takeover
        self._clock = clock
        self._attempts = attempts * PERSISTENCE
        self._stream_channels = stream_channels
        self._on_replaced = on_replaced

    async def export(self, stream: StreamKey) -> bytes:
        """The file of a stream's state. Raises UnknownStream."""
        return state_file.write(stream.name, await self._standing(stream), self._clock.unix_ms())

    async def take_in(self, stream: StreamKey, content: bytes, *, as_new: bool) -> StateFile:
        """Have a stream go on from the state in a file, whatever it stood at.

        Args:
            as_new: the file may be of another stream, and begins this one.

        Raises:
            InvalidState: the file is none, damaged, of another version or stream, or of a model not known here.
            AlreadyThere: the stream is to be a new one, and has readings.
            BadRequest: it would be one stream too many.
            Contended: others kept writing the stream.
        """
        file, standing = state_file.read(content)
        if file.stream != stream.name and not as_new:
            raise InvalidState(
                f"the state is of stream {file.stream}; expected one of {stream.name}: with ?as=new it begins a new "
                "stream of this name"
            )
        served = await self._models.of(stream)
        if served.any_channels and len(standing.layout.channels) > self._stream_channels:
            raise InvalidState(
                f"the state has {len(standing.layout.channels)} channels; a stream may have {self._stream_channels} "
                "(GATEWATCH_STREAM_CHANNELS)"
            )
        if not await self._models.knows(standing.model):
            name = served.detector.name
            raise InvalidState(
                f"the state belongs to model {standing.model.hex()}, which is not known here; expected {name}, the "
                "one of this stream, or a version of the repository of models"
            )
        await self._replace(stream, standing, as_new)
        return file

    async def begin_anew(self, stream: StreamKey) -> None:
        """Have a stream stand where it stood before its first reading; its settings stay. Raises UnknownStream."""

        async def fresh(before: bytes | None) -> Standing:
            model = await self._models.of(stream)
            _, loaded = await self._loader.load_one(model, stream, before)
            if loaded.new:
                raise UnknownStream(f"nothing is known of stream {stream.name}")
            stepper = (model.sized(0) if model.any_channels else model).stepper
            record = stepper.fresh(1)
            (kept,) = await self._store.load_settings([stream])
            settings = StreamSettings.decode(kept) if loaded.moved else StreamSettings.of(loaded.records[0])
            settings.write(record)
            (packed,) = state.pack(record, [stepper.usual], [SEED])
            return Standing(packed, SEED, b"", (b"", b""), kept)

        await self._go_on_from(stream, fresh)

    async def remove_channel(self, stream: StreamKey, channel: str) -> None:
        """Take a channel out of a stream's state and history; the other channels' stay as they are.

        Its tags are those of a stream that never had the channel, as far back as its history goes. Earlier records are
        gone: a late reading is placed where the history begins with the stream, or after the removal.

        Raises:
            UnknownStream: nothing is known of it.
            NoSuchChannel: it has no such channel.
            ChannelInUse: its model wants the channel, or it has no other one.
        """

        async def without(before: bytes | None) -> Standing | None:
            model = await self._models.of(stream)
            _, loaded = await self._loader.load_one(model, stream, before)
            if loaded.moved:
                return None
            if loaded.new:
                raise UnknownStream(f"nothing is known of stream {stream.name}")
            (layout,), (seed,), record = loaded.layouts, loaded.seeds, loaded.records
            after = _without(stream, layout, channel, model)
            if (kept := loaded.recovered.get(0)) is None:
                (ring,) = await self._store.load_histories([stream])
                kept = history.unpack_entries(ring, layout, seed)
            (packed,) = state.pack(record, [layout], [SEED])
            if model.any_channels and (part := state.stream_part(packed, SEED)):
                carried_over = carried(model.named(after.channels), part[0], layout, part[2], state.tail_in(packed))
                record = record if carried_over is None else carried_over
            left = await asyncio.to_thread(_chained_anew, history.without(kept, layout, after), after)
            if len(left):
                record["tag"] = left["tag"][-1]
            record["earlier"], record["earlier_ms"] = 0, 0
            (packed,) = state.pack(record, [after], [SEED])
            (settings,) = await self._store.load_settings([stream])
            try:
                return Standing(packed, SEED, left, (b"", b""), settings)
            except ValueError:  # a reading came in between
                return None

        await self._go_on_from(stream, without)

    async def require_new(self, stream: StreamKey) -> None:
        """Raise AlreadyThere where a stream has readings."""
        await self._takeover.claim()
        (record,) = await self._store.load([stream])
        _, loaded = await self._loader.load_one(await self._models.of(stream), stream, record)
        if loaded.moved or loaded.records["readings"][0]:
            raise AlreadyThere(f"stream {stream.name} has readings; expected the name of a new one")

    async def copy(self, stream: StreamKey, to: StreamKey) -> int:
        """Begin a stream with what another one stands at, under the model that it has itself; how many bytes that has.

        Raises:
            UnknownStream: there is nothing to copy.
            AlreadyThere: the new one has readings.
            BadRequest: it would be one stream too many.
        """
        standing = await self._standing(stream)
        await self._replace(to, standing, anew=True)
        return standing.size

    async def _standing(self, stream: StreamKey) -> Standing:
        """What a stream stands at: as it is kept or, where that is damaged, as its next reading would find it."""
        await self._takeover.claim()
        (seed,) = self._store.seeds([stream])
        for _ in range(self._attempts):
            record, ring, *earlier, settings = await self._store.load_whole(stream)
            try:
                return Standing(record, seed, ring, earlier, settings)
            except ValueError:
                pass
            _, loaded = await self._loader.load_one(await self._models.of(stream), stream, record or None)
            if loaded.moved:
                continue
            if loaded.new and not settings:
                break
            (packed,) = state.pack(loaded.records, loaded.layouts, [seed])
            try:
                return Standing(packed, seed, loaded.recovered.get(0, b""), (b"", b""), settings)
            except ValueError:
                return Standing(packed, seed, b"", (b"", b""), settings)
        raise UnknownStream(f"nothing is known of stream {stream.name}")

    async def _replace(self, stream: StreamKey, standing: Standing, anew: bool) -> None:
        async def given(before: bytes | None) -> Standing:
            if anew:
                await self.require_new(stream)
            if before is None:
                await self._admit(stream)
            return standing

        try:
            await self._go_on_from(stream, given)
        finally:
            self._loader.over([stream])
        await self._replay(stream)

    async def _admit(self, stream: StreamKey) -> None:
        """Raise BadRequest where a stream without a record would be one too many."""
        _, loaded = await self._loader.load_one(await self._models.of(stream), stream, None)
        await self._loader.admit(loaded)
        if loaded.excess:
            raise BadRequest(loaded.excess[0])

    async def _go_on_from(
        self, stream: StreamKey, decide: Callable[[bytes | None], Awaitable[Standing | None]]
    ) -> None:
        """Write what a stream stands at from now on; `decide` is asked with the record that it has.

        Again where that says None: it has moved meanwhile.
        """
        await self._takeover.claim()
        (seed,), model = self._store.seeds([stream]), await self._models.of(stream)
        stepper = model.stepper
        for _ in range(self._attempts):
            async with self._store.begin([stream]) as work:
                before = work.packed[0]
                standing = await decide(before)
                if standing is None:
                    continue
                kept = await self._store.incidents.all_of(stream)
                if standing.is_open or standing.is_kept:
                    settled = is_settled(kept, standing.readings, standing.is_kept)
                    standing = _let_go(standing, model) if settled else standing
                writes = Writes(self._clock.unix_ms() / 1000, [stream], [state.fence_of(before)], anew=[0])
                writes.records = [standing.sealed(seed, self._takeover.number, stepper.slots)]
                writes.slots = stepper.slots_anew(standing.layout, seed, 0, standing.kept[-stepper.slots :])
                writes.earlier = {(0, slot): resealed(old, seed) for slot, old in enumerate(standing.earlier) if old}
                part = state.stream_part(before or b"", seed)
                more = len(standing.layout.channels) - (len(part[1].channels) if part else 0)
                if refused := await self._loader.too_many_channels(stream, more):
                    raise BadRequest(refused)
                writes.channels = {0: more} if more and (part or before is None) else {}
                writes.settings = {0: standing.settings or StreamSettings().encode()}
                (writes.opened if standing.is_open else writes.closed).add(stream)
                writes.pending, writes.bounds = [(0, b"")], {0: False}  # of the state that it stood at
                left = incidents_left(0, kept, standing.readings, standing.is_open, standing.last_ms)
                writes.incidents_left = [] if left is None else [left]
                await work.send(writes)
                if (await work.saved())[0]:
                    self._on_replaced(stream)
                    log.warning("stream goes on from another state", stream=stream.name, readings=standing.readings)
                    return
        raise Contended(f"others kept writing stream {stream.name}; send the request again")

    async def _replay(self, stream: StreamKey) -> None:
        """Where a stream's state is of another model than it has, replay its history now, not with its next reading."""
        for _ in range(self._attempts):
            async with self._store.begin([stream]) as work:
                sized, loaded = await self._loader.load_one(await self._models.of(stream), stream, work.packed[0])
                if loaded.moved:
                    continue
                if not loaded.causes:
                    return
                await work.send(whole(sized, loaded, self._clock.unix_ms()))
                if (await work.saved())[0]:
                    return
        raise Contended(f"others kept writing stream {stream.name}; send the request again")


def _let_go(standing: Standing, model: Model) -> Standing:
    """What a stream stands at once its incident is closed; its history says so, too.

    Args:
        model: of the stream; the state of another one is made anew of the history.
    """
    stepper = model.sized(len(standing.layout.model)).stepper
    packed, layout, digest = standing.let_go(), standing.layout, stepper.detector.digest
    records, _, flaws = state.unpack([packed], [SEED], stepper.record, layout, digest, stepper.slots)
    if flaws.get(0, "history") == "history":
        let_go(records)
        (packed,) = state.pack(records, [layout], [SEED])
    kept = standing.kept.copy()
    kept["status"][-1:] |= state.CLOSED
    return Standing(packed, SEED, kept, standing.earlier, standing.settings)


def _chained_anew(kept: Entries, layout: Layout) -> Entries:
    """A history with the tags of its values as they are now; of one that does not begin with the stream from its first.

    Args:
        kept: in the stream's channels.
    """
    tag = np.zeros(1, kept.dtype["tag"])
    for at in range(len(kept)):
        one = kept[at : at + 1]
        if at or not one["n"][0]:
            one["tag"] = layout.chain.tags(tag, one["seq"], one["timestamp_ms"], one["values"][:, layout.columns])
        tag = one["tag"]
    return kept


def _without(stream: StreamKey, layout: Layout, channel: str, model: Model) -> Layout:
    """A stream's layout without a channel. Raises NoSuchChannel, ChannelInUse."""
    rest = tuple(name for name in layout.channels if name != channel)
    if rest == layout.channels:
        raise NoSuchChannel(
            f"stream {stream.name} has no channel {clip(channel)}; it has {listed([clip(c) or '' for c in rest])}"
        )
    if not model.any_channels and channel in layout.model:
        raise ChannelInUse(f"the model of stream {stream.name} has a channel {clip(channel)}: it can only stay away")
    if not rest:
        raise ChannelInUse(
            f"{clip(channel)} is the only channel of stream {stream.name}; expected the stream to be reset, or deleted"
        )
    return layout_of(rest, rest if model.any_channels else layout.model)
