"""What several tests share."""

from __future__ import annotations

import random

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.storage.keys import BUCKETS, Keys
from gatewatch.service.storage.store import StateStore


def state_key(tenant: str, stream: str, what: str = "state") -> str:
    return Keys(tenant, BUCKETS).part(StreamKey(tenant, stream), what).decode()


def sets_of(tenant: str, stream: str) -> list[str]:
    """The keys of the sorted sets of a stream's bucket: all streams, open anomalies, alerts."""
    return [key.decode() for key in Keys(tenant, BUCKETS)[StreamKey(tenant, stream)].sets]


def scorer_of(detector: TrainedDetector, store: StateStore, attempts: int) -> Scorer:
    metrics = Metrics()
    takeover = Takeover(store, detector.name, metrics)
    return Scorer(detector, store, metrics, 128, attempts, 100, ContentionBackoff(random.Random(0)), takeover)
