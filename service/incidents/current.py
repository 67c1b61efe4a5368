"""CurrentIncidents: incidents as they stand, for those who go by their figures beside the readings."""

from __future__ import annotations

from gatewatch.service.core.loading import Loader
from gatewatch.service.core.readings import Models
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.incidents.running import latest_of


class CurrentIncidents:
    """Reads incidents that go on, with the readings since they were written."""

    def __init__(self, models: Models, store: Store, loader: Loader) -> None:
        self._models = models
        self._store = store
        self._loader = loader

    async def of(self, stream: StreamKey, incident: Incident) -> Incident:
        """An incident that was read, as it stands after the stream's last reading. Raises StoreUnavailable."""
        if not incident.is_open or incident.is_silence:
            return incident
        (packed,) = await self._store.load([stream])
        model, loaded = await self._loader.load_one(await self._models.of(stream), stream, packed)
        if loaded.moved:  # its next reading tells
            return incident
        latest = (await latest_of(self._store, model, loaded, {0: int(loaded.records["readings"][0])}))[0].incident
        return latest if latest is not None and latest.n == incident.n else incident
