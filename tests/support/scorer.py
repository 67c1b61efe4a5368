"""What several tests share."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gatewatch.models.detectors.detector import Detector
from gatewatch.service.clock import Clock, SystemClock
from gatewatch.service.core.build import Core, build_core
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.outcomes import Encoder, Refused
from gatewatch.service.core.readings import Part, Policies, Readings
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.doors.door import Context, Decoded, Form, StreamNames, by_model
from gatewatch.service.doors.json_door import JsonDoor
from gatewatch.service.doors.ndjson_door import NdjsonDoor
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.incidents.rules import Rules
from gatewatch.service.intake.admission import Admission
from gatewatch.service.intake.batcher import Batcher, Scores
from gatewatch.service.intake.queue import Queue
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.registry import Registry
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.storage.keys import BUCKETS, Keys

LATE_MS = 2_000_000_000_000
LINES = NdjsonDoor()
JSON = JsonDoor(LINES)


def state_key(tenant: str, stream: str, what: str = "state") -> str:
    return Keys(tenant, BUCKETS).part(StreamKey(tenant, stream), what).decode()


def sets_of(tenant: str, stream: str) -> list[str]:
    """The keys of the sorted sets of a stream's bucket, in the order of keys.Sets."""
    return [key.decode() for key in Keys(tenant, BUCKETS)[StreamKey(tenant, stream)].sets]


def model_of(detector: Detector, history_readings: int = 128, future_ms: int = 0, most: int = 10_000) -> ServedModel:
    return ServedModel(detector, ReadingDecoder(detector.channels, future_ms, most), history_readings)


class NothingAsked(Policies):
    """Nobody asks anything of a stream."""

    async def know(self, streams: Iterable[StreamKey]) -> None:
        """There is nothing to know."""

    def rules(self, streams: Sequence[StreamKey]) -> dict[int, Rules]:  # noqa: ARG002
        """Of none."""
        return {}

    def tags(self, stream: StreamKey) -> Mapping[str, str]:  # noqa: ARG002
        """None has any."""
        return {}

    def is_muted(self, stream: StreamKey) -> bool:  # noqa: ARG002
        """None is."""
        return False

    def asked(self, streams: Sequence[StreamKey], channels: Sequence[Sequence[str]]) -> None:
        """Nothing."""


def core_of(
    model: ServedModel,
    store: Store,
    attempts: int,
    backoff: ContentionBackoff | None = None,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
    most_streams: int = 100,
) -> Core:
    metrics = metrics or Metrics()
    return build_core(
        Registry(model),
        store,
        metrics,
        backoff or ContentionBackoff(random.Random(0)),
        Takeover(store, model.name, metrics),
        clock or SystemClock(),
        NothingAsked(),
        save_attempts=attempts,
        most_streams=most_streams,
    )


def batcher_of(
    scorer: Scores,
    backoff: ContentionBackoff | None = None,
    batch_readings: int = 1024,
    waiting: int = 10_000,
    waiting_ms: float = 1e9,
    metrics: Metrics | None = None,
    clock: Clock | None = None,
) -> Batcher:
    return Batcher(
        scorer,
        backoff or ContentionBackoff(random.Random(0)),
        Queue(batch_readings),
        Admission(waiting, waiting_ms),
        metrics or Metrics(),
        clock or SystemClock(),
    )


def decode(
    model: Any, body: bytes, lines: bool = False, stream: str | None = None, tenant: str = "t", now_ms: int = LATE_MS
) -> tuple[Decoded, Form]:
    """A whole body through a door, however many parts that takes. `model`: with a decoder."""
    door = LINES if lines else JSON
    context = Context(model, StreamNames(tenant), stream, now_ms)
    decoded, form = door.decode(body, context) or (None, None)
    opened = None if form else door.open(body, context)
    (part,) = by_model([decoded] if decoded is not None else list(opened.parts if opened else ()))
    return part.decoded, form or opened.form  # type: ignore[union-attr]


def read(model: ServedModel, tenant: str, *chosen: dict[str, Any]) -> list[Part]:
    """Readings as the scorer takes them; their answers are JSON."""
    return parts_of(decode(model, json.dumps(chosen).encode(), tenant=tenant)[0].readings)


def parts_of(readings: Readings, encoder: Encoder = JSON.encoder) -> list[Part]:
    return [Part(readings, 0, len(readings), encoder)]


def texts(answers: Sequence[Any]) -> list[Any]:
    """Answers with the refusals among them as JSON too."""
    return [JSON.encoder.refusal(answer) if isinstance(answer, Refused) else answer for answer in answers]
