"""Sessions: a stream's sender begins to count anew."""

from __future__ import annotations

import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.core.applying import whole
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.readings import NO_SEQ, Model, Models
from gatewatch.service.core.sequencing import is_asked
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import Contended
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)


class Sessions:
    """Begins sessions of streams."""

    def __init__(
        self, models: Models, store: Store, loader: Loader, metrics: Metrics, clock: Clock, attempts: int
    ) -> None:
        self._models = models
        self._store = store
        self._loader = loader
        self._metrics = metrics
        self._clock = clock
        self._attempts = attempts

    async def restart(self, model: Model, stream: StreamKey, time_ms: int | None = None, session: int = 0) -> bool:
        """Begin a session of a stream: its sender counts anew from its next reading on. False if there is no stream.

        Args:
            time_ms: of the first reading of the session; None where the operator says so.
            session: the number of the one before, as it was when that reading came.

        Raises:
            Contended: other processes kept writing the stream.
        """
        for _ in range(self._attempts):
            async with self._store.begin([stream]) as work:
                sized, loaded = await self._loader.load_one(model, stream, work.packed[0])
                if loaded.moved:
                    model = await self._models.of(stream)
                    continue
                record = loaded.records[0]
                if loaded.new:
                    return False
                count, asked = int(record["last_seq"]), is_asked(record)
                if time_ms is not None and (
                    record["session"] != session or (not asked and time_ms <= record["newest_ms"])
                ):
                    return True  # another process was first
                if time_ms is not None and asked:
                    record["session_ms"] = min(record["session_ms"], time_ms)
                else:
                    record["session"] += 1
                    record["last_seq"] = NO_SEQ
                    record["session_ms"] = record["newest_ms"] + 1 if time_ms is None else time_ms
                await work.send(whole(sized, loaded, self._clock.unix_ms()))
                if (await work.saved())[0]:
                    self._metrics.sequence_restarted()
                    log.warning("sender counts anew", stream=stream.name, last_seq=count, asked=time_ms is None)
                    return True
        raise Contended(f"other processes kept writing stream {stream.name}; send the request again")
