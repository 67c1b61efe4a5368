"""Drift: whether a model has aged: its forecasts, or what it sees, have changed for good since it was trained.

A trained model's artefact says how far its forecasts missed in its recordings, in the mean, and how far each channel
spread. So nothing has to be learned in service. Of a sample of what is scored, over all streams of a model and all
their channels, a day's means are taken, a day by the times of the readings:

    residuals   y = ln of the mean of min(|missed| / usual miss, 6)
    inputs      y = |ln of the mean of min(|x - center| / spread, 6)²|

Both are 0 in the recordings. For each, Page's cumulative sum S' = max(0, S + y - k) is told in units of h: 1 and more
is aged. A day is the rhythm of most plants, so that a night is no change. A few bytes for each S stay in the process.

k, h and the unit were chosen with these sets in view (benchmarks/results/2026-11-29-drift.md): models of six servers
gave no alarm in 15 days, and told errors twice as large after two. One of 19 channels that lay five spreads off was not
told within a week: a single sensor is for incidents. On two other plants it alarmed after two and seven days of data as
they are; whether these had changed is not known.

Source: Page 1954, Continuous inspection schemes, Biometrika 41: 100-115.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import numpy as np

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.history import Entries
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.sequencing import Round
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.observability.metrics import DRIFT, Metrics

SAMPLE_S: Final = 0.05
"""Between two samples of a model: a batch each, which takes 20 us."""

FARTHEST: Final = 6.0
"""Of an error or a deviation: an outlier is no drift."""

DAY_MS: Final = 86_400_000
LEAST: Final = 100
"""Readings of a day in the sample; a day with fewer is counted together with the next."""

KINDS: Final = DRIFT
ALLOWED: Final = {"residuals": math.log(1.25), "inputs": math.log(2.0)}
LIMIT: Final = {"residuals": 0.5, "inputs": 0.7}
"""k and h."""


class Chart:
    """The sums of one model.

    Attributes:
        drift: of each of KINDS, 1 and more is aged.
    """

    def __init__(self) -> None:
        self.drift = dict.fromkeys(KINDS, 0.0)
        self._day: int | None = None
        self._totals = dict.fromkeys(KINDS, 0.0)
        self._count = 0

    def add(self, day: int, totals: Mapping[str, float], count: int) -> bool:
        """Take a sample in; whether a day ended with it.

        Args:
            day: of its newest reading, since 1970.
            totals: sums over all values, of each kind before the logarithm.
            count: of values.
        """
        ended = self._day is not None and day > self._day and self._count >= LEAST
        if ended:
            for kind in KINDS:
                y = math.log(max(self._totals[kind] / self._count, 1e-12))
                y = abs(y) if kind == "inputs" else y
                self.drift[kind] = max(0.0, self.drift[kind] + (y - ALLOWED[kind]) / LIMIT[kind])
            self._totals, self._count = dict.fromkeys(KINDS, 0.0), 0
        self._day = day if self._day is None else max(self._day, day)
        for kind in KINDS:
            self._totals[kind] += totals[kind]
        self._count += count
        return ended


def sample(detector: TrainedDetector, values: Any, mid: Any) -> tuple[dict[str, float], int]:
    """Sums over (N, C) readings and forecasts of them, as `Chart.add` takes them, and how many values there are."""
    deviation = detector.scaling.deviation(np.asarray(values, np.float64))
    calibration = detector.calibration
    missed = (values - mid) / (calibration.usual_miss * calibration.event_scale * detector.scaling.spread)
    there = np.isfinite(missed)
    if calibration.constants is not None:
        there[:, calibration.constants] = False
    errors = np.minimum(np.abs(missed[there]), FARTHEST)
    inputs = np.minimum(np.abs(deviation[there]), FARTHEST)
    return {"residuals": float(errors.sum()), "inputs": float(inputs @ inputs)}, int(np.count_nonzero(there))


class Drift:
    """The charts of the trained models that this process scores with."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._names: Mapping[bytes, str] = {}
        self._charts: dict[bytes, Chart] = {}
        self._sampled: dict[bytes, float] = {}

    def follow(self, names: Mapping[bytes, str]) -> None:
        """Watch models of these digests; `names`: how metrics call them. Those that go on keep their charts."""
        for gone in set(self._names.values()) - set(names.values()):
            self._metrics.drift_ends(gone)
        for digest, name in names.items():
            if self._names.get(digest) != name or digest not in self._charts:
                self._charts[digest] = Chart()
                self._metrics.drifted(name, self._charts[digest].drift)
        self._charts = {digest: self._charts[digest] for digest in names}
        self._names = names

    def scored(
        self, model: Model, rounds: Sequence[tuple[Round, Entries]], loaded: LoadedBatch, lost: AbstractSet[StreamKey]
    ) -> None:
        """Take a sample of what was scored, now and then."""
        detector, now = model.detector, time.monotonic()
        digest = detector.digest
        if now - self._sampled.get(digest, -math.inf) < SAMPLE_S or not isinstance(detector, TrainedDetector):
            return
        chart = self._charts.get(digest)
        if chart is None or lost or loaded.causes:
            return
        self._sampled[digest] = now
        for _, entries in rounds:
            totals, count = sample(detector, entries["values"], entries["mid"])
            if chart.add(int(entries["timestamp_ms"].max()) // DAY_MS, totals, count):
                self._metrics.drifted(self._names[digest], chart.drift)
