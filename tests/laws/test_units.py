"""A score does not depend on the unit (contract 21): scale 1e-12 to 1e12, offset up to 1e9 spreads.

A factor that is a power of two is exact in floating point, and must change no bit. Any other, and an offset, costs
what rounding costs: float32 keeps 7 digits of a state, and a score may move by 1e-4 of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.artefact.files import Artefact, Manifest, load_artefact, model_folder
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.general.features import FAR, observe, placed, running_fields
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import Scan, scan
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.train import train
from tests.support.samples import CHANNELS, START_MS

Values = NDArray[np.float64]

EXACT = [(2.0**40, 0.0), (2.0**-40, 0.0)]
ROUNDED = [(1e12, 0.0), (1e-12, 0.0), (3.0, 1e9), (1e12, 1e9), (1e-12, -1e9), (0.01, 273.15)]


def readings() -> Values:
    """Noise, and a walk, with what a detector looks for: a spike, a freeze, a silence, a new level."""
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (1200, 2))
    values[:, 1] = values[:, 1].cumsum()
    values[500:505, 0] += 9
    values[600:700, 1] = values[600, 1]
    values[750:780] = np.nan
    values[900:, 0] += 4
    return values


def recorded(values: Values) -> Recording:
    return Recording("s", CHANNELS, START_MS + 60_000 * np.arange(len(values)), values)


@pytest.fixture(scope="module")
def general() -> Callable[[float, float], Scan]:
    detector = load_detector(model_folder("general"), CHANNELS)
    return lambda scale, offset: scan(detector, recorded(scale * (readings() + offset)))


@pytest.fixture(scope="module")
def trained(artefact: Path) -> Callable[[float, float], Scan]:
    loaded = load_artefact(artefact)
    assert isinstance(loaded.manifest, Manifest)

    def scanned(scale: float, offset: float) -> Scan:
        assert isinstance(loaded.manifest, Manifest)
        moved = [
            channel.model_copy(
                update={
                    "center": scale * (channel.center - 3 + offset),
                    "spread": scale * channel.spread,
                    "change_scale": scale * channel.change_scale,
                }
            )
            for channel in loaded.manifest.channels
        ]
        detector = TrainedDetector(replace(loaded, manifest=loaded.manifest.model_copy(update={"channels": moved})))
        return scan(detector, recorded(scale * (readings() + offset)))

    return scanned


@pytest.mark.parametrize("model", ["general", "trained"])
@pytest.mark.parametrize(("scale", "offset"), EXACT)
def test_a_scale_without_rounding_changes_no_bit(
    request: pytest.FixtureRequest, model: str, scale: float, offset: float
) -> None:
    found, plain = (request.getfixturevalue(model)(*unit) for unit in ((scale, offset), (1.0, 0.0)))
    for name in ("score", "status", "reason", "alert", "attribution", "residual", "parts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    np.testing.assert_array_equal(found.expected, scale * plain.expected)


@pytest.mark.parametrize("model", ["general", "trained"])
@pytest.mark.parametrize(("scale", "offset"), ROUNDED)
def test_a_score_does_not_depend_on_scale_and_offset(
    request: pytest.FixtureRequest, model: str, scale: float, offset: float
) -> None:
    found, plain = (request.getfixturevalue(model)(*unit) for unit in ((scale, offset), (1.0, 0.0)))
    np.testing.assert_allclose(found.score, plain.score, rtol=1e-4, atol=1e-4)
    near = np.abs(plain.score - 1) < 1e-3
    assert (found.status == plain.status)[~near].all()
    assert plain.alert.sum() >= 2


@pytest.mark.parametrize(("scale", "offset"), EXACT + ROUNDED)
def test_a_scaling_is_learned_in_the_unit_of_the_channel(scale: float, offset: float) -> None:
    values = readings()
    learned, plain = (Scaling.fit([recorded(given)]) for given in (scale * (values + offset), values))
    np.testing.assert_allclose(learned.spread, scale * plain.spread, rtol=1e-6)
    np.testing.assert_allclose(learned.center / scale - offset, plain.center, atol=1e-6 * plain.spread.min())


def test_a_training_in_another_unit_gives_the_same_detector() -> None:
    values, config = readings()[:450], TrainConfig(layers=1, hidden=4, epochs=2)
    judged = []
    for scale in (1.0, 2.0**-40):
        made = train([recorded(scale * values)], config)
        detector = TrainedDetector(Artefact(made.manifest, made.graph, bytes(8)))
        judged.append(scan(detector, recorded(scale * readings())))
    np.testing.assert_array_equal(judged[0].score, judged[1].score)
    assert (judged[0].score > 1).any()


@pytest.mark.parametrize("first", [1e30, -9999.0])
def test_a_first_value_that_is_none_costs_no_digits(first: float) -> None:
    """Garbage at the start is not what all else is held against for ever."""
    values = readings() + 7.0
    garbled = values.copy()
    garbled[0] = first
    detector = load_detector(model_folder("general"), CHANNELS)
    found, plain = (scan(detector, recorded(given)) for given in (garbled, values))
    np.testing.assert_allclose(found.expected[300:490, :, 1], plain.expected[300:490, :, 1], atol=0.5)


def test_an_origin_moves_on_with_a_level_that_goes_far() -> None:
    states = np.zeros(1, running_fields(1))
    values = np.random.default_rng(0).normal(1000, 1, 3000).cumsum()
    for row, value in enumerate(values):
        now = placed(states, np.array([[value]]))
        observe(states, np.array([[value]]), now, np.array([START_MS + 60_000 * row]), np.array([60_000]))
    assert abs(states["last"] - states["origin"]) < 2 * FAR * states["spread"]
    assert states["center"] + states["origin"] == pytest.approx(values[-1], rel=0.2)
