"""What holds for every input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from gatewatch.models.detectors.detector import expected_band
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.evaluation.threshold import learn_tail, threshold
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from gatewatch.service.app import create_app
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.layout import layout_of, of_ring
from gatewatch.service.settings import Settings
from tests.support.samples import CHANNELS, START_MS, post, readings

with_fixtures = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.one_of(
    st.none(), st.floats(-1e3, 1e3, width=32), st.sampled_from([0.0, -0.0, 1e-42, 3.4e38, -3.4e38, 1e30, 3.0])
)


@with_fixtures
@given(rows=st.lists(st.tuples(values, values), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_a_score_is_finite_whatever_the_reading(detector: TrainedDetector, rows: list[Any], seed: int) -> None:
    states = detector.initial(1)
    moments = np.cumsum(np.random.default_rng(seed).integers(-1000, 10**9, len(rows)))
    for row, moment in zip(rows, moments, strict=True):
        x = np.array([[np.nan if value is None else value for value in row]])
        step = detector.step(x, np.array([START_MS + moment]), states)
        states = step.states
        assert np.isfinite(step.score).all()
        assert (step.score >= 0).all()
        assert np.isfinite(expected_band(step.mid, step.half)).all()
        assert np.isclose(step.attribution.sum(), 1)
        for name in ("h", "c", "event", "plain", "usual", "unrest", "accepted", "noise", "level", "lively"):
            assert np.isfinite(states[name]).all(), name


@with_fixtures
@given(streams=st.integers(2, 70), row=st.integers(0, 69), seed=st.integers(0, 99))
def test_a_stream_scores_alike_alone_and_in_company(
    detector: TrainedDetector, streams: int, row: int, seed: int
) -> None:
    """To the bit, at every batch size and place: onnxruntime and numpy compute a row without its neighbours."""
    row %= streams
    rng = np.random.default_rng(seed)
    together, alone = detector.initial(streams), detector.initial(1)
    for moment in range(3):
        x = rng.normal(3, 2, (streams, len(CHANNELS))).astype(np.float32)
        times = np.full(streams, START_MS + 60_000 * moment)
        company = detector.step(x, times, together)  # type: ignore[arg-type]
        single = detector.step(x[row : row + 1], times[:1], alone)  # type: ignore[arg-type]
        together, alone = company.states, single.states
        assert company.score[row] == single.score[0]
        assert together[row].tobytes() == alone[0].tobytes()


@with_fixtures
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_bulk_single_and_scan_score_alike(
    client: TestClient, detector: TrainedDetector, chunks: list[int], seed: int
) -> None:
    """Contract 2: the same readings by HTTP in chunks of any size and by scan have the same scores."""
    stream = f"s{seed}-" + "-".join(map(str, chunks))
    sent = readings(stream, sum(chunks), seed)
    results, start = [], 0
    for chunk in chunks:
        results += post(client, sent[start : start + chunk])
        start += chunk
    table = [[np.nan if v is None else v for v in reading["values"].values()] for reading in sent]
    times = np.array([int(reading["timestamp"] * 1000) for reading in sent])
    found = scan(detector, Recording(stream, CHANNELS, times, np.array(table)))
    assert [r["score"] for r in results] == found.score.tolist()


@with_fixtures
@given(seed=st.integers(0, 99), cut=st.integers(1, 19))
def test_stopping_storing_and_resuming_changes_no_score(settings: Callable[..., Settings], seed: int, cut: int) -> None:
    sent = readings(f"resumed-{seed}-{cut}", 20, seed)
    with TestClient(create_app(settings())) as first:
        results = post(first, sent[:cut])
    with TestClient(create_app(settings())) as second:
        results += post(second, sent[cut:])
        unbroken = post(second, [{**reading, "stream": f"unbroken-{seed}-{cut}"} for reading in sent])
        tags = [second.get(f"/v1/streams/{kind}-{seed}-{cut}").json()["tag"] for kind in ("resumed", "unbroken")]
    assert [r["score"] for r in results] == [r["score"] for r in unbroken]
    assert tags[0] == tags[1]


@given(
    scores=st.lists(st.floats(0, 1e6), min_size=1, max_size=300), low=st.floats(1e-6, 0.5), high=st.floats(1e-6, 0.5)
)
def test_tolerating_more_false_alarms_never_raises_the_threshold(scores: list[float], low: float, high: float) -> None:
    low, high = sorted((low, high))
    tail = learn_tail([np.array(scores)], least_scale=0.5)
    assert threshold(tail, high).value <= threshold(tail, low).value * (1 + 1e-9)


@with_fixtures
@given(seed=st.integers(0, 2**32 - 1), flip=st.integers(0, 10**9), level=st.sampled_from([0.0, -0.25]))
def test_a_record_survives_its_round_trip_and_no_flipped_bit(
    detector: TrainedDetector, seed: int, flip: int, level: float
) -> None:
    dtype, usual = state.state_dtype(detector.state_dtype, len(CHANNELS)), layout_of(CHANNELS, CHANNELS)
    records = state.fresh(dtype, detector.initial(1), detector.digest, 128)
    records["tag"], records["level"] = np.void(np.random.default_rng(seed).bytes(16)), level
    (packed,) = state.pack(records, [usual], [seed])
    unpacked, layouts, flaws = state.unpack([packed], [seed], dtype, usual, detector.digest, 128)
    assert not flaws
    assert state.pack(unpacked, layouts, [seed]) == [packed]
    assert state.unpack([packed], [seed ^ 1], dtype, usual, detector.digest, 128)[2] == {0: "corrupt"}
    damaged = bytearray(packed)
    damaged[flip // 8 % len(packed)] ^= 1 << flip % 8
    cut = packed[: flip % len(packed)]
    several = [packed, bytes(damaged), cut, None]
    records, _, flaws = state.unpack(several, [seed] * 4, dtype, usual, detector.digest, 128)
    assert set(flaws) == {1, 2, 3}
    assert state.pack(records[:1], [usual], [seed]) == [packed]
    assert packed[state.FENCE] == records[0].tobytes()[state.FENCE]


@given(count=st.integers(0, 40), slots=st.integers(1, 12), damaged=st.integers(0, 11))
def test_a_history_gives_back_its_newest_unbroken_run(count: int, slots: int, damaged: int) -> None:
    layout, seed = layout_of(CHANNELS, CHANNELS), state.seed(b"a stream")
    dtype, begin = layout.entry, len(layout.ring_header)
    ring = bytearray(layout.ring_header)
    for n in range(count):
        entry = np.zeros(1, dtype)
        entry["n"], entry["seq"] = n, 7 * n
        at = begin + n % slots * dtype.itemsize
        ring[at : at + dtype.itemsize] = history.pack_entries(entry, [layout.slot_seed(seed)])[0]
    assert history.unpack_entries(bytes(ring), layout, seed)["n"].tolist() == list(range(max(0, count - slots), count))
    assert of_ring(bytes(ring)) == CHANNELS
    assert len(history.unpack_slots(bytes(ring[begin:]), dtype, layout.slot_seed(seed + 1))) == 0
    for n in range(count):
        found = history.find(bytes(ring), layout, seed, 7 * n, 0, np.zeros(2))["n"].tolist()
        assert found == ([n] if n >= count - slots else [])
    if damaged < min(count, slots):
        ring[begin + damaged * dtype.itemsize + 9] ^= 1
        kept = history.unpack_entries(bytes(ring), layout, seed)["n"].tolist()
        assert kept == list(range(kept[0], kept[-1] + 1)) if kept else True
        assert [int(one["n"]) for one in history.newest_first(bytes(ring), layout, seed)] == kept[::-1]
        assert all(n % slots != damaged for n in kept)


def test_importing_the_service_loads_no_torch() -> None:
    code = (
        "import gatewatch.service.app, gatewatch.service.cli, sys; print(sorted({'torch', "
        "'gatewatch.models.training'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_models_never_imports_the_service() -> None:
    sources = Path(__file__).parent.parent.parent.joinpath("models").rglob("*.py")
    assert [path.name for path in sources if "from gatewatch.service" in path.read_text()] == []
