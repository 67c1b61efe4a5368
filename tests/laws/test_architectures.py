"""Laws of every architecture: stepped as unrolled, exported as trained, resumed as unbroken, in company as alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from gatewatch.models.artefact.files import load_artefact
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.detectors.trained.scaling import STANDARDISED_LIMIT
from gatewatch.models.errors import ArtefactError, TrainingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan, scan_together
from gatewatch.models.training.architectures import CellForecaster, Forecaster, build
from gatewatch.models.training.architectures.base import LOG_SCALE_LIMITS, State
from gatewatch.models.training.architectures.recurrence import recurrence
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.export import export_step, export_whole
from gatewatch.service.core import records
from gatewatch.service.core.layout import layout_of
from tests.support.samples import CHANNELS, START_MS, make_artefact

C, MEMORY = 3, 5
ALL: tuple[Architecture, ...] = get_args(Architecture)
LIVE = tuple(name for name in ALL if name != "bilstm")
REACH: dict[str, int] = {"window": MEMORY, "transformer": 1 + 2 * ((MEMORY - 1) // 2)}
"""Readings seen by those without a recurrence."""

each = pytest.mark.parametrize("name", ALL)
each_live = pytest.mark.parametrize("name", LIVE)


def forecaster(name: Architecture, layers: int = 2, dropout: float = 0.0, **sizes: int) -> Any:
    """H = 4, with weights large enough that every gate has something to say."""
    torch.manual_seed(0)
    channels = sizes.pop("channels", C)
    config = {"architecture": name, "layers": layers, "hidden": 4, "memory": MEMORY, "dropout": dropout, **sizes}
    network = build(TrainConfig.model_validate(config), channels).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def readings(length: int, streams: int, missing: float, seed: int, channels: int = C) -> tuple[Tensor, Tensor, Tensor]:
    """x, observed (T, B, C) and elapsed (T, B, 1)."""
    generator = torch.Generator().manual_seed(seed)
    observed = (torch.rand(length, streams, channels, generator=generator) >= missing).float()
    x = torch.randn(length, streams, channels, generator=generator) * observed
    return x, observed, torch.randn(length, streams, 1, generator=generator)


def lived(network: Forecaster, streams: int, seed: int) -> State:
    """States that have seen something."""
    generator = torch.Generator().manual_seed(seed)
    shapes = network.state_shapes()
    return {name: torch.tanh(torch.randn(streams, *shape, generator=generator)) for name, shape in shapes.items()}


def stepped(
    network: CellForecaster, x: Tensor, observed: Tensor, elapsed: Tensor, state: State
) -> tuple[Tensor, Tensor, State]:
    means, scales = [], []
    for now in range(len(x)):
        mean, scale, state = network.step(x[now], observed[now], elapsed[now], state)
        means.append(mean)
        scales.append(scale)
    return torch.stack(means), torch.stack(scales), state


def session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def detector(name: Architecture, folder: Path) -> TrainedDetector:
    return TrainedDetector(load_artefact(make_artefact(folder / name, architecture=name)))


def recording(rows: int, seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 1, (rows, len(CHANNELS))).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    return Recording(f"r{seed}", CHANNELS, START_MS + 60_000 * np.arange(rows, dtype=np.int64), values)


@each_live
@settings(deadline=None, max_examples=15)
@given(
    length=st.integers(1, 12),
    streams=st.integers(1, 4),
    layers=st.integers(1, 3),
    missing=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_stepping_equals_unrolling(
    name: Architecture, length: int, streams: int, layers: int, missing: float, seed: int
) -> None:
    """The service sees readings one by one, the trainer sees them whole; both forecast alike, with gaps and without."""
    network = forecaster(name, layers)
    window, state = readings(length, streams, missing, seed), lived(network, streams, seed)
    torch.testing.assert_close(network.unroll(*window, state), stepped(network, *window, state), atol=2e-5, rtol=1e-5)


@each_live
def test_unrolling_both_ways_gives_the_same_gradient(name: Architecture) -> None:
    """One missing value sends its moment down the slow path; the other lanes must not notice."""
    x, observed, elapsed = readings(8, 2, 0.0, seed=1)
    gaps = observed.clone()
    gaps[3, 1, 0] = 0
    gradients = []
    for seen in (observed, gaps):
        network = forecaster(name)
        mean, scale, _ = network.unroll(x, seen, elapsed, network.initial(2))
        (mean[:, 0].square().sum() + scale[:, 0].sum()).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)


@each_live
@torch.no_grad()
def test_unrolling_in_pieces_equals_unrolling_at_once(name: Architecture) -> None:
    network = forecaster(name)
    for missing in (0.0, 0.2):
        x, observed, elapsed = readings(12, 2, missing, seed=2)
        whole, _, last = network.unroll(x, observed, elapsed, network.initial(2))
        first, _, between = network.unroll(x[:5], observed[:5], elapsed[:5], network.initial(2))
        second, _, end = network.unroll(x[5:], observed[5:], elapsed[5:], between)
        torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(end, last, atol=1e-5, rtol=1e-5)


@each
@torch.no_grad()
def test_what_stands_in_a_gap_does_not_matter(name: Architecture) -> None:
    network = forecaster(name)
    x, observed, elapsed = readings(10, 2, 0.4, seed=3)
    rubbish = torch.where(observed > 0, x, torch.full_like(x, 7.0))
    torch.testing.assert_close(
        network.unroll(rubbish, observed, elapsed, network.initial(2)),
        network.unroll(x, observed, elapsed, network.initial(2)),
    )


@each
@torch.no_grad()
def test_a_forecast_knows_nothing_of_the_reading_it_forecasts(name: Architecture) -> None:
    """Nor of those behind it, but for the one that reads both ways; all notice the reading before."""
    network = forecaster(name)
    for missing in (0.0, 0.2):
        x, observed, elapsed = readings(7, 1, missing, seed=4)
        observed[4] = 1
        changed = x.clone()
        changed[4] += 5
        before, _, _ = network.unroll(x, observed, elapsed, network.initial(1))
        after, _, _ = network.unroll(changed, observed, elapsed, network.initial(1))
        assert torch.equal(before[4], after[4])
        assert torch.equal(before[:5], after[:5]) == (name != "bilstm")
        assert not torch.allclose(before[5], after[5])


@each
@torch.no_grad()
def test_a_missing_value_and_a_zero_are_told_apart(name: Architecture) -> None:
    network = forecaster(name)
    zero, elapsed = torch.zeros(2, 1, C), torch.zeros(2, 1, 1)
    seen, missed = torch.ones(2, 1, C), torch.ones(2, 1, C)
    missed[0] = 0
    with_zero, without = (network.unroll(zero, there, elapsed, network.initial(1))[0] for there in (seen, missed))
    assert not torch.allclose(with_zero[1], without[1])


@each_live
@torch.no_grad()
def test_a_step_leaves_the_state_it_was_given(name: Architecture) -> None:
    network = forecaster(name)
    state = lived(network, 2, seed=0)
    before = {key: tensor.clone() for key, tensor in state.items()}
    network.step(torch.ones(2, C), torch.ones(2, C), torch.zeros(2, 1), state)
    network.unroll(*readings(4, 2, 0.0, seed=0), state)
    assert all(torch.equal(state[key], before[key]) for key in before)


@each_live
@torch.no_grad()
def test_a_channel_that_stays_missing_does_not_grow_on_its_own_forecasts(name: Architecture) -> None:
    network = forecaster(name)
    network.keep.fill_(3.0)
    x, observed, elapsed = readings(40, 1, 1.0, seed=11)
    _, _, state = network.unroll(x, observed, elapsed, lived(network, 1, seed=11))
    assert state["last"].abs().max() <= STANDARDISED_LIMIT


@each
@torch.no_grad()
def test_the_scale_stays_within_its_limits(name: Architecture) -> None:
    network = forecaster(name)
    for parameter in network.parameters():
        parameter.mul_(100)
    mean, scale, _ = network.unroll(*readings(30, 3, 0.1, seed=5), network.initial(3))
    low, high = torch.tensor(LOG_SCALE_LIMITS).exp()
    assert mean.isfinite().all()
    assert scale.min() >= low
    assert scale.max() <= high


@each
def test_dropout_is_for_training_only(name: Architecture) -> None:
    network = forecaster(name, dropout=0.5)
    for missing in (0.0, 1.0):
        window = readings(6, 2, missing, seed=6)
        network.eval()
        once, again = (network.unroll(*window, network.initial(2))[0] for _ in range(2))
        assert torch.equal(once, again)
        network.train()
        once, again = (network.unroll(*window, network.initial(2))[0] for _ in range(2))
        assert not torch.equal(once, again)


@each
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_gradients_agree_with_finite_differences(name: Architecture, missing: float) -> None:
    """Of every parameter and of the state before, through all T readings and both outputs; in float64."""
    network = forecaster(name, hidden=2, memory=3, channels=1).double()
    window = [tensor.double() for tensor in readings(6, 2, missing, seed=7, channels=1)]
    parameters, state = dict(network.named_parameters()), lived(network, 2, seed=7)
    inputs = [*parameters.values(), *(tensor.double().requires_grad_() for tensor in state.values())]

    def unroll(*given: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(parameters, given[: len(parameters)], strict=True))
        before = dict(zip(state, given[len(parameters) :], strict=True))
        caller = _Unroll(network)
        mean, scale, after = functional_call(
            caller, {f"network.{key}": value for key, value in values.items()}, (*window, before)
        )
        return mean, scale, *after.values()

    assert torch.autograd.gradcheck(unroll, inputs, fast_mode=True)  # along random directions of all of them


class _Unroll(nn.Module):
    """`unroll` as a call, for functional_call."""

    def __init__(self, network: Forecaster) -> None:
        super().__init__()
        self.network = network

    def forward(self, *window: Any) -> Any:
        return self.network.unroll(*window)


@pytest.mark.parametrize(("name", "kernel"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
@torch.no_grad()
def test_a_cell_is_that_of_torch_with_the_same_weights(name: Architecture, kernel: Any) -> None:
    network = forecaster(name)
    theirs = kernel(2 * C + 1, 4, 2)
    theirs.load_state_dict(network.cells.state_dict())
    seen, cells, tops = torch.randn(20, 3, 2 * C + 1), network.initial(3), []
    for now in seen:
        cells = network.take(now, cells)
        tops.append(network.top(cells))
    torch.testing.assert_close(torch.stack(tops), theirs(seen)[0])


@torch.no_grad()
def test_a_peephole_lstm_without_peepholes_is_an_lstm() -> None:
    lstm, peephole = forecaster("lstm"), forecaster("peephole")
    missing, unexpected = peephole.load_state_dict(lstm.state_dict(), strict=False)
    assert (missing, unexpected) == (["peepholes"], [])
    window, state = readings(20, 3, 0.1, seed=8), lived(lstm, 3, seed=8)
    assert not torch.allclose(peephole.unroll(*window, state)[0], lstm.unroll(*window, state)[0])
    peephole.peepholes.zero_()
    torch.testing.assert_close(peephole.unroll(*window, state), lstm.unroll(*window, state))


@torch.no_grad()
def test_a_scalar_lstm_is_that_of_the_paper() -> None:
    """Beck et al. 2024, equations 8 to 17, with c, n and the stabiliser m, in heads; from c = m = 0 and n = 1."""
    network = forecaster("slstm", layers=1, hidden=8).double()  # 4 heads of 2 units
    seen = torch.randn(60, 3, 2 * C + 1, dtype=torch.float64) * 4
    h, c, n, m = torch.zeros(4, 3, 8, dtype=torch.float64)
    n = n + 1
    tops = []
    for now in seen:
        recurrent = torch.einsum("gnij,bnj->bgni", network.recurrent[0], h.view(3, 4, 2)).flatten(1)
        i, f, z, o = (network.below[0](now) + recurrent).split(8, dim=-1)
        log_f = torch.log(torch.sigmoid(f))
        after = torch.maximum(log_f + m, i)
        c = torch.exp(log_f + m - after) * c + torch.exp(i - after) * torch.tanh(z)
        n = torch.exp(log_f + m - after) * n + torch.exp(i - after)
        m, h = after, torch.sigmoid(o) * c / n
        tops.append(h)
    found, _ = network.run(seen, {name: tensor.double() for name, tensor in network.initial(3).items()})
    torch.testing.assert_close(found, torch.stack(tops))


@torch.no_grad()
def test_a_window_network_is_a_causal_convolution_and_layers_of_tanh() -> None:
    """With a kernel of M readings over [x̃, observed, elapsed], nothing before the first; torch's own conv1d."""
    network = forecaster("window").double()
    seen = torch.randn(20, 3, 2 * C + 1, dtype=torch.float64)
    first, second = network.net[0], network.net[3]
    kernel = first.weight.view(4, MEMORY, 2 * C + 1).transpose(1, 2)  # (H, I, M)
    padded = nn.functional.pad(seen.permute(1, 2, 0), (MEMORY - 1, 0))  # (B, I, M - 1 + T)
    below = torch.tanh(nn.functional.conv1d(padded, kernel, first.bias)).permute(2, 0, 1)
    expected = torch.tanh(below @ second.weight.T + second.bias)
    found, _ = network.run(seen, {name: tensor.double() for name, tensor in network.initial(3).items()})
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_state_space_model_is_the_convolution_of_its_inputs_with_what_fades() -> None:
    """Orvieto et al. 2023: z_t = Σ Λ^(t-s) γ B v_s, Λ = exp(-exp ν + i θ), γ² = 1 - |Λ|²; summed over s, no state."""
    network = forecaster("ssm").double()
    seen = torch.randn(20, 3, 2 * C + 1, dtype=torch.float64)
    age = (torch.arange(20)[:, None] - torch.arange(20)).double()  # t - s
    u = network.embed(seen)
    for block in network.blocks:
        v = nn.functional.layer_norm(u, (4,), block.norm.weight, block.norm.bias)
        rates = torch.complex(-block.log_rate.exp(), block.turn)
        faded = torch.where(age[..., None] >= 0, torch.exp(age[..., None] * rates), 0)  # (T, S, H)
        drive = torch.complex(*block.drive.weight.view(2, 4, 4)) * torch.sqrt(1 - torch.exp(2 * rates.real))[:, None]
        z = torch.einsum("tsh,hi,sbi->tbh", faded, drive, v.to(drive.dtype))
        mixed = nn.functional.silu(block.wide(torch.cat([z.real, z.imag, v], dim=-1)))
        u = u + block.narrow(mixed)
    expected = nn.functional.layer_norm(u, (4,), network.norm.weight, network.norm.bias)
    found, _ = network.run(seen, {name: tensor.double() for name, tensor in network.initial(3).items()})
    torch.testing.assert_close(found, expected)


def test_a_state_space_model_begins_with_memories_from_two_readings_to_two_thousand() -> None:
    """Evenly over their logarithms; a unit's memory is the time in which it fades to 1/e."""
    torch.manual_seed(0)
    block = build(TrainConfig(architecture="ssm", layers=1, hidden=16), C).get_submodule("blocks.0")
    fade = block(torch.zeros(1, 16), torch.cat([torch.ones(1, 16), torch.zeros(1, 16)], dim=1))[1]  # of 1 + 0 i
    memories = -1 / torch.log(torch.hypot(*fade.detach().split(16, dim=1))[0])
    torch.testing.assert_close(memories, torch.logspace(math.log10(2), math.log10(2000), 16), rtol=1e-2, atol=0)


GATED = ("lstm", "peephole", "gru", "attention", "minlstm", "slstm", "bilstm")


@pytest.mark.parametrize("name", GATED)
def test_chrono_begins_with_gates_that_keep_as_long_as_asked(name: Architecture) -> None:
    """From 2 to 1,000 readings, drawn evenly, so that the median is half of it; input gates get the opposite."""
    torch.manual_seed(0)
    sizes = {"architecture": name, "layers": 2, "hidden": 64}
    network = build(TrainConfig.model_validate({**sizes, "chrono": 1000}), C)
    for input_bias, keep_bias in gate_biases(network):
        keeps = 1 / (1 - torch.sigmoid(keep_bias.double()))  # readings
        assert keeps.min() > 1.9
        assert 300 < keeps.median() < 700
        assert keeps.max() <= 1000.1
        assert input_bias is None or torch.equal(input_bias, -keep_bias)


def gate_biases(network: Any) -> list[tuple[Tensor | None, Tensor]]:
    """Of each layer the biases of what comes in, None where it is what is not kept, and of what is kept."""
    if hasattr(network, "blocks"):
        return [(block.gates.bias[64:].detach(), block.gates.bias[:64].detach()) for block in network.blocks]
    if hasattr(network, "below"):
        return [(linear.bias[:64].detach(), linear.bias[64:128].detach()) for linear in network.below]
    kernels = [network.cells] if hasattr(network, "cells") else [network.forwards, network.backwards]
    sums = [(w[2] + w[3]).detach() for kernel in kernels for w in kernel.all_weights]
    return [(None if isinstance(kernels[0], nn.GRU) else bias[:64], bias[64:128]) for bias in sums]


@pytest.mark.parametrize("name", [name for name in ALL if name not in GATED])
def test_chrono_is_refused_where_no_gate_keeps_anything(name: Architecture) -> None:
    with pytest.raises(TrainingError, match=r"chrono \(50\) is for networks whose gates"):
        build(TrainConfig(architecture=name, chrono=50), C)


@given(length=st.integers(1, 40), seed=st.integers(0, 99), turning=st.booleans())
def test_a_recurrence_in_chunks_is_the_loop(length: int, seed: int, turning: bool) -> None:
    kind = torch.complex128 if turning else torch.float64
    generator = torch.Generator().manual_seed(seed)
    a, b, z = (torch.randn(*shape, 2, 3, dtype=kind, generator=generator) for shape in ((length,), (length,), ()))
    a = a / (1 + a.abs())
    expected, now = [], z
    for at in range(length):
        now = a[at] * now + b[at]
        expected.append(now)
    torch.testing.assert_close(recurrence(a, b, z), torch.stack(expected))


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_the_gradient_of_a_recurrence_agrees_with_finite_differences(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    given_ = [torch.randn(*shape, 2, 2, dtype=kind, requires_grad=True) for shape in ((7,), (7,), ())]
    assert torch.autograd.gradcheck(recurrence, given_)


@pytest.mark.parametrize(("name", "reach"), REACH.items())
@torch.no_grad()
def test_a_window_sees_its_readings_and_none_before(name: Architecture, reach: int) -> None:
    network = forecaster(name)
    x, observed, elapsed = readings(20, 1, 0.0, seed=9)
    before, _, _ = network.unroll(x, observed, elapsed, network.initial(1))
    x[7] += 3
    after, _, _ = network.unroll(x, observed, elapsed, network.initial(1))
    changed = (before != after).flatten(1).any(dim=1)
    assert changed.tolist() == [8 <= row < 8 + reach for row in range(20)]


@each_live
@torch.no_grad()
def test_the_exported_graph_steps_like_the_network(name: Architecture) -> None:
    """Over several steps, each from the state before, at batch sizes other than that of the export."""
    network = forecaster(name, dropout=0.5).train()
    graph = session(export_step(network))
    assert network.training
    network.eval()
    names = list(network.state_shapes())
    for streams in (1, 2, 7, 64):
        state = lived(network, streams, seed=streams)
        fed = {key: tensor.numpy() for key, tensor in state.items()}
        for x, observed, elapsed in zip(*readings(5, streams, 0.2, seed=streams), strict=True):
            seen = {"x": x.numpy(), "observed": observed.numpy(), "elapsed": elapsed.numpy()}
            mean, scale, *after = graph.run(["mean", "scale", *(f"{key}_next" for key in names)], seen | fed)
            expected_mean, expected_scale, state = network.step(x, observed, elapsed, state)
            np.testing.assert_allclose(mean, expected_mean, atol=1e-5, rtol=0)
            np.testing.assert_allclose(scale, expected_scale, atol=1e-5, rtol=1e-5)
            fed = dict(zip(names, after, strict=True))
            for key, tensor in fed.items():
                assert tensor.dtype == np.float32
                np.testing.assert_allclose(tensor, state[key], atol=1e-5, rtol=0)


def test_a_minimal_lstm_whose_gates_are_shut_steps_like_its_graph() -> None:
    network = forecaster("minlstm")
    with torch.no_grad():
        for block in network.blocks:
            block.gates.bias.fill_(-100.0)
    x, observed, elapsed = (tensor[0] for tensor in readings(1, 2, 0.0, seed=0))
    state = lived(network, 2, seed=0)
    _, _, after = network.step(x, observed, elapsed, state)
    fed = {"x": x, "observed": observed, "elapsed": elapsed, **state}
    outputs = [f"{name}_next" for name in after]
    found = session(export_step(network)).run(outputs, {name: tensor.numpy() for name, tensor in fed.items()})
    for served, trained in zip(found, after.values(), strict=True):
        np.testing.assert_allclose(served, trained.detach().numpy(), atol=1e-5)


@each_live
@pytest.mark.parametrize("hidden", [3, 64])
def test_a_stream_steps_alike_alone_and_in_company(name: Architecture, hidden: int) -> None:
    """To the bit, at every batch size and place."""
    network = forecaster(name, hidden=hidden, memory=16)
    graph = session(export_step(network))
    x, observed, elapsed = (part[0].numpy() for part in readings(1, 70, 0.2, seed=10))
    crowd = {"x": x, "observed": observed, "elapsed": elapsed}
    crowd |= {key: tensor.numpy() for key, tensor in lived(network, 70, seed=10).items()}
    together = graph.run(None, crowd)
    for streams in (1, 2, 3, 8, 33):
        for start in range(0, 70 - streams, 9):
            rows = slice(start, start + streams)
            for all_rows, few in zip(together, graph.run(None, {k: v[rows] for k, v in crowd.items()}), strict=True):
                assert few.tobytes() == all_rows[rows].tobytes()


@each_live
def test_storing_and_resuming_changes_nothing(name: Architecture, tmp_path: Path) -> None:
    """A stream whose record goes to bytes and back after each reading is, to the bit, one that was never stored."""
    made, found = detector(name, tmp_path), recording(30)
    unbroken = scan(made, found)
    channels = len(made.channels)
    dtype, usual = records.state_dtype(made.state_dtype, channels), layout_of(made.channels, made.channels)
    states, scores = made.initial(1), []
    for row in range(30):
        step = made.step(found.values[row : row + 1], found.timestamps_ms[row : row + 1], states)
        packed = records.pack(records.fresh(dtype, step.states, made.digest, 128), [usual], [0])
        unpacked, _, flaws = records.unpack(packed, [0], dtype, usual, made.digest, 128)
        assert not flaws
        states = unpacked["detector"]
        scores.append(float(step.score[0]))
    assert scores == unbroken.score.tolist()
    assert states.tobytes() == unbroken.states.tobytes()


@each
def test_recordings_scan_alike_alone_and_side_by_side(name: Architecture, tmp_path: Path) -> None:
    made, many = detector(name, tmp_path), [recording(20 + 7 * n, seed=n) for n in range(4)]
    for together, alone in zip(scan_together(made, many), (scan(made, one) for one in many), strict=True):
        assert together.score.tobytes() == alone.score.tobytes()
        assert together.expected.tobytes() == alone.expected.tobytes()


@torch.no_grad()
def test_the_graph_of_a_network_that_reads_both_ways_reads_recordings_of_any_length() -> None:
    network = forecaster("bilstm", dropout=0.5).train()
    graph = session(export_whole(network))
    assert network.training
    network.eval()
    for length in (1, 2, 3, 50):
        window = readings(length, 1, 0.2, seed=length)
        x, observed, elapsed = (part[:, 0].numpy() for part in window)
        mean, scale = graph.run(None, {"x": x, "observed": observed, "elapsed": elapsed})
        expected_mean, expected_scale, _ = network.unroll(*window, network.initial(1))
        np.testing.assert_allclose(mean, expected_mean[:, 0], atol=1e-5, rtol=0)
        np.testing.assert_allclose(scale, expected_scale[:, 0], atol=1e-5, rtol=1e-5)


def test_a_scan_from_both_sides_does_not_show_a_reading_to_its_forecast(tmp_path: Path) -> None:
    made, found = detector("bilstm", tmp_path), recording(40)
    found.values[20] = 3.0
    changed = Recording("r", CHANNELS, found.timestamps_ms, found.values.copy())
    changed.values[20] += 5
    before, after = scan(made, found).expected, scan(made, changed).expected
    differs = (before != after).any(axis=(1, 2))
    assert not differs[20]
    assert differs[19]
    assert differs[21]


def test_a_long_gap_parts_a_recording_that_is_read_from_both_sides(tmp_path: Path) -> None:
    made, found = detector("bilstm", tmp_path), recording(40)
    gap_ms = int(made.manifest.calibration.restart_gap_s * 1000) + 1
    found.timestamps_ms[25:] += gap_ms
    parts = [scan(made, found.rows(0, 25)).expected, scan(made, found.rows(25)).expected]
    np.testing.assert_allclose(scan(made, found).expected, np.concatenate(parts), atol=1e-5)


def test_a_model_that_reads_both_ways_is_no_detector_of_live_streams(tmp_path: Path) -> None:
    made = detector("bilstm", tmp_path)
    with pytest.raises(ArtefactError, match="a bilstm model needs the readings after a reading.*`gatewatch scan`"):
        made.step(np.ones((1, 2)), np.array([START_MS]), made.initial(1))
