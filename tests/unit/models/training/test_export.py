"""The exported graph steps like the network it came from, alone and in company."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from gatewatch.models.training.architectures import Forecaster, build
from gatewatch.models.training.architectures.cells import CellForecaster
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.export import export_step, weights

CHANNELS = 5


def forecaster(layers: int = 2, hidden: int = 8) -> CellForecaster:
    torch.manual_seed(0)
    network = build(TrainConfig(layers=layers, hidden=hidden, dropout=0.5), CHANNELS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    assert isinstance(network, CellForecaster)
    return network


def session(graph: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def feed(network: Forecaster, streams: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """One reading of each of B streams, some values missing, and states that have seen something."""
    rng = np.random.default_rng(seed)
    observed = rng.random((streams, CHANNELS)) > 0.2
    return {
        "x": np.where(observed, rng.normal(size=observed.shape), 0).astype(np.float32),
        "observed": observed.astype(np.float32),
        "elapsed": rng.normal(size=(streams, 1)).astype(np.float32),
        **{
            name: np.tanh(rng.normal(size=(streams, *shape))).astype(np.float32)
            for name, shape in network.state_shapes().items()
        },
    }


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_exported_graph_steps_like_the_network(layers: int) -> None:
    """Over several steps, each from the state before, at batch sizes other than that of the export."""
    network = forecaster(layers).eval()
    graph = session(export_step(network))
    names = list(network.state_shapes())
    for streams in (1, 2, 7, 64):
        fed = feed(network, streams)
        state = {name: torch.from_numpy(fed[name]) for name in names}
        for moment in range(5):
            fed |= {name: value for name, value in feed(network, streams, moment).items() if name not in names}
            mean, scale, *after = graph.run(["mean", "scale", *(f"{name}_next" for name in names)], fed)
            with torch.no_grad():
                x, observed, elapsed = (torch.from_numpy(fed[name]) for name in ("x", "observed", "elapsed"))
                expected_mean, expected_scale, state = network.step(x, observed, elapsed, state)
            np.testing.assert_allclose(mean, expected_mean, atol=1e-5, rtol=0)
            np.testing.assert_allclose(scale, expected_scale, atol=1e-5, rtol=1e-5)
            for name, tensor in zip(names, after, strict=True):
                np.testing.assert_allclose(tensor, state[name], atol=1e-5, rtol=0)
                fed[name] = tensor


@pytest.mark.parametrize("hidden", [3, 64])
def test_a_row_is_the_same_to_the_bit_alone_and_in_company(hidden: int) -> None:
    network = forecaster(hidden=hidden)
    graph = session(export_step(network))
    crowd = feed(network, 70)
    together = graph.run(None, crowd)
    for streams in (1, 2, 3, 8, 33):
        for start in range(0, 70 - streams, 9):
            rows = slice(start, start + streams)
            for all_rows, few in zip(together, graph.run(None, {k: v[rows] for k, v in crowd.items()}), strict=True):
                assert few.tobytes() == all_rows[rows].tobytes()


def test_the_graph_says_what_goes_in_and_comes_out() -> None:
    network = forecaster()
    graph = session(export_step(network))
    state = {name: ["streams", *shape] for name, shape in network.state_shapes().items()}
    assert {i.name: i.shape for i in graph.get_inputs()} == {
        "x": ["streams", CHANNELS],
        "observed": ["streams", CHANNELS],
        "elapsed": ["streams", 1],
        **state,
    }
    assert [o.name for o in graph.get_outputs()] == ["mean", "scale", *(f"{name}_next" for name in state)]


def test_the_graph_stays_small() -> None:
    """A step's time for one stream is that of its nodes: 58 take 64 µs, 106 took 79 µs."""
    assert len(onnx.load_from_string(export_step(forecaster())).graph.node) <= 70


def test_dropout_does_not_reach_the_graph_and_the_network_goes_on_training() -> None:
    network = forecaster().train()
    graph = session(export_step(network))
    assert network.training
    fed = feed(network, 4)
    for once, again in zip(graph.run(None, fed), graph.run(None, fed), strict=True):
        assert once.tobytes() == again.tobytes()


def test_exporting_twice_gives_the_same_bytes() -> None:
    assert export_step(forecaster()) == export_step(forecaster())


def test_other_warnings_are_not_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the older exporter's two deprecations we know; a third would be news."""
    network = forecaster()
    step = network.step

    def deprecated(*arguments: Any) -> Any:
        warnings.warn("something new", DeprecationWarning, stacklevel=1)
        return step(*arguments)

    monkeypatch.setattr(network, "step", deprecated)
    with pytest.warns(DeprecationWarning, match="something new"):
        export_step(network)


def test_the_weights_come_back_by_name() -> None:
    network, other = forecaster(), build(TrainConfig(layers=2, hidden=8), CHANNELS)
    found = load(weights(network))
    assert {"head.weight", "head.bias", "cells.weight_ih_l0", "cells.weight_hh_l1"} <= set(found)
    other.load_state_dict(found)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in other.state_dict().items())
