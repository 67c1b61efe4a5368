"""A network has to earn its place in each channel, on the held-out part: elsewhere the last value forecasts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.architectures.lstm import LSTMForecaster
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained.last_value import keep_last_values
from gatewatch.models.training.trained.loop import torch_set
from gatewatch.models.training.trained.train import train
from gatewatch.models.training.trained.windows import Window, held_out_windows

NAMES = ("walk", "to and fro", "constant")
ROWS = 400


def recording(missing: float) -> Recording:
    """Whose next value is best forecast by the last one; by its opposite; and by itself."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(size=ROWS).cumsum(), np.resize([1.0, -1.0], ROWS), np.full(ROWS, 3.0)], axis=1)
    values[:, 1] += rng.normal(0, 0.1, ROWS)
    values[rng.random(values.shape) < missing] = np.nan
    return Recording("r", NAMES, 1000 * np.arange(ROWS, dtype=np.int64), values.astype(np.float32))


def opposite() -> LSTMForecaster:
    """A network that forecasts the opposite of each last value, and a little."""
    torch.manual_seed(0)
    network = LSTMForecaster(3, 1, 4, 0.0).eval()
    with torch.no_grad():
        network.keep.fill_(-1.0)
    return network


def forecasts(network: LSTMForecaster, windows: list[Window]) -> tuple[Tensor, Tensor]:
    """(T, C) means, and the last value before each, of the one lane; gaps filled as the network fills them."""
    state, means, last = network.initial(1), [], []
    for window in windows:
        for x, observed, elapsed in zip(window.x, window.observed, window.elapsed, strict=True):
            last.append(state["last"][0])
            mean, _, state = network.step(x, observed, elapsed, state)
            means.append(mean[0])
    return torch.stack(means), torch.stack(last)


@torch.no_grad()
@torch_set(0)
def test_a_channel_is_forecast_by_its_last_value_where_the_network_misses_no_less() -> None:
    for missing in (0.0, 0.1):
        given = [recording(missing)]
        windows = list(held_out_windows(given, Scaling.fit(given), 0.25, 16, 4))
        network = opposite()
        before, _ = forecasts(network, windows)
        assert keep_last_values(network, windows) == (0, 2)
        after, last = forecasts(network, windows)
        assert torch.equal(after[:, [0, 2]], last[:, [0, 2]])
        if not missing:  # what fills a gap is a forecast, which all channels see
            assert torch.equal(after[:, 1], before[:, 1])


def test_what_a_training_says_of_it_is_what_the_artefact_does() -> None:
    trained = train([recording(0.0)], TrainConfig(layers=1, hidden=8, epochs=10, window=16, learning_rate=2e-2))
    kept = trained.manifest.training["by_last_value"]
    assert "constant" in kept
    assert "to and fro" not in kept
    assert f"which the network did not beat in the held-out parts: {', '.join(kept)}." in trained.card
    assert trained.fitted.network.keep[2] == 1
