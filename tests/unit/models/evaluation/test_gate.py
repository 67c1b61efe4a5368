"""A version is better than the one before only by the rules, on readings that come after those it was trained on."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.artefact.files import Artefact, load_artefact, model_folder
from gatewatch.models.artefact.gate_report import Figures
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import EvaluationError
from gatewatch.models.evaluation.gate import LEAD_READINGS, Compared, compare, detector_for, divide, rules_of
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.review import Reviewed, unreviewed
from tests.support.samples import CHANNELS, START_MS, make_artefact


def recording(rows: int, stream: str = "pump", start: int = 0) -> Recording:
    values = np.random.default_rng(start).normal(3, 1, (rows, len(CHANNELS)))
    return Recording(stream, CHANNELS, START_MS + 60_000 * np.arange(start, start + rows, dtype=np.int64), values)


def test_the_newest_of_each_stream_is_set_apart_however_its_files_are_given() -> None:
    june, july, other = recording(100), recording(100, start=100), recording(50, "fan")
    parts = divide([unreviewed(july), unreviewed(other), unreviewed(june)], 0.25)
    assert [(one.source is july, one.source is june, rows) for one, rows in parts.trained] == [
        (False, True, 100), (True, False, 50), (False, False, 37),
    ]  # fmt: skip
    assert [(one.recording.stream, one.begins, len(one.recording)) for one in parts.newest] == [
        ("pump", 50, 100), ("fan", 37, 50),
    ]  # fmt: skip
    (whole, _) = divide([unreviewed(june), unreviewed(other)], 1.0).newest
    assert (whole.begins, len(whole.recording)) == (0, 100)


def test_a_stream_is_led_in_by_no_more_than_any_model_needs() -> None:
    (held,) = divide([unreviewed(recording(5000))], 0.1).newest
    assert (held.begins, len(held.recording)) == (LEAD_READINGS, LEAD_READINGS + 500)
    assert held.recording.values[-1].tolist() == recording(5000).values[-1].tolist()


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artefact]:
    folder = tmp_path_factory.mktemp("made")
    return {
        name: load_artefact(make_artefact(folder / name, **thresholds))  # type: ignore[arg-type]
        for name, thresholds in (
            ("calm", {"event_threshold": 4.0, "level_threshold": 4.0, "false_alarm_rate": 0.01}),
            ("jumpy", {"event_threshold": 0.05, "level_threshold": 0.05, "false_alarm_rate": 0.01}),
        )
    }


def test_figures_are_of_what_both_judged_and_what_is_left_out_is_nothing(
    artefacts: dict[str, Artefact],
) -> None:
    calm, jumpy = (TrainedDetector(artefacts[name]) for name in ("calm", "jumpy"))
    one = recording(400)
    one.values[350:360] += 40.0
    wrong = np.zeros(400, bool)
    wrong[350:360] = True
    events = divide([Reviewed(one, ~wrong & wrong, wrong, [(350, 359)])], 0.5)
    found = compare(calm, jumpy, events.newest)
    assert (found.usual, found.events) == (190, 1)
    assert found.new.found == found.before.found == 1
    assert found.new.anomalous < found.before.anomalous
    assert found.before.false_alarms >= 1
    assert found.new.loss == pytest.approx(found.before.loss)  # the same network
    assert 0.5 < (found.new.loss or 0) < 1.2  # white noise: its mean is off by 0.71 of what the last value is
    rules = [rule.kept for rule in rules_of(found, artefacts["calm"])]
    assert rules == [True, True, True, True]
    assert not rules_of(compare(jumpy, calm, events.newest), artefacts["jumpy"])[2].kept
    unlabelled = compare(calm, jumpy, divide([unreviewed(one)], 0.5).newest)
    assert unlabelled.new.anomalous >= 10  # no one said that it was a fault


def figures(loss: float | None = 0.8, anomalous: int = 0, false_alarms: int = 0, found: int = 0) -> Figures:
    return Figures(loss=loss, anomalous=anomalous, false_alarms=false_alarms, found=found)


@pytest.mark.parametrize(
    ("new", "before", "usual", "broken"),
    [
        (figures(), figures(), 1000, []),
        (figures(), figures(), 99, [0]),
        (figures(loss=0.81), figures(), 1000, [1]),
        (figures(loss=None), figures(), 1000, [1]),
        (figures(anomalous=10, false_alarms=1), figures(), 1000, []),  # one burst may come at 1 % of 1,000
        (figures(anomalous=150, false_alarms=1), figures(), 1000, []),  # and one of 150 one time in ten
        (figures(anomalous=400, false_alarms=1), figures(), 1000, [2]),
        (figures(anomalous=60, false_alarms=20), figures(), 1000, [2]),
        (figures(anomalous=60, false_alarms=20), figures(anomalous=60, false_alarms=3), 1000, []),
        (figures(found=2), figures(found=3), 1000, [3]),
        (figures(found=3), figures(found=2), 1000, []),
    ],
)
def test_each_rule_has_its_figures(
    artefacts: dict[str, Artefact], new: Figures, before: Figures, usual: int, broken: list[int]
) -> None:
    rules = rules_of(Compared(new, before, usual, 0.1, 3), artefacts["calm"])
    assert [at for at, rule in enumerate(rules) if not rule.kept] == broken


def test_a_general_model_is_held_to_its_alerts_a_week() -> None:
    general = load_artefact(model_folder("general"))
    found = Compared(figures(anomalous=40, false_alarms=4), figures(), 10_000, 4.0, 0)
    assert rules_of(found, general)[2].kept  # four in four weeks, for one a week
    found = Compared(figures(anomalous=40, false_alarms=12), figures(), 10_000, 4.0, 0)
    assert not rules_of(found, general)[2].kept


def test_a_model_of_other_channels_cannot_be_held_against_the_recordings(artefacts: dict[str, Artefact]) -> None:
    assert detector_for(artefacts["calm"], CHANNELS[::-1], "it").channels == CHANNELS
    with pytest.raises(EvaluationError, match="version 3 has the channels pressure, flow, the recordings have speed"):
        detector_for(artefacts["calm"], ("speed",), "version 3")
