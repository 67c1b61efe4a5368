"""Closing: a person ends an incident, whatever its stream does."""

from __future__ import annotations

import msgspec
import numpy as np
import structlog

from gatewatch.models.detectors.incidents import with_incidents_ended
from gatewatch.service.clock import Clock
from gatewatch.service.core.applying import whole
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.readings import Models
from gatewatch.service.core.records import HELD, KEPT, OPEN, Records
from gatewatch.service.core.store import IncidentWrite, Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended
from gatewatch.service.incidents.incident import Incident, decode, encode
from gatewatch.service.incidents.running import caught_up

log = structlog.get_logger(__name__)


def closed(incident: Incident) -> Incident:
    """An incident after a person ended it."""
    return msgspec.structs.replace(incident, end_ms=incident.last_ms, closed=True)


def let_go(record: Records) -> None:
    """Have a (1,) record learn from its next reading on; what is strange then is another incident."""
    record["detector"] = with_incidents_ended(record["detector"])
    record["status"] &= np.uint8(~(KEPT | OPEN | HELD) & 0xFF)


class Closing:
    """Ends incidents that are open."""

    def __init__(self, models: Models, store: Store, loader: Loader, clock: Clock, attempts: int) -> None:
        self._models = models
        self._store = store
        self._loader = loader
        self._clock = clock
        self._attempts = attempts

    async def close(self, stream: StreamKey, n: int) -> None:
        """End a stream's incident with the figures that it has by now, if it is the latest one and open.

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
                incident = decode((await self._store.latest_incidents([stream]))[0])
                if loaded.new or incident is None or incident.n != n or not incident.is_open:
                    return
                until = {0: int(loaded.records["readings"][0])}
                exact = await caught_up(self._store, sized, loaded, {0: incident}, until)
                ended = closed(exact.get(0, incident))
                let_go(loaded.records)
                writes = whole(sized, loaded, self._clock.unix_ms())
                write = IncidentWrite(0, n, ended.start_ms, encode(ended), None, began=False, ended=True)
                writes.incidents = [write._replace(told=ended.untold is None)]
                writes.pending, writes.closed = [(0, b"")], {stream}
                await work.send(writes)
                if (await work.saved())[0]:
                    log.info("incident closed", stream=stream.name, incident=ended.id)
                    return
        raise Contended(f"other processes kept writing stream {stream.name}; send the request again")
