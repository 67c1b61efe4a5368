"""What a channel does beyond the range that its network was trained on is forecast by its last value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gatewatch.models.artefact.files import Artefact
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan
from gatewatch.models.training.architectures import CellForecaster, build
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.trained.train import train
from gatewatch.models.training.trained.within import WithinRange, within_range

CHANNELS, ROWS = 3, 40


def bounded(architecture: Architecture = "lstm") -> WithinRange:
    """A network of random weights, shown -1 to 1 of the first two channels, and nothing but 0.5 of the last."""
    torch.manual_seed(0)
    network = build(TrainConfig(architecture=architecture, layers=2, hidden=8, memory=4), CHANNELS).eval()
    assert isinstance(network, CellForecaster)
    return WithinRange(network, torch.tensor([-1.0, -1.0, 0.5]), torch.tensor([1.0, 1.0, 0.5]))


def readings(missing: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, observed and elapsed of two streams; a third of the values lie beyond."""
    torch.manual_seed(1)
    observed = (torch.rand(ROWS, 2, CHANNELS) >= missing).float()
    return torch.randn(ROWS, 2, CHANNELS) * observed, observed, torch.zeros(ROWS, 2, 1)


@torch.no_grad()
def test_within_the_range_nothing_is_changed() -> None:
    network = bounded()
    x, observed, elapsed = readings()
    mean, scale, _ = network.unroll(network.inside(x), observed, elapsed, network.initial(2))
    plain, plain_scale, _ = network.network.unroll(network.inside(x), observed, elapsed, network.network.initial(2))
    assert torch.equal(mean, plain)
    assert torch.equal(scale, plain_scale)


@torch.no_grad()
def test_how_far_beyond_it_a_level_stands_changes_no_miss() -> None:
    network = bounded()
    x, observed, elapsed = readings()
    near, far = 4.0 + x.abs(), 9.0 + x.abs()
    misses = [of - network.unroll(of, observed, elapsed, network.initial(2))[0] for of in (near, far)]
    torch.testing.assert_close(misses[0][1:], misses[1][1:])


@pytest.mark.parametrize("architecture", ["lstm", "peephole", "attention", "minlstm", "slstm", "ssm", "transformer"])
@torch.no_grad()
def test_reading_by_reading_is_as_all_at_once(architecture: Architecture) -> None:
    network = bounded(architecture)
    for missing in (0.0, 0.3):
        x, observed, elapsed = readings(missing)
        means, _, last = network.unroll(x, observed, elapsed, network.initial(2))
        state = network.initial(2)
        for at in range(ROWS):
            mean, _, state = network.step(x[at], observed[at], elapsed[at], state)
            torch.testing.assert_close(mean, means[at])
        assert state.keys() == last.keys() == network.state_shapes().keys()
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, last[name])


def test_the_range_is_that_of_what_was_trained_on() -> None:
    values = np.stack([np.arange(100.0), np.full(100, 7.0), np.full(100, np.nan)], axis=1)
    values[3, 0] = np.nan
    given = [Recording("r", ("rising", "constant", "empty"), 1000 * np.arange(100, dtype=np.int64), values)]
    scaling = Scaling.fit(given)
    found = within_range(bounded().network, given, scaling, 0.25)
    center, spread = scaling.center[0], scaling.spread[0]
    assert found.low.tolist() == pytest.approx([-center / spread, 0, 0])
    assert found.high.tolist() == pytest.approx([(74 - center) / spread, 0, 0])


def test_on_a_trend_that_goes_on_a_model_misses_no_more_than_the_last_value() -> None:
    rng = np.random.default_rng(0)
    place = np.arange(4_500)
    values = (np.sin(2 * np.pi * place / 48) + place / 1_000 + 0.1 * rng.standard_normal(len(place)))[:, None]
    whole = Recording("r", ("a",), 60_000 * place.astype(np.int64), values)
    trained = train([whole.rows(0, 1_500)], TrainConfig(layers=1, hidden=8, epochs=12, learning_rate=2e-2))
    assert not trained.manifest.training["by_last_value"]
    detector = TrainedDetector(Artefact(trained.manifest, trained.graph, bytes(8)))
    misses = (values - scan(detector, whole).expected[:, :, 1])[-1_000:]
    assert np.sqrt((misses**2).mean()) < 1.1 * np.sqrt((np.diff(values[-1_001:], axis=0) ** 2).mean())
