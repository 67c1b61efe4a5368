"""What lasts is held anomalous while it does, and accepted in the end (contract 12)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.detector import ANOMALOUS, NORMAL, REASONS, Scanner
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan_together
from tests.support.samples import START_MS

LEVEL = REASONS.index("level")
SHIFTED, CAME_BACK = 1000, 1250


@pytest.fixture(scope="module")
def general() -> Scanner:
    return load_detector(model_folder("general"), ["x"])


def noise(rows: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(20, 1, rows)


@pytest.fixture(scope="module")
def scanned(general: Scanner) -> dict[str, Scan]:
    columns = {name: noise(4000) for name in ("returns", "stays", "lively", "quiet", "walk")}
    columns["returns"][SHIFTED:CAME_BACK] += 3
    columns["stays"][SHIFTED:] += 3
    columns["lively"][SHIFTED:CAME_BACK] += 3 * (noise(CAME_BACK - SHIFTED) - 20)
    columns["quiet"][SHIFTED:CAME_BACK] = 20 + 0.05 * (noise(CAME_BACK - SHIFTED) - 20)
    columns["walk"] = noise(4000).cumsum() - 20 * np.arange(4000)
    times = START_MS + 300_000 * np.arange(4000)
    recordings = [Recording(name, ("x",), times, v[:, None].astype(np.float32)) for name, v in columns.items()]
    return dict(zip(columns, scan_together(general, recordings), strict=True))


def test_a_level_off_its_home_is_anomalous_until_it_returns(scanned: dict[str, Scan]) -> None:
    found = scanned["returns"]
    assert (found.status[SHIFTED + 40 : CAME_BACK] == ANOMALOUS).mean() > 0.9
    assert (found.reason[SHIFTED + 40 : CAME_BACK] == LEVEL).mean() > 0.9
    assert (found.status[CAME_BACK + 150 :] == NORMAL).mean() > 0.97


def test_a_level_that_stays_is_accepted(scanned: dict[str, Scan]) -> None:
    found = scanned["stays"]
    assert (found.status[SHIFTED + 40 : CAME_BACK] == ANOMALOUS).mean() > 0.9
    assert (found.status[SHIFTED + 1000 :] == NORMAL).mean() > 0.97


@pytest.mark.parametrize("change", ["lively", "quiet"])
def test_a_lasting_change_of_activity_is_found(scanned: dict[str, Scan], change: str) -> None:
    found = scanned[change]
    assert (found.status[SHIFTED + 60 : CAME_BACK] == ANOMALOUS).mean() > 0.5
    assert (found.reason[SHIFTED + 60 : CAME_BACK] == LEVEL).mean() > 0.5


def test_a_random_walk_leaves_no_home(scanned: dict[str, Scan]) -> None:
    found = scanned["walk"]
    assert (found.status == ANOMALOUS).mean() < 0.05
    assert found.alert.sum() <= 5
