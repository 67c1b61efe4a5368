"""The general network, trained on with recordings, is a general model that knows them better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gatewatch.models.artefact.files import GeneralManifest, load_artefact, model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.general.finetune import finetune
from tests.support.samples import START_MS


def sawtooth(rows: int) -> Recording:
    """Two channels of teeth that the general network has not seen in this form: 17 and 23 readings long."""
    t = np.arange(rows)
    values = np.stack([(t % 17) ** 2 / 17, 50 - (t % 23)], axis=1) + np.random.default_rng(0).normal(0, 0.1, (rows, 2))
    return Recording("saw", ("a", "b"), START_MS + 60_000 * t.astype(np.int64), values.astype(np.float32))


def test_training_on_lowers_the_errors_on_what_it_has_not_seen_and_watches_any_channel(tmp_path: Path) -> None:
    told: list[int] = []
    tuned = finetune(
        [sawtooth(1800)], TrainConfig(epochs=2), model_folder("general"), lambda number, _: told.append(number)
    )
    assert told == [1, 2]
    assert tuned.passes in told
    assert np.mean(tuned.after.typical) < np.mean(tuned.before.typical)
    assert tuned.verdict().startswith("better than the general model on the held-out ends: errors lower by ")
    tuned.save(tmp_path / "tuned")
    manifest = load_artefact(tmp_path / "tuned").manifest
    assert isinstance(manifest, GeneralManifest)
    assert manifest.training["began_as"] == load_artefact(model_folder("general")).digest.hex()
    saw = sawtooth(200)
    other = Recording("other", ("unheard-of",), saw.timestamps_ms, saw.values[:, :1])
    found = scan(load_detector(tmp_path / "tuned", other.channels), other)
    assert np.isfinite(found.score).all()


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, artefact: Path) -> None:
    with pytest.raises(TrainingError, match="300 readings in the longest of 1 recordings"):
        finetune([sawtooth(300)], TrainConfig(), model_folder("general"), lambda *_: None)
    with pytest.raises(TrainingError, match="only the general model can be trained on"):
        finetune([sawtooth(1800)], TrainConfig(), artefact, lambda *_: None)
