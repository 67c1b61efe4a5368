"""The network's graph, of one step with its state as inputs and outputs; and its weights by name."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from safetensors.torch import save
from torch import Tensor, nn

from gatewatch.models.training.architectures import CellForecaster, Forecaster

OPSET = 17

SHOWN = 2
"""Rows of the example that a graph is traced with."""


class _Step(nn.Module):
    """`step` with the state as separate tensors, as ONNX wants it."""

    def __init__(self, network: CellForecaster) -> None:
        super().__init__()
        self.network = network
        self.names = list(network.state_shapes())

    def forward(self, x: Tensor, observed: Tensor, elapsed: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        mean, scale, after = self.network.step(x, observed, elapsed, dict(zip(self.names, state, strict=True)))
        return mean, scale, *(after[name] for name in self.names)


class _Whole(nn.Module):
    """`unroll` over one recording, from its first reading on."""

    def __init__(self, network: Forecaster) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, observed: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale, _ = self.network.unroll(x[:, None], observed[:, None], elapsed[:, None], self.network.initial(1))
        return mean[:, 0], scale[:, 0]


def export_step(network: CellForecaster) -> bytes:
    """The ONNX graph of one step for any number of streams.

    Inputs x, observed (B, C), elapsed (B, 1) and the state tensors; outputs mean, scale (B, C) and `<name>_next`.
    """
    step = _Step(network)
    outputs = ["mean", "scale", *(f"{name}_next" for name in step.names)]
    with _evaluating(network):
        return export_graph(step, _shown(network) | network.initial(SHOWN), outputs)


def export_whole(network: Forecaster) -> bytes:
    """The ONNX graph of a recording of any length: x, observed (T, C), elapsed (T, 1) to mean, scale (T, C)."""
    with _evaluating(network):
        return export_graph(_Whole(network), _shown(network), ["mean", "scale"], rows="readings")


def _shown(network: Forecaster) -> dict[str, Tensor]:
    ones = torch.ones(SHOWN, network.channels)
    return {"x": 0.5 * ones, "observed": ones, "elapsed": torch.zeros(SHOWN, 1)}


@contextmanager
def _evaluating(network: Forecaster) -> Iterator[None]:
    """Without dropout; afterwards as it was."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def export_graph(step: nn.Module, inputs: dict[str, Tensor], outputs: list[str], rows: str = "streams") -> bytes:
    """The checked ONNX graph of a module in evaluation mode, for any number of rows.

    torch's older exporter is used on purpose: it takes 0.4 s where the one over torch.export takes 7.7 s, needs no
    package beside onnx, and the graphs are equally fast. torch is pinned, so its deprecation can wait.

    Args:
        inputs: example arguments in order, by the names they get in the graph; rows first.
        rows: what they are.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean", module="torch.nn.modules.rnn")
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1")  # one recording
        torch.onnx.export(
            step.eval(),
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: {0: rows} for name in (*inputs, *outputs)},
        )
    graph = buffer.getvalue()
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    return graph


def weights(network: nn.Module) -> bytes:
    """The network's parameters by name, as safetensors."""
    return save({name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()})
