"""What is kept for a picture: bounded, and never without what is worth seeing."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan
from gatewatch.service.cli_support import traces
from gatewatch.service.cli_support.traces import Traces, drawn
from tests.support.samples import CHANNELS, START_MS


def scanned(detector: TrainedDetector, rows: int, spike: int) -> Scan:
    values = np.random.default_rng(0).normal(3, 0.3, (rows, len(CHANNELS)))
    values[spike, 0] = 60
    return scan(detector, Recording("r", CHANNELS, START_MS + 60_000 * np.arange(rows, dtype=np.int64), values))


def test_a_long_recording_is_thinned_and_its_spike_stays(
    detector: TrainedDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MOST_VALUES", 500)
    whole = scanned(detector, 900, 611)
    kept = Traces()
    for start in range(0, 900, 300):
        rows = slice(start, start + 300)
        kept.take([_part(whole, rows)], {"pressure": "bar"})
    (trace,) = kept.chosen([])
    assert trace.values.size <= 500
    assert trace.titles() == ["pressure (bar)", "flow"]
    for one in (trace, drawn(trace, 30)):
        assert (np.diff(one.times_us) > 0).all()
        assert np.nanmax(one.values[:, 0]) == 60
        assert one.score.max() == whole.score.max()
        assert one.times_us[0] < START_MS * 1000 + 200 * 60_000_000
    assert len(drawn(trace, 30).times_us) <= 60


def _part(whole: Scan, rows: slice) -> Scan:
    columns = {name: getattr(whole, name)[rows] for name in ("score", "status", "reason", "alert", "attribution")}
    return Scan(
        whole.recording.taking(rows), **columns, expected=whole.expected[rows], residual=whole.residual[rows],
        parts=whole.parts[rows], states=whole.states, keeps_budget=True,
    )  # fmt: skip
