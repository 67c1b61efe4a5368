"""A graph is looked at before it is run, and tried before it serves."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gatewatch.models.artefact import graph
from gatewatch.models.artefact.files import GRAPH, MANIFEST, load_artefact, manifest_hash, save_artefact
from gatewatch.models.artefact.graph import check_steps, open_session, require_plain, settle
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ArtefactError

STATE = {"h": (2,)}


def made(nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto] = ()) -> bytes:
    """A graph of x (B, 3) and h (B, 2) to mean by these nodes; h stays as it is."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", n]) for name, n in (("x", 3), ("h", 2))]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("mean", "h_next")]
    keep = helper.make_node("Identity", ["h"], ["h_next"])
    whole = helper.make_graph([*nodes, keep], "g", inputs, outputs, list(constants))
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def constant(name: str, value: Any, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def run(content: bytes) -> None:
    check_steps(open_session(content), {"x": (3,)}, STATE, (3,))


def test_a_plain_graph_steps() -> None:
    run(made([helper.make_node("Tanh", ["x"], ["mean"])]))


def looping() -> onnx.NodeProto:
    ins = [helper.make_tensor_value_info(*one) for one in (("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []))]  # type: ignore[var-annotated]
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    outs = [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("v2", 1, None)]
    steps = [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["v"], ["v2"])]
    return helper.make_node("Loop", ["n", "t", "x"], ["mean"], body=helper.make_graph(steps, "b", [*ins, value], outs))


def external() -> onnx.TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL, dims=[3])
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "secret.bin"
    return tensor


def cast(given: str, made: str, to: int, twice: int | None = None) -> onnx.NodeProto:
    node = helper.make_node("Cast", [given], [made], to=to)
    if twice is not None:
        node.attribute.add().CopyFrom(helper.make_attribute("to", twice))
    return node


def divided(a: onnx.TensorProto, b: onnx.TensorProto) -> bytes:
    """The smallest integer by -1: it has no answer, and ends the process (SIGFPE) already while it is loaded."""
    divide = helper.make_node("Div", ["a", "b"], ["d"])
    return made([divide, cast("d", "f", 1), helper.make_node("Add", ["x", "f"], ["mean"])], [a, b])


def of_shape(shape: list[int]) -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=shape)
    return made([helper.make_node("Add", ["x", "w"], ["mean"])], [tensor])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (made([looping()], [constant("n", 2**62), constant("t", True, bool)]), "a graph within its graph"),
        (made([helper.make_node("Evil", ["x"], ["mean"], domain="evil")]), "the operator 'evil.Evil'"),
        (made([helper.make_node("RandomNormalLike", ["x"], ["mean"])]), "the operator 'RandomNormalLike'"),
        (made([helper.make_node("Add", ["x", "w"], ["mean"])], [external()]), "weights in another file"),
        (made([helper.make_node("Constant", [], ["mean"], value=external())]), "weights in another file"),
        (divided(constant("a", [-(2**63)]), constant("b", [-1])), "the operator 'Div' on integers"),
        (
            made(
                [cast("x", "a", 7), cast("x", "b", 7), helper.make_node("Div", ["a", "b"], ["d"]), cast("d", "mean", 1)]
            ),
            "the operator 'Div' on integers",
        ),
        (made([helper.make_node("Div", ["later", "x"], ["mean"]), cast("x", "later", 1)]), "'Div' on integers"),
        (made([helper.make_node("ReduceMean", ["a"], ["mean"])], [constant("a", [1, 2])]), "'ReduceMean' on integers"),
        (made([cast("x", "a", 1, twice=7), helper.make_node("Div", ["a", "a"], ["mean"])]), "attribute 'to' twice"),
        (of_shape([2**40]), "constant of shape"),
        (of_shape([-1, 3]), "constant of shape"),
        (of_shape([2**32, 2**32, 3]), "constant of shape"),
        (of_shape([1] * 100_000), "constant of shape"),
        (b"\x08\x01" * 200_001, "damaged, or no ONNX"),
        (b"", "it has no graph"),
        (b"no graph at all", "damaged, or no ONNX"),
        (made([helper.make_node("Tanh", ["x"], ["mean"])])[:-3], "damaged, or no ONNX"),
        (b"\x3a\xff\xff\xff\xff\x7f", "damaged, or no ONNX"),
        (b"\xff" * 40, "damaged, or no ONNX"),
    ],
)
def test_a_graph_that_is_not_plain_is_refused_before_it_is_run(content: bytes, words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        require_plain(content)


def test_what_the_networks_divide_is_plain() -> None:
    """Numbers of every kind that are no integers, wherever they come from."""
    shape = helper.make_node("ConstantOfShape", ["s"], ["ones"], value=constant("v", [1], np.float32))
    where = helper.make_node("Where", ["is", "x", "ones"], ["chosen"])
    judged = helper.make_node("Greater", ["x", "ones"], ["is"])
    divide = helper.make_node("Div", ["chosen", "ones"], ["mean"])
    run(made([shape, judged, where, divide], [constant("s", [1, 3])]))


def test_a_graph_of_very_many_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MOST_NODES", 3)
    chain = [helper.make_node("Tanh", ["x"], [f"t{n}"]) for n in range(5)]
    with pytest.raises(ArtefactError, match="6 nodes; at most 3 are run"):
        require_plain(made(chain))


def test_a_step_that_needs_more_memory_than_all_may_have_is_refused() -> None:
    """16 GB of ones, and of what the reading says."""
    size = constant("s", [2**32])
    ones = helper.make_node("ConstantOfShape", ["s"], ["big"])
    total = helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0)
    with pytest.raises(ArtefactError, match=r"cannot be loaded|does not step"):
        run(made([ones, total, helper.make_node("Add", ["x", "sum"], ["mean"])], [size]))
    wide = helper.make_node("Expand", ["x", "s"], ["big"])
    with pytest.raises(ArtefactError, match="does not step"):
        run(made([wide, total, helper.make_node("Add", ["x", "sum"], ["mean"])], [constant("s", [2**30, 1, 3])]))


def test_a_graph_that_is_finite_at_rest_only_is_refused() -> None:
    """The root of minus a reading, and its logarithm, answer NaN and infinity as soon as something moves."""
    minus = helper.make_node("Neg", ["x"], ["n"])
    with pytest.raises(ArtefactError, match=r"mean is \[nan, nan, nan\] .* after readings of 1 spreads"):
        run(made([minus, helper.make_node("Sqrt", ["n"], ["mean"])]))
    with pytest.raises(ArtefactError, match=r"mean is \[-inf, -inf, -inf\] .* after readings of 0 spreads"):
        run(made([helper.make_node("Log", ["x"], ["mean"])]))


def test_a_step_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "CHECK_S", 0.05)
    monkeypatch.setattr(graph, "require_plain", lambda _: None)
    with pytest.raises(ArtefactError, match="does not step within 0.05 s"):
        run(made([looping()], [constant("n", 2**62), constant("t", True, bool)]))


@pytest.fixture
def copy(artefact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artefact, tmp_path / "copy"))


def edited(folder: Path, edit: dict[str, Any]) -> Path:
    """An artefact whose manifest is changed, and whose hash is right."""
    manifest = {**json.loads((folder / MANIFEST).read_text()), **edit}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "manifest_sha256": manifest_hash(manifest)}))
    return folder


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"h": [-1]}, "no size below 1"),
        ({"h": [2**31]}, "at most 1048576 are carried"),
        ({"h": [2**20], "c": [2**20]}, "at most 1048576 are carried"),
        ({"h": [1] * 10_000}, "are carried"),
        ({"x": [3]}, "'x' is no name of a state tensor"),
        ({"h\n": [3]}, "is no name of a state tensor"),
    ],
)
def test_a_state_that_no_stream_can_carry_is_refused(copy: Path, state: dict[str, list[int]], words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        load_artefact(edited(copy, {"state": state}))


def test_a_state_tensor_with_the_name_of_another_field_is_refused(copy: Path) -> None:
    state = json.loads((copy / MANIFEST).read_text())["state"] | {"last_ms": [1]}
    with pytest.raises(ArtefactError, match="'last_ms' occurs more than once"):
        TrainedDetector.load(edited(copy, {"state": state}))


def test_units_that_nothing_has_are_refused(copy: Path) -> None:
    content = json.loads((copy / MANIFEST).read_text())
    for field, value in (("spread", 1e-300), ("center", 1e308), ("name", "x" * 2**20)):
        channels = [{**content["channels"][0], field: value}, *content["channels"][1:]]
        with pytest.raises(ArtefactError, match=f"channels.0.{field}"):
            load_artefact(edited(copy, {"channels": channels}))


@pytest.mark.parametrize("name", [GRAPH, MANIFEST])
def test_a_pipe_or_a_device_is_no_file_of_an_artefact(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(ArtefactError, match=f"{name}: no regular file"):
        load_artefact(copy)
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    with pytest.raises(ArtefactError, match=f"{name}: no regular file"):
        load_artefact(copy)


def test_a_hostile_graph_in_an_artefact_is_refused_in_one_line(artefact: Path, tmp_path: Path) -> None:
    loaded = load_artefact(artefact)
    loop = made([looping()], [constant("n", 2**62), constant("t", True, bool)])
    save_artefact(tmp_path / "made", loaded.manifest, loop, b"", "")
    with pytest.raises(ArtefactError, match="loop or a branch"):
        TrainedDetector.load(tmp_path / "made")


def aging() -> bytes:
    """A graph whose h counts readings, and whose forecast is the root of 20 - h: NaN from the 22nd reading on."""
    whole = onnx.load_from_string(made([]))
    whole.graph.node[0].CopyFrom(helper.make_node("Add", ["h", "one"], ["h_next"]))
    whole.graph.initializer.extend([constant("one", 1, np.float32), constant("limit", 20, np.float32)])
    root = helper.make_node("Sqrt", ["left"], ["root"])
    total = helper.make_node("ReduceMean", ["root"], ["mean_root"], axes=[1], keepdims=1)
    zero = helper.make_node("Sub", ["x", "x"], ["zero"])
    left = helper.make_node("Sub", ["limit", "h"], ["left"])
    whole.graph.node.extend([left, root, total, zero, helper.make_node("Add", ["zero", "mean_root"], ["mean"])])
    return bytes(whole.SerializeToString())


def test_a_stream_whose_forecast_ends_in_nan_begins_afresh_and_no_neighbour_does() -> None:
    session = open_session(aging())
    check_steps(session, {"x": (3,)}, STATE, (3,))
    h = np.array([[19.0, 19], [3, 3]], np.float32)
    seen = []
    for _ in range(5):
        mean, h = session.run(["mean", "h_next"], {"x": np.ones((2, 3), np.float32), "h": h})
        settle(mean, [h])
        assert np.isfinite(mean).all()
        seen.append(h[:, 0].tolist())
    assert seen == [[20, 4], [21, 5], [0, 6], [1, 7], [2, 8]]
