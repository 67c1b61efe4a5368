"""A search finds settings, ends what is hopeless, and goes on where it was stopped as if it had not been."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatewatch.models.errors import TrainingError
from gatewatch.models.training.checkpoint import EpochReport
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained import tune as tuning
from gatewatch.models.training.trained.tune import JOURNAL, REAL, WHOLE, Trial, tune
from tests.support.loop import waves

TINY = TrainConfig(layers=1, hidden=4, window=16, lanes=4, epochs=5, learning_rate=2e-2, dropout=0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of small networks, and a search that learns from the third training on."""
    monkeypatch.setattr(tuning, "WHOLE", {"layers": (1, 2), "hidden": (2, 8), "window": (16, 32)})
    monkeypatch.setattr(tuning, "STARTUP", 2)
    monkeypatch.setattr(tuning, "LEAST_EPOCHS", 1)


def searched(folder: Path, trials: int, config: TrainConfig = TINY) -> tuple[TrainConfig, list[Trial]]:
    ended: list[Trial] = []
    return tune([waves(200)], config, trials, folder, on_trial=ended.append), ended


def test_the_settings_given_are_tried_first_and_the_best_are_kept(tmp_path: Path) -> None:
    best, ended = searched(tmp_path, 6)
    assert [trial.number for trial in ended] == [1, 2, 3, 4, 5, 6]
    assert ended[0].settings == pytest.approx({name: getattr(TINY, name) for name in (*WHOLE, *REAL)})
    winner = min((trial for trial in ended if trial.loss is not None), key=lambda trial: trial.loss or 0)
    assert best == TINY.model_copy(update=winner.settings)
    assert any(trial.loss is None for trial in ended), "none was hopeless"


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def stop(number: int, report: EpochReport) -> None:
        if (number, report.epoch) == (3, 1):
            raise KeyboardInterrupt

    whole, ended = searched(tmp_path / "whole", 5)
    with pytest.raises(KeyboardInterrupt):
        tune([waves(200)], TINY, 5, tmp_path / "parts", on_epoch=stop)
    _, more = searched(tmp_path / "parts", 4)
    resumed, last = searched(tmp_path / "parts", 5)
    assert [*more, *last] == ended[2:]
    assert resumed == whole
    assert searched(tmp_path / "parts", 5) == (whole, [])  # nothing left to do


def test_another_seed_searches_elsewhere(tmp_path: Path) -> None:
    one, other = (searched(tmp_path / str(seed), 2, TINY.model_copy(update={"seed": seed}))[1] for seed in (0, 1))
    assert one[1].settings != other[1].settings


def test_a_study_of_another_search_is_refused(tmp_path: Path) -> None:
    searched(tmp_path, 1)
    with pytest.raises(TrainingError, match="holds a study of other recordings or settings"):
        searched(tmp_path, 2, TINY.model_copy(update={"epochs": 4}))
    with pytest.raises(TrainingError, match="holds a study of other recordings or settings"):
        tune([waves(201)], TINY, 2, tmp_path)


def test_a_study_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("no study\n")
    with pytest.raises(TrainingError, match=f"{JOURNAL}: not a study that can be used"):
        searched(tmp_path, 1)


def test_settings_outside_the_bounds_and_without_a_logarithm_can_be_tried(tmp_path: Path) -> None:
    best, ended = searched(tmp_path, 1, TINY.model_copy(update={"hidden": 9, "weight_decay": 0.0}))
    assert ended[0].settings["hidden"] == best.hidden == 9
    assert best.weight_decay == pytest.approx(0, abs=1e-7)


def test_a_search_of_which_no_training_ends_says_why(tmp_path: Path) -> None:
    empty = waves(200, missing=1.0)
    with pytest.raises(TrainingError, match=r"none of 2 trainings came to its end, the last with: no value in the"):
        tune([empty], TINY, 2, tmp_path)
