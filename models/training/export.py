"""The network's one-step graph, with its state as inputs and outputs; and its weights by name."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from safetensors.torch import save
from torch import Tensor, nn

from models.training.architectures.base import Forecaster

OPSET = 17


class _Step(nn.Module):
    """`step` with the state as separate tensors, as ONNX wants it."""

    def __init__(self, network: Forecaster) -> None:
        super().__init__()
        self.network = network
        self.names = list(network.state_shapes())

    def forward(self, x: Tensor, observed: Tensor, elapsed: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        mean, scale, after = self.network.step(x, observed, elapsed, dict(zip(self.names, state, strict=True)))
        return mean, scale, *(after[name] for name in self.names)


def export_step(network: Forecaster) -> bytes:
    """The ONNX graph of one step for any number of streams.

    Inputs x, observed (B, C), elapsed (B, 1) and the state tensors; outputs mean, scale (B, C) and `<name>_next`.
    """
    training = network.training
    step = _Step(network).eval()
    streams = 2
    ones = torch.ones(streams, network.channels)
    shown = {"x": 0.5 * ones, "observed": ones, "elapsed": torch.zeros(streams, 1)}
    outputs = ["mean", "scale", *(f"{name}_next" for name in step.names)]
    graph = export_graph(step, shown | network.initial(streams), outputs)
    network.train(training)
    return graph


def export_graph(step: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> bytes:
    """The checked ONNX graph of a module in evaluation mode, for any number of rows.

    torch's older exporter is used on purpose: it takes 0.4 s where the one over torch.export takes 7.7 s, needs no
    package beside onnx, and the graphs are equally fast. torch is pinned, so its deprecation can wait.

    Args:
        inputs: example arguments in order, by the names they get in the graph; rows first.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        torch.onnx.export(
            step,
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={name: {0: "streams"} for name in (*inputs, *outputs)},
        )
    graph = buffer.getvalue()
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    return graph


def weights(network: nn.Module) -> bytes:
    """The network's parameters by name, as safetensors."""
    return save({name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()})
