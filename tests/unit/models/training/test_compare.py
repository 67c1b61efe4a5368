"""Architectures are compared on what nothing was chosen by, and the cheapest good one is recommended."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import EvaluationError, TrainingError
from gatewatch.models.recordings.labels import Labelled, Span
from gatewatch.models.training import compare as comparing
from gatewatch.models.training.architectures import build
from gatewatch.models.training.compare import (
    UNSEEN,
    Compared,
    Comparison,
    calibration_error,
    compare,
    forecasts,
    recommend,
)
from gatewatch.models.training.comparison_page import columns, lines, write_comparison
from gatewatch.models.training.config import TrainConfig
from tests.support.loop import waves

TINY = TrainConfig(layers=1, hidden=4, window=16, lanes=4, epochs=2, learning_rate=2e-2, memory=8)
EVENTS: list[Span] = [(150, 159), (320, 329), (360, 364)]


def labelled(events: list[Span] | None = None, altered: Sequence[slice] = (), length: int = 400) -> Labelled:
    """A wave with a step at each event; `altered` rows are of another wave."""
    recording = waves(length)
    for first, last in events or []:
        recording.values[first : last + 1] += [30, 1]
    for rows in altered:
        recording.values[rows] *= 1.5
    return Labelled(recording, events)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare([labelled(EVENTS)], ["lstm", "bilstm", "gru"], TINY)


def test_every_quantity_is_there_for_each_architecture(comparison: Comparison) -> None:
    assert [one.architecture for one in comparison.compared] == ["lstm", "bilstm", "gru"]
    for one in comparison.compared:
        assert one.evaluation is not None
        assert (one.evaluation.events, one.evaluation.readings) == (2, 400 - 320)
        values = {name: value(one) for name, (_, value) in columns(comparison).items()}
        absent = {"delay (readings)"} | (set() if one.live else {"step µs", "µs in 1,000", "state bytes"})
        assert {name for name, value in values.items() if np.isnan(value)} <= absent
        assert values["state bytes"] > 0 or not one.live
    assert [len(line) for line in lines(comparison)] == [4] * len(columns(comparison))


def test_what_is_unseen_changes_no_weight_and_no_threshold() -> None:
    def manifest(given: Labelled) -> str:
        (one,) = compare([given], ["gru"], TINY).compared
        return one.trained.manifest.model_dump_json()

    assert manifest(labelled()) == manifest(labelled(altered=[slice(round(400 * (1 - UNSEEN)), None)]))
    unseen = [slice(150, 160), slice(320, None)]  # an event, and all from the middle one on
    assert manifest(labelled(EVENTS)) == manifest(labelled(EVENTS, altered=unseen))
    assert manifest(labelled()) != manifest(labelled(altered=[slice(0, 300)]))


def test_the_loss_is_that_of_the_reading_by_reading_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = waves(100, missing=0.1)
    scaling = Scaling.fit([recording])
    for architecture in ("lstm", "attention"):
        network = build(TINY.model_copy(update={"architecture": architecture}), 2)
        at_once = forecasts(network, scaling, recording)
        monkeypatch.setattr(comparing, "PIECE", 7)
        for whole, piecewise in zip(at_once, forecasts(network, scaling, recording), strict=True):
            np.testing.assert_allclose(whole, piecewise, atol=1e-5)
        monkeypatch.undo()


def test_a_share_of_false_alarms_is_measured_on_unseen_normal_readings() -> None:
    calm, wild = (compare([labelled(altered=rows)], ["gru"], TINY).compared[0] for rows in ([], [slice(370, 380)]))
    assert calm.judged == wild.judged == 80
    assert wild.loss > calm.loss
    assert wild.false_alarm_rate >= calm.false_alarm_rate


def test_the_calibration_error_is_of_the_shares_below_the_forecasts_quantiles() -> None:
    drawn = np.random.default_rng(0).standard_t(4, (20_000, 3))
    assert calibration_error(drawn, drawn) < 0.005
    assert calibration_error(drawn + 100, drawn) == pytest.approx(0.5)
    assert calibration_error(drawn * 1e-6, drawn) == pytest.approx(0.25, abs=0.02)
    moving, still = drawn.copy(), drawn.copy()
    moving[:, 0] += 100
    still[:, 0] = np.nan
    still[:, 1] = 3.0
    assert calibration_error(moving, drawn) == pytest.approx(0.5 / 3, abs=0.005)  # no channel makes up for another
    assert calibration_error(moving, still) < 0.005  # channel 2 alone: the others are absent and still
    assert np.isnan(calibration_error(drawn[:, :2], still[:, :2]))


def priced(one: Compared, name: str, losses: list[float], microseconds: float | None) -> Compared:
    cost = None if microseconds is None else (100.0, microseconds)
    return replace(
        one, architecture=name, loss=float(np.mean(losses)), block_losses=np.array(losses), step_us=cost,
        live=cost is not None,
    )  # fmt: skip


def test_the_cheapest_within_one_standard_error_of_the_best_is_recommended(comparison: Comparison) -> None:
    one = comparison.compared[0]
    best = priced(one, "best", [1.0, 2.0, 3.0, 4.0], 9)
    near = priced(one, "near", [1.3, 1.9, 3.2, 3.8], 3)
    cheap = priced(one, "cheap", [1.2, 2.2, 3.2, 4.2], 1)  # worse in every block, though by less than they differ
    hindsight = priced(one, "hindsight", [0.0, 0.0, 0.0, 0.0], None)
    name, reason = recommend([cheap, best, hindsight, near])
    assert name == "near"
    assert "within one standard error of the best (best, 2.5000)" in reason
    assert recommend([best, cheap])[0] == "best"
    for alone in ([near], [near, hindsight]):
        name, reason = recommend(alone)
        assert name == "near"
        assert reason.startswith("There is nothing to choose: of these, near alone can score a running stream. ")
        assert "best" not in reason
    assert recommend([hindsight]) == (
        "",
        "None can be recommended: none of these architectures can score a running stream.",
    )


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(TrainingError, match="at least 43 are needed"):
        compare([labelled(length=40)], ["gru"], TINY)
    still = labelled()
    still.recording.values[:] = [7, np.nan]
    with pytest.raises(TrainingError, match="no channel ever changes in the normal parts"):
        compare([still], ["gru"], TINY)
    with pytest.raises(EvaluationError, match="2 recordings, several of a stream wave"):
        compare([labelled(EVENTS), labelled(EVENTS)], ["gru"], TINY)


def test_an_architecture_that_fails_is_named_and_the_others_go_on() -> None:
    wide = TINY.model_copy(update={"memory": 4096, "hidden": 64, "epochs": 1})
    found = compare([labelled()], ["transformer", "gru"], wide)
    assert [one.architecture for one in found.compared] == ["gru"]
    assert "a stream's state would have" in found.failed["transformer"]
    with pytest.raises(TrainingError, match="transformer: a stream's state would have"):
        compare([labelled()], ["transformer"], wide)


def test_the_page_is_whole_in_itself_and_the_table_is_in_the_csv(comparison: Comparison, tmp_path: Path) -> None:
    failed = replace(comparison, failed={"rnn": "the loss is <nan>"})
    write_comparison(failed, tmp_path / "out")
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<svg") == 3
    assert "src=" not in page
    assert "@import" not in page
    assert all(link.startswith(("#", "data:")) for link in _links(page))
    assert "rnn could not be trained: the loss is &lt;nan&gt;." in page
    assert comparison.reason.split(":")[0] in page
    with (tmp_path / "out" / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["architecture"] for row in rows] == ["lstm", "bilstm", "gru"]
    assert [row["architecture"] for row in rows if row["recommended"] == "1"] == [comparison.recommended]
    assert float(rows[0]["loss"]) == pytest.approx(comparison.compared[0].loss, abs=1e-6)
    assert rows[1]["state bytes"] == ""


def _links(page: str) -> list[str]:
    return [part.split('"', 1)[0] for part in page.split('href="')[1:]]
