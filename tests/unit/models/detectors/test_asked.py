"""What people ask of streams scales scores, moves thresholds and hides channels, and touches no neighbour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.asked import Asked, nothing_asked, together
from gatewatch.models.detectors.detector import Step
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.evaluation.threshold import learn_tail
from tests.support.samples import make_artefact

CHANNELS = ("pressure", "flow")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedDetector:
    detector = TrainedDetector.load(make_artefact(tmp_path_factory.mktemp("made") / "one", seed=1))
    tail = learn_tail([np.random.default_rng(1).exponential(1.0, 20_000)]).table()
    calibration = detector.manifest.calibration.model_copy(update={"event_tail": tail, "level_tail": tail})
    detector.manifest = detector.manifest.model_copy(update={"calibration": calibration})
    return detector


@pytest.fixture(scope="module")
def general() -> GeneralDetector:
    detector = load_detector(model_folder("general"), CHANNELS)
    assert isinstance(detector, GeneralDetector)
    return detector


def values(count: int, seed: int = 0) -> NDArray[np.float64]:
    noise = np.random.default_rng(seed).normal(size=(count, 2))
    noise[200:210] += 6.0
    return 3.0 + noise


def scored(detector: TrainedDetector | GeneralDetector, asked: Asked | None, streams: int = 2) -> list[Step]:
    states = detector.initial(streams)
    readings = np.stack([values(260, seed) for seed in range(streams)], 1)
    return [
        detector.advance(row, np.full(streams, 1_700_000_000_000 + at * 60_000), states, asked)
        for at, row in enumerate(readings)
    ]


def asked_of_first(streams: int = 2, **changes: Any) -> Asked:
    first = nothing_asked(1, 2)
    made = Asked(**{**vars(first), **{name: np.array([value]) for name, value in changes.items()}})
    asked = together([made] + [None] * (streams - 1), 2)
    assert asked is not None
    return asked


@pytest.mark.parametrize("kind", ["trained", "general"])
@pytest.mark.parametrize(
    "changes", [{"sensitivity": 2.0}, {"alerts_per_week": 50.0}, {"false_alarm_rate": 0.05}, {"ignored": [True, False]}]
)
def test_a_neighbour_of_whom_nothing_is_asked_keeps_its_bits(
    request: pytest.FixtureRequest, kind: str, changes: dict[str, Any]
) -> None:
    detector = request.getfixturevalue(kind)
    plain, asked = scored(detector, None), scored(detector, asked_of_first(**changes))
    assert any(one.score[0] != other.score[0] for one, other in zip(plain, asked, strict=True))
    for one, other in zip(plain, asked, strict=True):
        assert one.score[1:].tobytes() == other.score[1:].tobytes()
        assert one.status[1:].tobytes() == other.status[1:].tobytes()
        assert one.alert[1:].tobytes() == other.alert[1:].tobytes()
    assert plain[-1].states[1:].tobytes() == asked[-1].states[1:].tobytes()


@pytest.mark.parametrize("kind", ["trained", "general"])
def test_more_is_anomalous_the_more_alerts_are_allowed(request: pytest.FixtureRequest, kind: str) -> None:
    detector = request.getfixturevalue(kind)

    def anomalous(**changes: Any) -> int:
        return sum(bool(step.score[0] > 1) for step in scored(detector, asked_of_first(**changes)))

    budgets: dict[str, tuple[float, ...]] = {
        "alerts_per_week": (0.1, 2.0, 500.0), "false_alarm_rate": (1e-6, 0.001, 0.1), "sensitivity": (0.1, 1.0, 5.0),
    }  # fmt: skip
    for name, of_name in budgets.items():
        counts = [anomalous(**{name: budget}) for budget in of_name]
        assert counts == sorted(counts), (name, counts)
        assert counts[0] < counts[-1], (name, counts)


@pytest.mark.parametrize("kind", ["trained", "general"])
def test_an_ignored_channel_changes_no_score_whatever_it_does(request: pytest.FixtureRequest, kind: str) -> None:
    detector = request.getfixturevalue(kind)
    asked = asked_of_first(1, ignored=[True, False])
    times = 1_700_000_000_000 + np.arange(400) * 60_000
    told = []
    hides: list[Callable[[int], float]] = [lambda _: 3.0, lambda at: at % 7 * 1e6, lambda _: np.nan]
    for hidden in hides:
        states, readings = detector.initial(1), values(400, 3)
        steps = []
        for at, (row, moment) in enumerate(zip(readings, times, strict=True)):
            given = np.array([[hidden(at), row[1]]])
            steps.append(detector.advance(given, np.array([moment]), states, asked))
        told.append([(step.score.tobytes(), step.alert.tobytes()) for step in steps])
        assert all(step.attribution[0, 0] == 0 for step in steps if step.score[0] > 1)
    assert told[0] == told[1] == told[2]


def test_a_score_crosses_one_where_its_scaled_part_does(trained: TrainedDetector) -> None:
    plain, twice = scored(trained, None, 1), scored(trained, asked_of_first(1, sensitivity=2.0), 1)
    assert any(step.score[0] > 1 for step in plain)
    for one, other in zip(plain, twice, strict=True):
        assert (other.score[0] > 1) == (2 * one.parts.max() > 1)
        if other.score[0] > 1:
            assert other.score[0] == np.float32(2 * one.parts.max())
