"""What several tests share."""

from __future__ import annotations

import random

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.storage.store import StateStore


def state_key(tenant: str, stream: str, what: str = "state") -> str:
    return StateStore("redis://unused", tenant, 100).key(StreamKey(tenant, stream), what)


def scorer_of(detector: TrainedDetector, store: StateStore, attempts: int) -> Scorer:
    metrics = Metrics()
    takeover = Takeover(store, detector.name, metrics)
    return Scorer(detector, store, metrics, 128, attempts, 100, ContentionBackoff(random.Random(0)), takeover)
