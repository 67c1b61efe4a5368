"""An ONNX graph is plain before it is run: known operators, no loops, no branches, nothing from other files.

What a step costs is then known from its graph: each of its nodes runs once, and `open_session` bounds what all of them
may take of memory. The service has no package for ONNX; the few fields that matter are read from the protobuf itself
(onnx.proto of ONNX 1.16).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from threading import Timer

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gatewatch.models.artefact.protobuf import Message
from gatewatch.models.errors import ArtefactError

OPERATORS = frozenset(
    {
        "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "Cos",
        "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "GRU", "Gather", "Gelu",
        "Gemm", "Greater", "GreaterOrEqual", "HardSigmoid", "Identity", "LSTM", "LayerNormalization",
        "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max", "Min", "Mul", "Neg", "Not", "Or",
        "Pad", "Pow", "RNN", "Range", "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid",
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

MOST_DIMENSIONS = 8
LARGEST_TENSOR = 2**26
"""Numbers in a constant; more than that a file has no room for."""

GRAPH, FUNCTIONS, TRAINING = 7, 25, 20
NODE, INITIALIZER, INPUT, SPARSE_INITIALIZER = 1, 5, 11, 15
NODE_INPUT, NODE_OUTPUT, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 4, 5, 7
NAME, INTEGER, TENSOR, SUBGRAPH, TENSORS, SUBGRAPHS = 1, 3, 5, 6, 10, 11
DIMENSIONS, DATA_TYPE, TENSOR_NAME, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 13, 14
VALUE_NAME, VALUE_TYPE, TENSOR_TYPE, ELEMENT_TYPE = 1, 2, 1, 1

FLOAT, INT64, BOOL = 1, 7, 9
FLOATS = frozenset({FLOAT, 10, 11, 16})
"""float32, float16, float64, bfloat16."""

JUDGING = frozenset({"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"})
"""Operators that answer yes or no."""

DIVIDING = frozenset({"Div", "ReduceMean", "Reciprocal"})
"""Operators that must not meet integers: the smallest one by -1 is no integer, and kills the process (SIGFPE)."""


def require_plain(graph: bytes) -> None:
    """Raise an ArtefactError for a graph that is not plain; see the top of this file."""
    try:
        _check_model(Message(graph))
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
        raise ArtefactError(f"model.onnx cannot be loaded: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    """What onnxruntime says, which may be of several lines, each indented."""
    return " ".join(str(error).split())


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
        raise ArtefactError(
            f"model.onnx does not step{too_long} as the manifest says: {_in_one_line(error)}"
        ) from error
    finally:
        timer.cancel()


def settle(mean: NDArray[np.float32], tensors: Iterable[NDArray[np.float32]]) -> None:
    """Begin rows afresh, in place, whose forecast is not finite: 0 is the mean of a channel, and of a network's state.

    A NaN that stayed in a state would silence its stream for ever.
    """
    finite = np.isfinite(mean)
    if np.count_nonzero(finite) < finite.size:
        wrong = ~finite.all(axis=1)
        for array in (mean, *tensors):
            array[wrong] = 0


@cache
def _bound_memory() -> None:
    """All sessions of the process share one arena of at most STEP_MEMORY."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": STEP_MEMORY}))


def _check_model(model: Message) -> None:
    if model.has(FUNCTIONS, TRAINING):
        raise ArtefactError("model.onnx has functions or training graphs of its own; expected one plain graph")
    graph = model.message(GRAPH)
    nodes = graph.parts(NODE)
    if not nodes:
        raise ArtefactError("model.onnx cannot be loaded: it has no graph; copy or train it again")
    if len(nodes) > MOST_NODES:
        raise ArtefactError(f"model.onnx has {len(nodes)} nodes; at most {MOST_NODES} are run")
    if graph.has(SPARSE_INITIALIZER):
        raise ArtefactError("model.onnx has sparse weights, which no network of the trainer has")
    kinds: dict[str, int] = {}
    for value in map(Message, graph.parts(INPUT)):
        kinds[value.text(VALUE_NAME)] = value.message(VALUE_TYPE).message(TENSOR_TYPE).number(ELEMENT_TYPE)
    for tensor in map(Message, graph.parts(INITIALIZER)):
        _check_tensor(tensor)
        kinds[tensor.text(TENSOR_NAME)] = tensor.number(DATA_TYPE)
    for node in map(Message, nodes):
        _check_node(node, kinds)


def _check_node(node: Message, kinds: dict[str, int]) -> None:
    """Look at a node, and note of which type its outputs are; `kinds` has those of all before it, by name."""
    operator, domain = node.text(OP_TYPE), node.text(DOMAIN)
    attributes: dict[str, Message] = {}
    for attribute in map(Message, node.parts(ATTRIBUTE)):
        if attribute.has(SUBGRAPH, SUBGRAPHS):
            raise ArtefactError("model.onnx has a graph within its graph, a loop or a branch; expected one plain graph")
        for tensor in (attribute.message(TENSOR), *map(Message, attribute.parts(TENSORS))):
            _check_tensor(tensor)
        name = attribute.text(NAME)
        if name in attributes:
            raise ArtefactError(f"model.onnx has the attribute {name[:40]!r} twice in one node; expected it once")
        attributes[name] = attribute
    if operator not in OPERATORS or domain not in ("", "ai.onnx"):
        named = f"{domain}.{operator}".lstrip(".")
        raise ArtefactError(f"model.onnx has the operator {named[:40]!r}, which no network of the trainer has")
    inputs = [kinds.get(str(each, "utf-8"), 0) for each in node.parts(NODE_INPUT)]
    if operator in DIVIDING and not FLOATS.issuperset(inputs[:2] if operator == "Div" else inputs[:1]):
        raise ArtefactError(
            f"model.onnx has the operator {operator!r} on integers, which no network of the trainer has"
        )
    for output in node.parts(NODE_OUTPUT):
        kinds[str(output, "utf-8")] = _kind(operator, inputs, attributes)


def _kind(operator: str, inputs: list[int], attributes: dict[str, Message]) -> int:
    """The type of what an operator answers, as ONNX numbers types; 0 where it is not known."""
    if operator in JUDGING:
        return BOOL
    if operator == "Shape":
        return INT64
    if operator == "Cast":
        return attributes["to"].number(INTEGER) if "to" in attributes else 0
    if operator in ("Constant", "ConstantOfShape"):
        if "value" in attributes:
            return attributes["value"].message(TENSOR).number(DATA_TYPE)
        if operator == "ConstantOfShape" or attributes.keys() & {"value_float", "value_floats"}:
            return FLOAT
        return INT64 if attributes.keys() & {"value_int", "value_ints"} else 0
    place = 1 if operator == "Where" else 0
    return inputs[place] if len(inputs) > place else 0


def _check_tensor(tensor: Message) -> None:
    if tensor.has(EXTERNAL_DATA, DATA_LOCATION):
        raise ArtefactError("model.onnx has weights in another file; expected all of them in the graph")
    shape = [*islice(tensor.numbers(DIMENSIONS), MOST_DIMENSIONS + 1)]
    if len(shape) > MOST_DIMENSIONS or min(shape, default=0) < 0 or math.prod(shape) > LARGEST_TENSOR:
        raise ArtefactError(
            f"model.onnx has a constant of shape {shape!s:.80}; expected at most {MOST_DIMENSIONS} dimensions and "
            f"{LARGEST_TENSOR} numbers"
        )
