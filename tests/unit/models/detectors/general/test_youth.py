"""A channel that joins an old stream is young, whatever its stream has seen; see models.detectors.general.youth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import Records, Step
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.models.detectors.general.youth import youth_of
from tests.support.samples import START_MS

FIVE_MINUTES_MS = 300_000
BEFORE, AFTER, STREAMS = 300, 120, 6

Values = NDArray[np.float64]


@pytest.fixture(scope="module")
def general() -> GeneralDetector:
    detector = load_detector(model_folder("general"), unnamed=True)
    assert isinstance(detector, GeneralDetector)
    return detector


def curves(rows: int) -> Values:
    """(rows, STREAMS) of what a stream has shown for long."""
    noise = np.random.default_rng(3).normal(0, 0.1, (rows, STREAMS))
    return 10 + np.sin(2 * np.pi * np.arange(rows) / 60)[:, None] + noise


def squares(rows: int) -> Values:
    noise = np.random.default_rng(5).normal(0, 0.1, (rows, STREAMS))
    return 5 * np.sign(np.sin(2 * np.pi * np.arange(rows) / 40))[:, None] + noise


def fed(detector: GeneralDetector, values: Values, states: Records, first: int = 0) -> list[Step]:
    """What is said of (N, B, C) readings, the first of which is number `first` of its streams."""
    times = START_MS + FIVE_MINUTES_MS * (first + np.arange(len(values)))
    return [
        detector.advance(row, np.full(len(row), time), states) for row, time in zip(values, times.tolist(), strict=True)
    ]


def alerts(steps: list[Step]) -> int:
    return sum(int(np.count_nonzero(step.alert)) for step in steps)


def test_a_channel_that_joins_an_old_stream_raises_no_more_alerts_than_on_a_stream_of_its_own(
    general: GeneralDetector,
) -> None:
    one, two = general.watching(["old"]), general.watching(["old", "new"])
    old, new = curves(BEFORE + AFTER), squares(AFTER)
    states = one.initial(STREAMS)
    fed(one, old[:BEFORE, :, None], states)
    joined = fed(two, np.stack([old[BEFORE:], new], axis=2), two.rearranged(states, ["old"]), BEFORE)

    alone = alerts(fed(one, old[BEFORE:, :, None], states, BEFORE)) + alerts(
        fed(one, new[:, :, None], one.initial(STREAMS))
    )
    assert alerts(joined) <= alone


def test_a_column_that_begins_late_is_as_young_as_a_channel_that_joins(general: GeneralDetector) -> None:
    two, rows = general.watching(["old", "new"]), BEFORE + AFTER
    late = np.concatenate([np.full((BEFORE, STREAMS), np.nan), squares(AFTER)])
    found = fed(two, np.stack([curves(rows), late], axis=2), two.initial(STREAMS))

    only_old = np.stack([curves(rows), np.full((rows, STREAMS), np.nan)], axis=2)
    assert alerts(found[BEFORE:]) <= alerts(fed(two, only_old, two.initial(STREAMS))[BEFORE:])


def test_a_fault_of_an_old_channel_is_told_while_another_one_is_young(general: GeneralDetector) -> None:
    one, two = general.watching(["old"]), general.watching(["old", "new"])
    old, new = curves(BEFORE + 40), squares(40)
    old[BEFORE + 20 :] += 8
    states = one.initial(STREAMS)
    fed(one, old[:BEFORE, :, None], states)
    steps = fed(two, np.stack([old[BEFORE:], new], axis=2), two.rearranged(states, ["old"]), BEFORE)

    assert alerts(steps[:20]) == 0
    assert alerts(steps[20:]) >= STREAMS
    worst = max((step for step in steps[20:]), key=lambda step: float(step.score.max()))
    assert (worst.attribution[:, 0] > worst.attribution[:, 1]).all()


def test_a_channel_that_was_away_for_long_is_as_old_as_before(general: GeneralDetector) -> None:
    """All channels are of one age: to the bit as if nobody asked for their ages."""
    two, rows = general.watching(["a", "b"]), 260
    away = np.stack([curves(rows), squares(rows)], axis=2)
    away[100:200, :, 1] = np.nan
    states = two.initial(STREAMS)
    fed(two, away, states)

    assert youth_of(states, states["readings"].astype(np.int64), np.full(STREAMS, 8.0)) is None


def test_a_young_channel_of_one_stream_changes_no_bit_of_another(general: GeneralDetector) -> None:
    one, two = general.watching(["old"]), general.watching(["old", "new"])
    old, new = curves(BEFORE + 20), squares(BEFORE + 20)
    joining = one.initial(1)
    fed(one, old[:BEFORE, :1, None], joining)
    both = np.stack([old, new], axis=2)
    steady = two.initial(1)
    fed(two, both[:BEFORE, 1:2], steady)
    pair = np.concatenate([two.rearranged(joining, ["old"]), steady])
    alone = fed(two, both[BEFORE:, 1:2], steady, BEFORE)
    together = fed(two, both[BEFORE:, :2], pair, BEFORE)

    assert [step.score[0].tobytes() for step in alone] == [step.score[1].tobytes() for step in together]
    assert steady.tobytes() == pair[1:].tobytes()
