"""Inspection: the reading side: what is known of a stream, its last readings; and its settings."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gatewatch.models.detectors.detector import STATUSES
from gatewatch.service.clock import Clock
from gatewatch.service.core import records as state
from gatewatch.service.core.applying import whole
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.outcomes import Encoded, Encoder, encode_kept, format_time
from gatewatch.service.core.readings import Models
from gatewatch.service.core.sessions import Sessions
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.errors import BadRequest, Contended


class Kept(NamedTuple):
    """One of a stream's last readings: its number, counted from 0, channel to value, and the answer it got."""

    n: int
    values: dict[str, float | None]
    answer: Encoded


class Inspection:
    """Looks at single streams, and changes what is chosen for them."""

    def __init__(
        self, models: Models, store: Store, loader: Loader, sessions: Sessions, clock: Clock, attempts: int
    ) -> None:
        self._models = models
        self._store = store
        self._loader = loader
        self._sessions = sessions
        self._clock = clock
        self._attempts = attempts

    async def describe(self, stream: StreamKey) -> dict[str, Any] | None:
        """What is known of a stream, or None for one that has neither readings nor settings."""
        served = self._models.of(stream)
        packed = await self._store.load([stream])
        (seed,) = self._store.seeds([stream])
        if part := state.stream_part(packed[0] or b"", seed):
            record, model = part[0][0], part[2][: len(served.detector.digest)].hex()
        else:
            _, loaded = await self._loader.load_one(served, stream, packed[0])
            record, model = loaded.records[0], served.detector.name
        readings = int(record["readings"])
        if packed[0] is None and readings == 0:
            return None
        return {
            "stream": stream.name,
            "readings": readings,
            "last_timestamp": format_time(int(record["last_ms"])) if readings else None,
            "last_seq": None if record["last_seq"] < 0 else int(record["last_seq"]),
            "session": int(record["session"]),
            "status": STATUSES[record["status"] & state.STATUS_BITS],
            "score": float(record["score"]) if readings else None,
            **StreamSettings.of(record).model_dump(),
            "model": model,
            "tag": bytes(record["tag"]).hex(),
        }

    async def recent(self, stream: StreamKey, encoder: Encoder) -> list[Kept]:
        """The stream's last readings, oldest first."""
        served = self._models.of(stream)
        packed = await self._store.load([stream])
        (seed,) = self._store.seeds([stream])
        if part := state.stream_part(packed[0] or b"", seed):
            layout = part[1]
            (ring,) = await self._store.load_histories([stream])
            kept = served.stepper.read_history(ring, layout, seed)
        else:
            _, loaded = await self._loader.load_one(served, stream, packed[0])
            (layout,), kept = loaded.layouts, loaded.recovered[0]
        answers = encode_kept([encoder] * len(kept), [stream] * len(kept), kept, layout)
        single = kept["single"] > 0
        values = kept["values"].copy()
        values[single] = values[single].astype(np.float32).astype(str).astype(np.float64)  # the shortest that mean it
        named = (
            {channel: None if value != value else value for channel, value in zip(layout.channels, row, strict=True)}
            for row in values.tolist()
        )
        return list(map(Kept, kept["n"].tolist(), named, answers))

    async def configure(self, stream: StreamKey, settings: StreamSettings) -> None:
        """Give a stream its settings, whether it has seen a reading or not.

        Raises:
            BadRequest: it would be one stream too many.
            Contended: other processes kept writing it.
        """
        served = self._models.of(stream)
        try:
            for _ in range(self._attempts):
                async with self._store.begin([stream]) as work:
                    sized, loaded = await self._loader.load_one(served, stream, work.packed[0])
                    await self._loader.admit(loaded)
                    if loaded.excess:
                        raise BadRequest(self._loader.refusal)
                    settings.write(loaded.records)
                    await self._store.save_settings(stream, settings.encode())
                    await work.send(whole(sized, loaded, self._clock.unix_ms()))
                    if (await work.saved())[0]:
                        return
        finally:
            self._loader.over([stream])
        raise Contended(f"other processes kept writing stream {stream.name}; send the settings again")

    async def restart_sequence(self, stream: StreamKey) -> bool:
        """Let a stream's sender count anew from its next reading on. False if there is no stream."""
        return await self._sessions.restart(self._models.of(stream), stream)
