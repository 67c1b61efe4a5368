"""Training learns, repeats itself, resumes where it was, and says what is wrong with what it was given."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.errors import TrainingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training import architectures
from gatewatch.models.training.architectures.base import State
from gatewatch.models.training.architectures.lstm import LSTMForecaster
from gatewatch.models.training.checkpoint import CHECKPOINT, fingerprint, identity
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.trained import loop
from gatewatch.models.training.trained.loop import EpochReport, Fitted, fit, negative_log_likelihood
from gatewatch.models.training.trained.windows import Window, held_out_windows
from tests.support.loop import waves

TINY = TrainConfig(layers=2, hidden=5, window=16, lanes=4, epochs=4, learning_rate=2e-2)


def noise() -> Recording:
    """Nothing to learn but its scale: a network soon knows the training part by heart."""
    values = np.random.default_rng(0).normal(size=(120, 2)).astype(np.float32)
    return Recording("noise", ("a", "b"), np.arange(120, dtype=np.int64) * 1000, values)


RESTLESS = TINY.model_copy(update={"hidden": 16, "epochs": 200, "patience": 3, "learning_rate": 5e-2})


def trained(
    config: TrainConfig = TINY,
    recordings: list[Recording] | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
) -> Fitted:
    recordings = recordings or [waves()]
    return fit(recordings, Scaling.fit(recordings), config, checkpoint=checkpoint, on_epoch=on_epoch)


def same_weights(one: Fitted, other: Fitted) -> bool:
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def losses(fitted: Fitted) -> list[tuple[float, float]]:
    return [(report.train_loss, report.held_out_loss) for report in fitted.history]


@pytest.mark.parametrize("missing", [0.0, 0.05])
def test_training_beats_persistence(missing: float) -> None:
    """Persistence forecasts the reading before, with the scale that suits it best."""
    recording = waves(600, missing=missing)
    fitted = trained(TINY.model_copy(update={"hidden": 8, "epochs": 15}), [recording])
    z = torch.from_numpy(Scaling.fit([recording]).standardise(recording.values)[450:])
    pairs = torch.isfinite(z[1:]) & torch.isfinite(z[:-1])
    persistence = min(
        float(negative_log_likelihood(z[1:], z[:-1], torch.tensor(scale))[pairs].mean())
        for scale in np.geomspace(0.01, 3, 60).tolist()
    )
    assert fitted.history[fitted.best_epoch - 1].held_out_loss < persistence - 0.1


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    once, again = trained(), trained()
    assert same_weights(once, again)
    assert losses(once) == losses(again)
    assert not same_weights(once, trained(TINY.model_copy(update={"seed": 1})))


def test_training_leaves_the_callers_random_numbers_and_threads_alone() -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    torch.set_num_threads(3)
    try:
        trained(TINY.model_copy(update={"epochs": 1}))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("interrupted_after", [1, 3])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, interrupted_after: int) -> None:
    """With dropout and missing values: random state, optimiser moments and best weights all come back."""
    config, recordings = TINY.model_copy(update={"dropout": 0.3}), [waves(missing=0.02)]

    def pull_the_plug(report: EpochReport) -> None:
        if report.epoch == interrupted_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(config, recordings, tmp_path / "run", pull_the_plug)
    resumed_epochs: list[int] = []
    resumed = trained(config, recordings, tmp_path / "run", lambda report: resumed_epochs.append(report.epoch))
    unbroken = trained(config, recordings)
    assert resumed_epochs == list(range(interrupted_after + 1, config.epochs + 1))
    assert losses(resumed) == losses(unbroken)
    assert resumed.best_epoch == unbroken.best_epoch
    assert same_weights(resumed, unbroken)


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    """Its best epoch is not its last: the best weights are in the checkpoint too."""
    first = trained(RESTLESS, [noise()], tmp_path)
    assert first.best_epoch < len(first.history)
    told: list[EpochReport] = []
    again = trained(RESTLESS, [noise()], tmp_path, told.append)
    assert told == []
    assert same_weights(first, again)
    assert again.seconds == first.seconds > 0


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    trained(checkpoint=tmp_path)
    with pytest.raises(TrainingError, match="another training"):
        trained(TINY.model_copy(update={"seed": 1}), checkpoint=tmp_path)
    with pytest.raises(TrainingError, match="another training"):
        trained(recordings=[waves(seed=1)], checkpoint=tmp_path)


def test_a_training_begun_before_there_were_chrono_and_beta_goes_on_without_them() -> None:
    settings = {name: value for name, value in TINY.model_dump().items() if name not in ("chrono", "beta")}
    unimportant = ("time_limit_s", "false_alarm_rate", "checkpoint_every_s")
    before = json.dumps({k: v for k, v in settings.items() if k not in unimportant}, separators=(",", ":"))
    assert identity([waves()], TINY) == fingerprint(before, [waves()])
    for more in ({"chrono": 100}, {"beta": 0.5}):
        assert identity([waves()], TINY.model_copy(update=more)) != fingerprint(before, [waves()])


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    trained(checkpoint=tmp_path)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:1000])
    with pytest.raises(TrainingError, match="not a checkpoint"):
        trained(checkpoint=tmp_path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = b""

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def fill_the_disk(report: EpochReport) -> None:
        nonlocal kept
        if report.epoch == 2:
            kept = (tmp_path / CHECKPOINT).read_bytes()
            monkeypatch.setattr("os.fsync", full_disk)

    with pytest.raises(TrainingError, match=r"cannot be written.*No space left"):
        trained(checkpoint=tmp_path, on_epoch=fill_the_disk)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert (tmp_path / CHECKPOINT).read_bytes() == kept != b""


def test_a_file_where_the_checkpoints_should_lie_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(TrainingError, match=r"taken: the checkpoint cannot be written: File exists"):
        trained(checkpoint=tmp_path / "taken")


def test_training_stops_when_the_held_out_loss_no_longer_falls_and_keeps_the_best_weights() -> None:
    recording, config = noise(), RESTLESS
    fitted = trained(config, [recording])
    held_out = [report.held_out_loss for report in fitted.history]
    assert fitted.stopped_because == "no better held-out loss for 3 epochs"
    assert fitted.best_epoch == len(held_out) - 3 == 1 + int(np.argmin(held_out))
    windows = held_out_windows([recording], Scaling.fit([recording]), config.held_out, config.window, config.lanes)
    assert loop._evaluate(fitted.network, windows, 0) == pytest.approx(min(held_out), rel=1e-6)
    assert not fitted.network.training


def test_a_time_limit_ends_training_after_the_epoch_in_which_it_is_reached() -> None:
    fitted = trained(TINY.model_copy(update={"epochs": 1000, "time_limit_s": 1e-6}))
    assert len(fitted.history) == 1
    assert fitted.stopped_because == "time limit of 1e-06 s reached"


def test_the_learning_rate_falls_to_a_tenth() -> None:
    rates = [report.learning_rate for report in trained(TINY.model_copy(update={"patience": 100})).history]
    assert rates[0] == pytest.approx(2e-2)
    assert rates[-1] == pytest.approx(2e-3)
    assert rates == sorted(rates, reverse=True)


class _Explosive(LSTMForecaster):
    """Forecasts what is not a number."""

    def read(self, top: Tensor, last: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = super().read(top, last, elapsed)
        return mean * math.inf, scale


class _ExplosiveWhenTested(LSTMForecaster):
    def unroll(self, x: Tensor, observed: Tensor, elapsed: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        mean, scale, after = super().unroll(x, observed, elapsed, state)
        return (mean if self.training else mean * math.inf), scale, after


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Explosive, r"the loss is (nan|inf) in epoch 1, window 1 of 4; lower the learning rate \(now 0.02\)"),
        (_ExplosiveWhenTested, r"the held-out loss is (nan|inf) after epoch 1; lower the learning rate"),
    ],
)
def test_a_loss_that_is_not_a_number_says_where_and_what_to_change(
    monkeypatch: pytest.MonkeyPatch, network: type[LSTMForecaster], message: str
) -> None:
    monkeypatch.setitem(architectures.PLAIN, "lstm", lambda channels, *_: network(channels, 1, 3, 0.0))
    with pytest.raises(TrainingError, match=message):
        trained()


def test_a_constant_and_an_empty_channel_do_no_harm() -> None:
    recording = waves()
    values = np.concatenate([recording.values, np.full((300, 1), 7.5), np.full((300, 1), np.nan)], axis=1)
    fitted = trained(
        recordings=[Recording("s", ("a", "b", "c", "d"), recording.timestamps_ms, values.astype(np.float32))]
    )
    assert all(math.isfinite(loss) for pair in losses(fitted) for loss in pair)
    assert fitted.history[-1].train_loss < fitted.history[0].train_loss


def test_recordings_too_short_are_left_out_and_named() -> None:
    short = waves(20, stream="short")
    fitted = trained(recordings=[waves(), short])
    assert fitted.left_out == ["short"]
    with pytest.raises(TrainingError, match="20 readings in the longest of 1 recordings; at least 43 are needed"):
        trained(recordings=[short])


@pytest.mark.parametrize(("part", "name"), [(slice(0, 225), "training"), (slice(225, None), "held-out")])
def test_a_part_without_any_value_is_an_error(part: slice, name: str) -> None:
    recording = waves()
    recording.values[part] = np.nan
    with pytest.raises(TrainingError, match=f"no value in the {name} parts"):
        trained(recordings=[recording])


def test_the_loss_is_the_students_t_likelihood() -> None:
    x, mean, scale = torch.tensor([0.3, -4.0, 90.0]), torch.tensor([0.1, 0.0, 1.0]), torch.tensor([0.5, 2.0, 0.1])
    expected = -torch.distributions.StudentT(loop.FREEDOM, mean, scale).log_prob(x)
    constant = expected - negative_log_likelihood(x, mean, scale)
    torch.testing.assert_close(constant, constant[:1].expand(3))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_multiplies_what_an_error_teaches_by_the_forecasts_scale(beta: float) -> None:
    """Gradients of mean and scale, 0.8 scales off, go as 1/scale; not at all with it; or as the scale."""
    network = LSTMForecaster(3, 1, 4, 0.0)
    with torch.no_grad():
        network.head.weight.zero_()  # the forecast is the head's bias alone
        network.head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -2.0, 0.0, 1.5]))
        network.keep.zero_()
    scale = network.head.bias[3:].detach().exp()
    x = (0.8 * scale)[None, None]
    window = Window(x, torch.ones_like(x), torch.zeros(1, 1, 1), torch.ones_like(x), first=True)
    loop._loss(network, window, network.initial(1), beta)[0].backward()
    assert network.head.bias.grad is not None
    of_mean, of_log_scale = network.head.bias.grad.split(3)
    torch.testing.assert_close(of_mean / of_mean[1], scale ** (2 * beta - 1))
    torch.testing.assert_close(of_log_scale / of_log_scale[1], scale ** (2 * beta))


def test_the_held_out_loss_is_the_likelihood_whatever_beta_is() -> None:
    """So that trainings with several can be compared: with nothing learned, all begin alike."""
    config = TINY.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    without, with_beta = (trained(config.model_copy(update={"beta": beta})).history[0] for beta in (0.0, 0.5))
    assert with_beta.held_out_loss == pytest.approx(without.held_out_loss)
    assert with_beta.train_loss != pytest.approx(without.train_loss)
