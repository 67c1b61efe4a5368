"""Inspection: the reading side: what is known of a stream, its last readings; and its settings."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gatewatch.models.detectors.detector import STATUSES
from gatewatch.models.detectors.forecasting import cadence_ms, forecast
from gatewatch.service.clock import Clock
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.alike import names_alike
from gatewatch.service.core.applying import whole
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, layout_of, of_ring
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
        self._forecasting = asyncio.Semaphore(1)

    async def describe(self, stream: StreamKey) -> dict[str, Any] | None:
        """What is known of a stream, or None for one that has neither readings nor settings."""
        (known,) = await self.describe_each([stream])
        return known

    async def describe_each(self, streams: Sequence[StreamKey]) -> list[dict[str, Any] | None]:
        """The same of several streams. One round trip, and one more for each whose record is lost."""
        packed = await self._store.load(streams)
        found: list[dict[str, Any] | None] = []
        for stream, content, seed in zip(streams, packed, self._store.seeds(streams), strict=True):
            if part := state.stream_part(content or b"", seed):
                record, layout, model = part[0][0], part[1], part[2][: state.MODEL_BYTES].hex()
                level = state.level_in(content or b"")
            else:
                served = await self._models.of(stream)
                _, loaded = await self._loader.load_one(served, stream, content)
                record, layout, model = loaded.records[0], loaded.layouts[0], served.detector.name
                level = float(record["level"])
            unknown = content is None and record["readings"] == 0
            found.append(None if unknown else _described(stream, record, layout, model, level))
        return found

    async def channels(self, stream: StreamKey) -> tuple[str, ...]:
        """The channels that a stream has sent; none where that is not known."""
        (packed,), (seed,) = await self._store.load([stream]), self._store.seeds([stream])
        part = state.stream_part(packed or b"", seed)
        return part[1].channels if part else ()

    async def recent(self, stream: StreamKey, encoder: Encoder) -> list[Kept]:
        """The stream's last readings, oldest first."""
        served = await self._models.of(stream)
        packed = await self._store.load([stream])
        (seed,) = self._store.seeds([stream])
        if part := state.stream_part(packed[0] or b"", seed):
            layout = part[1]
            (ring,) = await self._store.load_histories([stream])
            kept = served.stepper.read_history(ring, layout, seed)
        else:
            _, loaded = await self._loader.load_one(served, stream, packed[0])
            (layout,), kept = loaded.layouts, loaded.recovered[0]
        return _shown(stream, kept, layout, encoder)

    def readings_in(self, stream: StreamKey, rings: Sequence[bytes], encoder: Encoder) -> list[Kept]:
        """The readings of copies of a stream's history, each once, in their order."""
        (seed,) = self._store.seeds([stream])
        found: dict[int, Kept] = {}
        for ring in rings:
            channels = of_ring(ring)
            if channels is None:
                continue
            layout = layout_of(channels, channels)
            kept = history.unpack_entries(ring, layout, seed)
            found |= {one.n: one for one in _shown(stream, kept, layout, encoder)}
        return [found[n] for n in sorted(found)]

    async def forecast(self, stream: StreamKey, readings: int) -> dict[str, Any] | None:
        """What is expected of a stream's next readings, None for one without a reading; nothing moves.

        Their times go on at the usual time between two, null where that is not known; the readings then stand as if
        at the time of the last one. One forecast is made at a time, beside the batches.
        """
        for _ in range(self._attempts):
            (content,) = await self._store.load([stream])
            served, loaded = await self._loader.load_one(await self._models.of(stream), stream, content)
            if not loaded.moved:
                break
        else:
            raise Contended(f"the model of stream {stream.name} kept changing; ask again")
        record, (layout,), (seed,) = loaded.records[0], loaded.layouts, loaded.seeds
        if not record["readings"]:
            return None
        if (kept := loaded.recovered.get(0)) is None:
            (ring,) = await self._store.load_histories([stream])
            kept = served.stepper.read_history(ring, layout, seed)
        past = history.gathered(kept, layout)
        step_ms = cadence_ms(past["timestamp_ms"])
        times_ms = int(record["last_ms"]) + (step_ms or 0) * np.arange(1, readings + 1)
        given = (loaded.records["detector"], times_ms, past["values"], past["timestamp_ms"], loaded.asked)
        async with self._forecasting:
            mid, half = await asyncio.to_thread(forecast, served.detector, *given)
        bands = np.stack([mid - half, mid, mid + half], axis=-1).tolist()
        return {
            "stream": stream.name,
            "model": served.detector.name,
            "readings": int(record["readings"]),
            "last_timestamp": format_time(int(record["last_ms"])),
            "step_s": None if step_ms is None else step_ms / 1000,
            "forecast": [
                {
                    "timestamp": None if step_ms is None else format_time(time_ms),
                    "expected": {
                        channel: [edge if math.isfinite(edge) else None for edge in band]
                        for channel, band in zip(layout.model, of_reading, strict=True)
                    },
                }
                for time_ms, of_reading in zip(times_ms.tolist(), bands, strict=True)
            ],
        }

    async def configure(self, stream: StreamKey, settings: StreamSettings) -> None:
        """Give a stream its settings, whether it has seen a reading or not.

        Raises:
            BadRequest: it would be one stream too many.
            Contended: other processes kept writing it.
        """
        served = await self._models.of(stream)
        try:
            for _ in range(self._attempts):
                async with self._store.begin([stream]) as work:
                    sized, loaded = await self._loader.load_one(served, stream, work.packed[0])
                    if loaded.moved:
                        served = await self._models.of(stream)
                        continue
                    await self._loader.admit(loaded)
                    if loaded.excess:
                        raise BadRequest(loaded.excess[0])
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
        return await self._sessions.restart(await self._models.of(stream), stream)


def _shown(stream: StreamKey, kept: Entries, layout: Layout, encoder: Encoder) -> list[Kept]:
    answers = encode_kept([encoder] * len(kept), [stream] * len(kept), kept, layout)
    single = kept["single"] > 0
    values = kept["values"].copy()
    values[single] = values[single].astype(np.float32).astype(str).astype(np.float64)  # the shortest that mean it
    named = (
        {channel: None if value != value else value for channel, value in zip(layout.channels, row, strict=True)}
        for row in values.tolist()
    )
    return list(map(Kept, kept["n"].tolist(), named, answers))


def _described(stream: StreamKey, record: Any, layout: Layout, model: str, level: float) -> dict[str, Any]:
    readings = int(record["readings"])
    return {
        "stream": stream.name,
        "readings": readings,
        "channels": list(layout.channels),
        **({"alike": alike} if (alike := names_alike(layout.channels)) else {}),
        "last_timestamp": format_time(int(record["last_ms"])) if readings else None,
        "last_seq": None if record["last_seq"] < 0 else int(record["last_seq"]),
        "session": int(record["session"]),
        "status": STATUSES[record["status"] & state.STATUS_BITS],
        "score": float(record["score"]) if readings else None,
        **StreamSettings.of(record).model_dump(),
        "model": model,
        "tag": bytes(record["tag"]).hex(),
        **({"factor": math.exp(level)} if level else {}),
    }
