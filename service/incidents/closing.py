"""Closing: a person ends an incident, whatever its stream does."""

from __future__ import annotations

import msgspec
import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.core.applying import whole
from gatewatch.service.core.loading import LoadedBatch, Loader
from gatewatch.service.core.readings import Model, Models
from gatewatch.service.core.records import CLOSED
from gatewatch.service.core.stepper import Slots, let_go
from gatewatch.service.core.store import IncidentWrite, Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended
from gatewatch.service.incidents.incident import Incident, decode, encode
from gatewatch.service.incidents.running import histories, latest_of

log = structlog.get_logger(__name__)


def closed(incident: Incident) -> Incident:
    """An incident after a person ended it."""
    return msgspec.structs.replace(incident, end_ms=incident.last_ms, closed=True)


class Closing:
    """Ends incidents that are open."""

    def __init__(self, models: Models, store: Store, loader: Loader, clock: Clock, attempts: int) -> None:
        self._models = models
        self._store = store
        self._loader = loader
        self._clock = clock
        self._attempts = attempts

    async def close(self, stream: StreamKey, n: int) -> None:
        """End a stream's incident, if it is open, with the figures that it has by now.

        With its latest one the matter is settled up to its last reading, whatever comes late: the history says so.

        Raises:
            Contended: other processes kept writing the stream.
        """
        model = await self._models.of(stream)
        for _ in range(self._attempts):
            async with self._store.begin([stream]) as work:
                sized, loaded = await self._loader.load_one(model, stream, work.packed[0])
                if loaded.moved:
                    model = await self._models.of(stream)
                    continue
                latest = (await latest_of(self._store, sized, loaded, {0: int(loaded.records["readings"][0])}))[0]
                is_latest = latest.incident is not None and latest.incident.n == n
                incident = latest.incident if is_latest else decode((await self._store.incidents_of([(stream, n)]))[0])
                if incident is None or not incident.is_open:
                    return
                writes = await self._let_go(sized, loaded) if is_latest else self._as_it_is(sized, loaded)
                ended = closed(incident)
                write = IncidentWrite(0, n, ended.start_ms, encode(ended), None, began=False, ended=True)
                writes.incidents = [write._replace(told=ended.untold is None, latest=is_latest)]
                await work.send(writes)
                if (await work.saved())[0]:
                    log.info("incident closed", stream=stream.name, incident=ended.id)
                    return
        raise Contended(f"other processes kept writing stream {stream.name}; send the request again")

    def _as_it_is(self, model: Model, loaded: LoadedBatch) -> Writes:
        return whole(model, loaded, self._clock.unix_ms())

    async def _let_go(self, model: Model, loaded: LoadedBatch) -> Writes:
        """What saves a stream that is let go, and says in its history after which reading that was."""
        kept = (await histories(self._store, model, [0], loaded))[0]
        settled: Slots = []
        if len(kept) and kept["n"][-1] + 1 == loaded.records["readings"][0]:
            kept = kept.copy()
            kept["status"][-1] |= CLOSED
            if 0 in loaded.recovered:
                loaded.recovered[0] = kept
            else:
                settled = model.stepper.slots_of(loaded.layouts[0], loaded.seeds[0], 0, kept[-1:])
        let_go(loaded.records)
        writes = self._as_it_is(model, loaded)
        writes.slots += settled
        writes.pending, writes.closed = [(0, b"")], set(loaded.streams)
        return writes
