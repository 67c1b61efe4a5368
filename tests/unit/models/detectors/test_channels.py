"""Each channel has its own beginning and end: one that ends or stands still never swallows its stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact, load_artefact, model_folder
from gatewatch.models.detectors.detector import ANOMALOUS, REASONS, Scanner
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.incidents import OPEN_READINGS
from gatewatch.models.detectors.judged import APART_READINGS
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan
from tests.support.samples import CHANNELS, START_MS, make_artefact

Values = NDArray[np.float64]

ENDS, FAULTS = 400, (900, 1300, 1700)
"""Where the second channel ends; where the first has a fault of five readings."""


def noise(rows: int = 2000) -> Values:
    return np.random.default_rng(11).normal(3, 0.3, (rows, 2))


def with_faults(values: Values) -> Values:
    for row in FAULTS:
        values[row : row + 5, 0] += 20
    return values


def missing(values: Values) -> Values:
    values[ENDS:, 1] = np.nan
    return values


def frozen(values: Values) -> Values:
    values[ENDS:, 1] = values[ENDS, 1]
    return values


ENDINGS = {"absent": missing, "still": frozen}


@pytest.fixture(scope="module", params=["general", "trained"])
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scanner:
    if request.param == "general":
        return load_detector(model_folder("general"), CHANNELS)
    folder: Path = make_artefact(tmp_path_factory.mktemp("artefact") / "a")
    loaded: Artefact = load_artefact(folder)
    return TrainedDetector(loaded)


def scanned(detector: Scanner, values: Values) -> Scan:
    return scan(detector, Recording("s", CHANNELS, START_MS + 60_000 * np.arange(len(values)), values))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_channel_that_ends_is_told_once_and_then_set_apart(detector: Scanner, ending: str) -> None:
    found = scanned(detector, ENDINGS[ending](noise()))
    alerts = [row for row in np.flatnonzero(found.alert) if row >= ENDS]
    assert len(alerts) == 1
    assert found.attribution[alerts[0], 1] > 0.99
    told = np.flatnonzero((found.status == ANOMALOUS) & (found.reason == REASONS.index(ending)))
    assert told[-1] - told[0] + 1 == APART_READINGS
    assert (found.status[told[-1] + 1 :] != ANOMALOUS).mean() > 0.99
    assert not detector.is_open(found.states)[0]
    assert detector.set_apart(found.states).tolist() == [[False, True]]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_channel_that_has_ended_hides_no_fault_of_another(detector: Scanner, ending: str) -> None:
    found, whole = (scanned(detector, with_faults(values)) for values in (ENDINGS[ending](noise()), noise()))
    for row in FAULTS:
        assert whole.alert[row : row + 3].any()
        assert found.alert[row : row + 3].any()
        assert found.attribution[row, 0] > 0.9


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_fault_of_another_channel_alerts_while_one_that_ended_is_still_told(detector: Scanner, ending: str) -> None:
    values = ENDINGS[ending](noise())
    ended = int(np.flatnonzero(scanned(detector, values).alert & (np.arange(len(values)) >= ENDS))[0])
    row = ended + OPEN_READINGS + 10
    values[row : row + 3, 0] += 20
    found = scanned(detector, values)
    assert found.status[row - 1] == ANOMALOUS
    assert found.alert[row : row + 3].sum() == 1


def test_what_spreads_from_one_channel_to_another_is_one_incident(detector: Scanner) -> None:
    values = noise()
    values[900:905, 0] += 20
    values[908:913, 1] += 20
    assert scanned(detector, values).alert[900:920].sum() == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_channel_that_comes_back_counts_again(detector: Scanner, ending: str) -> None:
    values = ENDINGS[ending](noise())
    values[1200:, 1] = noise()[1200:, 1]
    values[1600:1605, 1] += 20
    found = scanned(detector, values)
    assert not detector.set_apart(found.states).any()
    assert found.alert[1600:1605].any()
    assert found.attribution[1601, 1] > 0.9


def test_a_valve_that_moves_rarely_is_told_of_the_less_the_longer_it_has_rested_before(
    detector: Scanner,
) -> None:
    """It moves every 150 readings: 3 times what it was known for, once told, is its own."""
    values = noise(4000)
    values[600:, 1] = values[600 + 150 * ((np.arange(600, 4000) - 600) // 150), 1]
    found = scanned(detector, values)
    assert 1 <= found.alert[600:1200].sum() <= 2
    assert found.alert[1200:].sum() <= 2
    assert (found.status[1200:] != ANOMALOUS).mean() > 0.95
