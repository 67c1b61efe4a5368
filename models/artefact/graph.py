"""An ONNX graph is plain before it is run: known operators, no loops, no branches, nothing from other files.

What a step costs is then known from its graph: each of its nodes runs once, and `open_session` bounds what all of them
may take of memory. The service has no package for ONNX; the few fields that matter are read from the protobuf itself
(onnx.proto of ONNX 1.16).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from threading import Timer

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gatewatch.models.errors import ArtefactError

OPERATORS = frozenset(
    {
        "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "Cos",
        "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "GRU", "Gather", "Gelu",
        "Gemm", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "LSTM", "LayerNormalization",
        "LeakyRelu", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pad",
        "Pow", "RNN", "Range", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid",
        "Sign", "Sin", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose",
        "Unsqueeze", "Where",
    }
)  # fmt: skip
"""What the trainer's networks are made of, and their kin; none runs another graph."""

MOST_NODES = 20_000
"""The largest network of the trainer, a transformer of eight layers, has some 1,100."""

STEP_MEMORY = 2**30
"""Bytes that all sessions of a process may hold for their steps, but for weights."""

CHECK_S = 10.0
"""A first step may take so long; one of the largest network takes 0.1 s."""

CHECK_LEVELS = (0.0, 1.0, -1.0, 10.0, -10.0, 0.0)
"""Spreads: what a network is shown at most is 10."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

GRAPH, FUNCTIONS, TRAINING = 7, 25, 20
NODE, INITIALIZER, SPARSE_INITIALIZER = 1, 5, 15
OP_TYPE, ATTRIBUTE, DOMAIN = 4, 5, 7
TENSOR, SUBGRAPH, TENSORS, SUBGRAPHS = 5, 6, 10, 11
EXTERNAL_DATA, DATA_LOCATION = 13, 14


def require_plain(graph: bytes) -> None:
    """Raise an ArtefactError for a graph that is not plain; see the top of this file."""
    try:
        _check_model(memoryview(graph))
    except (IndexError, UnicodeDecodeError) as error:
        raise ArtefactError("model.onnx cannot be loaded: it is damaged, or no ONNX; copy or train it again") from error


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """A session that runs a plain graph, on one thread and in bounded memory. Raises ArtefactError."""
    require_plain(graph)
    _bound_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # two made a step slower
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, too
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # what was looked at, and nothing else
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        raise ArtefactError(f"model.onnx cannot be loaded: {error}") from error


def check_steps(
    session: onnxruntime.InferenceSession,
    inputs: Mapping[str, tuple[int, ...]],
    state: Mapping[str, tuple[int, ...]],
    mean: tuple[int, ...],
) -> None:
    """Step one fresh stream through quiet and wild readings, in bounded time.

    Args:
        inputs: shape of each input of a stream but the state.
        state: shape of each state tensor of a stream.
        mean: shape of what is forecast for a stream.

    Raises:
        ArtefactError: names or shapes are not these, a forecast or a state is not finite, or it takes too long.
    """
    options = onnxruntime.RunOptions()
    timer = Timer(CHECK_S, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    outputs = ["mean", *(f"{name}_next" for name in state)]
    expected = [(1, *mean), *((1, *shape) for shape in state.values())]
    carried = {name: np.zeros((1, *shape), np.float32) for name, shape in state.items()}
    try:
        for level in CHECK_LEVELS:
            feed = {name: np.full((1, *shape), level, np.float32) for name, shape in inputs.items()}
            found = session.run(outputs, feed | carried, options)
            for name, array, shape in zip(outputs, found, expected, strict=True):
                if array.shape != shape or not np.isfinite(array).all():
                    raise ArtefactError(
                        f"model.onnx: {name} is {array.ravel()[:4].tolist()!s:.60} with shape {array.shape} after "
                        f"readings of {level:g} spreads; expected {shape}, finite"
                    )
            carried = dict(zip(state, found[1:], strict=True))
    except ArtefactError:
        raise
    except Exception as error:  # onnxruntime raises its own, undocumented classes
        too_long = f" within {CHECK_S:g} s" if not timer.is_alive() else ""
        raise ArtefactError(f"model.onnx does not step{too_long} as the manifest says: {error}") from error
    finally:
        timer.cancel()


def settle(mean: NDArray[np.float32], tensors: Iterable[NDArray[np.float32]]) -> None:
    """Begin rows afresh, in place, whose forecast is not finite: 0 is the mean of a channel, and of a network's state.

    A NaN that stayed in a state would silence its stream for ever.
    """
    wrong = ~np.isfinite(mean).all(axis=1)
    if np.count_nonzero(wrong):
        for array in (mean, *tensors):
            array[wrong] = 0


@cache
def _bound_memory() -> None:
    """All sessions of the process share one arena of at most STEP_MEMORY."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": STEP_MEMORY}))


def _check_model(model: memoryview) -> None:
    nodes = 0
    for field, content in _fields(model):
        if field in (FUNCTIONS, TRAINING):
            raise ArtefactError("model.onnx has functions or training graphs of its own; expected one plain graph")
        if field == GRAPH:
            nodes += _check_graph(content)
    if not nodes:
        raise ArtefactError("model.onnx cannot be loaded: it has no graph; copy or train it again")
    if nodes > MOST_NODES:
        raise ArtefactError(f"model.onnx has {nodes} nodes; at most {MOST_NODES} are run")


def _check_graph(graph: memoryview) -> int:
    """How many nodes it has."""
    nodes = 0
    for field, content in _fields(graph):
        if field == NODE:
            nodes += 1
            _check_node(content)
        elif field == SPARSE_INITIALIZER:
            raise ArtefactError("model.onnx has sparse weights, which no network of the trainer has")
        elif field == INITIALIZER:
            _check_tensor(content)
    return nodes


def _check_node(node: memoryview) -> None:
    operator = domain = ""
    for field, content in _fields(node):
        if field == OP_TYPE:
            operator = str(content, "utf-8")
        elif field == DOMAIN:
            domain = str(content, "utf-8")
        elif field == ATTRIBUTE:
            _check_attribute(content)
    if operator not in OPERATORS or domain not in ("", "ai.onnx"):
        named = f"{domain}.{operator}".lstrip(".")
        raise ArtefactError(f"model.onnx has the operator {named[:40]!r}, which no network of the trainer has")


def _check_attribute(attribute: memoryview) -> None:
    for field, content in _fields(attribute):
        if field in (SUBGRAPH, SUBGRAPHS):
            raise ArtefactError("model.onnx has a graph within its graph, a loop or a branch; expected one plain graph")
        if field in (TENSOR, TENSORS):
            _check_tensor(content)


def _check_tensor(tensor: memoryview) -> None:
    if any(field in (EXTERNAL_DATA, DATA_LOCATION) for field, _ in _fields(tensor)):
        raise ArtefactError("model.onnx has weights in another file; expected all of them in the graph")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protobuf message; IndexError for what is none."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        begin = at
        if kind == VARINT:
            _, at = _varint(message, at)
        elif kind == BYTES:
            length, begin = _varint(message, at)
            at = begin + length
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise IndexError(kind)
        if at > len(message):
            raise IndexError(at)
        yield tag >> 3, message[begin:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; IndexError for one of more than ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (message[at] & 127) << shift
        if message[at] < 128:
            return value, at + 1
        at += 1
    raise IndexError(at)
