"""A cycle that is wrong is told though each value is usual; whatever the channel's unit, gaps and states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import REASONS
from gatewatch.models.detectors.general.cycles import RING, WINDOW, in_order, period_of, unlike
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.models.detectors.general.score import SHAPE
from gatewatch.models.detectors.general.shape import FARTHEST, MOST_SPAN, shape_fields
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan
from tests.support.lone import require_alike
from tests.support.samples import START_MS
from tests.support.states import without_shape

Column = NDArray[np.float64]

ROWS, AT, PERIOD = 2600, 2300, 50
SOONER = 1000
FIVE_MINUTES_MS = 300_000


def general(*channels: str) -> GeneralDetector:
    detector = load_detector(model_folder("general"), channels or ("x",))
    assert isinstance(detector, GeneralDetector)
    return detector


def cycles(rows: int = ROWS, seed: int = 0) -> Column:
    """A step up, a slope down, and a rest in each period; noise."""
    phase = np.arange(rows) / PERIOD % 1
    shape = np.interp(phase, [0, 0.1, 0.55, 0.6, 1], [0, 4, 1, 0, 0])
    return np.asarray(shape + np.random.default_rng(seed).normal(0, 0.1, rows))


def early(values: Column) -> Column:
    return np.concatenate([values[:AT], values[AT + PERIOD // 2 :], values[: PERIOD // 2]])


def missing(values: Column) -> Column:
    values[AT : AT + PERIOD] = 0.1 * values[AT + 32 : AT + 33] + np.random.default_rng(1).normal(0, 0.1, PERIOD)
    return values


def backwards(values: Column) -> Column:
    values[AT : AT + PERIOD] = values[AT : AT + PERIOD][::-1].copy()
    return values


def scanned(*columns: Column, times_ms: NDArray[np.int64] | None = None) -> Scan:
    names = ("x", "y", "z")[: len(columns)]
    times = START_MS + FIVE_MINUTES_MS * np.arange(len(columns[0])) if times_ms is None else times_ms
    return scan(general(*names), Recording("s", names, times, np.stack(columns, axis=1)))


@pytest.mark.parametrize("wrong", [early, missing, backwards])
def test_a_cycle_that_is_wrong_is_told_and_ends(wrong: Callable[[Column], Column]) -> None:
    found = scanned(wrong(cycles()))
    part = found.parts[:, SHAPE]
    assert part[AT : AT + 2 * PERIOD].max() > 1
    assert found.score[200:].argmax() + 200 in range(AT, AT + 2 * PERIOD)
    assert "shape" in {REASONS[reason] for reason in found.reason[AT : AT + 2 * PERIOD][part[AT : AT + 2 * PERIOD] > 1]}
    assert (part[200:AT] <= 1).all()
    assert (part[AT + 2 * PERIOD :] <= 1).all()


@pytest.mark.parametrize("kind", ["noise", "walk", "pulses at odd times", "constant"])
def test_a_stream_without_a_period_never_has_a_size(kind: str) -> None:
    rng = np.random.default_rng(3)
    pulses = (rng.random(ROWS) < 0.05) * 5.0 + rng.normal(0, 0.1, ROWS)
    columns = {"noise": rng.normal(size=ROWS), "walk": rng.normal(size=ROWS).cumsum(), "constant": np.full(ROWS, 3.0)}
    found = scanned(columns.get(kind, pulses))
    assert not found.parts[:, SHAPE].any()
    assert not found.states["shape"].any()


def test_unit_and_offset_of_a_channel_do_not_matter() -> None:
    plain = backwards(cycles())
    one, other = scanned(plain).parts[:, SHAPE], scanned(1e7 + 2.0**12 * plain).parts[:, SHAPE]
    np.testing.assert_allclose(other, one, rtol=0.02, atol=0.02)
    assert one.max() > 1


def test_what_is_remembered_of_a_channel_is_bounded() -> None:
    assert np.dtype(shape_fields(1)).itemsize <= 700
    found = scanned(cycles(), np.full(ROWS, np.nan), 1e30 * np.sign(cycles()))
    assert np.isfinite(found.states["shape_ring"]).all()
    assert (np.abs(found.states["shape_ring"]) <= FARTHEST).all()
    assert found.states["sound"] <= MOST_SPAN
    assert np.isfinite(found.score).all()


def require_told_late_alone(found: Scan) -> None:
    """Nothing is wrong but the cycle at AT, so that what came before has neither cried wolf nor silenced the part."""
    part = found.parts[:, SHAPE]
    assert (part[:AT] <= 1).all()
    assert part[AT : AT + 2 * PERIOD].max() > 1


def test_a_wild_value_does_not_make_cycles_wrong() -> None:
    values = cycles()
    values[1500] = 1e6
    part = scanned(values).parts[:, SHAPE]
    assert (part <= 1).all()


def test_a_gap_and_values_that_are_missing_make_no_cycle_wrong() -> None:
    """Readings that are lost, in one row and here and there; values that are; a channel that stays away."""
    times = START_MS + FIVE_MINUTES_MS * np.arange(ROWS)
    times[SOONER:] += 17 * FIVE_MINUTES_MS
    lost = backwards(np.concatenate([cycles()[:SOONER], cycles(ROWS + 17)[SOONER + 17 :]]))
    require_told_late_alone(scanned(lost, times_ms=times))
    holes = backwards(cycles())
    holes[np.random.default_rng(2).random(ROWS) < 0.03] = np.nan
    require_told_late_alone(scanned(holes))
    away = backwards(cycles())
    away[SOONER : SOONER + 40] = np.nan
    require_told_late_alone(scanned(away))


def test_what_is_kept_from_learning_is_not_remembered() -> None:
    detector, values = general("x"), cycles()[:, None]
    times = START_MS + FIVE_MINUTES_MS * np.arange(ROWS)
    states = scan(detector, Recording("s", ("x",), times[:AT], values[:AT])).states
    before = states.copy()
    for row in range(AT, AT + 60):
        after = detector.step(values[row : row + 1], times[row : row + 1], states).states
        states = detector.held(states, after)
    for name in ("shape_ring", "shape_blocks", "shape_usual", "shape"):
        np.testing.assert_array_equal(states[name], before[name])
    for row in range(AT + 60, ROWS):  # the phase is another one
        step = detector.step(values[row : row + 1], times[row : row + 1], states)
        states = step.states
        assert step.parts[0, SHAPE] <= 1


def test_a_state_without_this_goes_on() -> None:
    detector, whole = general("x", "y"), np.stack([cycles(), cycles(seed=1)], axis=1)
    times = START_MS + FIVE_MINUTES_MS * np.arange(ROWS)
    states = scan(detector, Recording("s", ("x", "y"), times[:800], whole[:800])).states
    old = without_shape(detector, states)
    taken = general("y", "x", "new").carried_over(old.tobytes(), ("x", "y"))
    assert taken is not None
    assert not taken["shape_unit"].any()
    assert not taken["counted"][:, 3].any()
    np.testing.assert_array_equal(taken["counted"][:, [0, 1, 2, 4]], old["counted"])
    np.testing.assert_array_equal(taken["miss"][:, :2], states["miss"][:, ::-1])
    again = general("x", "y").carried_over(old.tobytes(), ("x", "y"))
    found = scan(detector, Recording("s", ("x", "y"), times[800:], whole[800:]), again)
    unbroken = scan(detector, Recording("s", ("x", "y"), times[800:], whole[800:]), states)
    np.testing.assert_array_equal(found.parts[:, :SHAPE], unbroken.parts[:, :SHAPE])
    assert detector.carried_over(old.tobytes()[:-1], ("x", "y")) is None


def test_a_period_is_found_where_there_is_one_alone() -> None:
    rng, place = np.random.default_rng(0), np.arange(RING)
    saw = place / 37 % 1 + 0.1 * rng.normal(size=RING)
    two_peaks = np.sin(2 * np.pi * place / 60) + np.sin(4 * np.pi * place / 60 + 1)
    assert [period_of(y) for y in (saw, two_peaks)] == [37, 60]
    switched = (np.cumsum(rng.random(RING) < 1 / 12) % 2).astype(np.float64)
    noise = rng.normal(size=RING)
    others = [noise, np.cumsum(noise), switched, np.ones(RING), place.astype(np.float64)]
    for y in others:
        assert period_of(y) == 0


def test_windows_are_held_against_all_before_by_their_definition() -> None:
    rng = np.random.default_rng(5)
    rings = rng.normal(3, 1, (4, RING)).astype(np.float16)
    blocks = np.array([100, 319, 320, 777], np.uint16)
    found, deviation = unlike(rings, blocks)
    for ring, count, (least, newest), spread in zip(rings, blocks.tolist(), found, deviation, strict=True):
        y = in_order(ring, count)[RING - min(count, RING) :]
        past = np.lib.stride_tricks.sliding_window_view(y[:-WINDOW], WINDOW)
        off = past - past.mean(1, keepdims=True) - (y[-WINDOW:] - y[-WINDOW:].mean())
        rms = np.sqrt(np.square(off).mean(1))
        np.testing.assert_allclose(least, rms.min(), rtol=1e-9)
        np.testing.assert_allclose(newest, np.sqrt(np.square(off[rms.argmin(), -6:]).mean()), rtol=1e-9)
        np.testing.assert_allclose(spread, y.std(), rtol=1e-9)


def many_shapes(rows: int) -> Column:
    """Channels in cycles of 14 readings, of 120, which need wider blocks, of a length that changes; faults and gaps."""
    rng, at = np.random.default_rng(6), np.arange(rows)
    turns = at[:, None] / np.array([14.3, 120, 37]) * np.where(at[:, None] > rows * 0.6, [1, 1, 1.3], 1)
    values = np.where(turns % 1 < 0.3, 1, np.sin(2 * np.pi * turns)) + rng.normal(0, 0.05, (rows, 3))
    values[:, 2] += 1e5
    values[rows // 2 : rows // 2 + 30] = values[rows // 2 : rows // 2 + 30][::-1].copy()
    values[int(rows * 0.4) : int(rows * 0.4) + 10] += 5
    values[rng.random(values.shape) < 0.01] = np.nan
    values[int(rows * 0.8) : int(rows * 0.8) + 9, 0] = np.nan
    return values


def test_cycles_are_taken_in_alone_as_in_company() -> None:
    rows = 1100
    times = START_MS + FIVE_MINUTES_MS * np.arange(rows)
    times[800:] += 6 * FIVE_MINUTES_MS
    detector = general("x", "y", "z")
    alone, _ = require_alike(detector, many_shapes(rows), times)
    assert alone > 0.7 * rows


def test_cycles_are_taken_in_by_rows_as_one_by_one() -> None:
    rows = 1500
    times = START_MS + FIVE_MINUTES_MS * np.arange(rows)
    times[1000:] += 6 * FIVE_MINUTES_MS
    recording = Recording("s", ("x", "y", "z"), times, many_shapes(rows))
    together, one_by_one = general("x", "y", "z"), general("x", "y", "z")
    one_by_one.advance_rows = lambda *_: None  # type: ignore[method-assign]
    found, expected = scan(together, recording), scan(one_by_one, recording)
    assert found.states.tobytes() == expected.states.tobytes()
    np.testing.assert_array_equal(found.parts, expected.parts)
    assert (found.states["shape_fold"] > 0).any()
    assert (expected.parts[:, SHAPE] > 0).mean() > 0.2
