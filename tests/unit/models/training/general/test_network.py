"""The general network: trained on synthetic signals, stepped one reading at a time, for any channel of any stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load

from gatewatch.models.artefact.files import WEIGHTS, GeneralManifest, load_artefact
from gatewatch.models.detectors.general.features import (
    FEATURES,
    HORIZONS,
    OLDEST_READINGS,
    observe,
    placed,
    running_fields,
)
from gatewatch.models.training.architectures.general import GeneralForecaster
from gatewatch.models.training.general import train as general
from gatewatch.models.training.general.synthetic import KINDS, Corpus, corpus, generate, signals
from gatewatch.models.training.general.train import Examples, GeneralConfig, examples, export, train

TINY = GeneralConfig(hidden=16, series=96, held_out=32, rows=192, window=64, lanes=32, steps=90, learning_rate=1e-2)


@pytest.fixture(scope="module")
def network() -> GeneralForecaster:
    """Untrained, with weights large enough to be seen."""
    torch.manual_seed(0)
    made = GeneralForecaster(2, 64)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


@pytest.fixture(scope="module")
def graph(network: GeneralForecaster) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(export(network), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def seen() -> Examples:
    return examples(generate(2 * len(KINDS), 300, seed=5))


def step(graph: Any, features: torch.Tensor, state: list[np.ndarray]) -> list[np.ndarray]:
    found: list[np.ndarray] = graph.run(None, {"x": features.numpy(), "h": state[0], "c": state[1]})
    return found


def fresh(rows: int) -> list[np.ndarray]:
    return [np.zeros((rows, 2, 64), np.float32)] * 2


def test_the_graph_steps_as_the_network_unrolls(network: GeneralForecaster, graph: Any, seen: Examples) -> None:
    rows = seen.features.shape[1]
    with torch.no_grad():
        means, scales, h, c = network.unroll(seen.features, *network.initial(rows))
    state = fresh(rows)
    for now, mean, scale in zip(seen.features, means, scales, strict=True):
        stepped = step(graph, now, state)
        np.testing.assert_allclose(stepped[0], mean, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(stepped[1], scale, atol=1e-4, rtol=1e-4)
        state = stepped[2:]
    np.testing.assert_allclose(state[0], h, atol=1e-4)
    np.testing.assert_allclose(state[1], c, atol=1e-4, rtol=1e-4)


def test_a_row_is_the_same_to_the_bit_alone_and_in_company(graph: Any, seen: Examples) -> None:
    rows = seen.features.shape[1]
    crowd = step(graph, seen.features[100], step(graph, seen.features[99], fresh(rows))[2:])
    for few in (1, 2, 5):
        for start in range(0, rows - few, few):
            part = slice(start, start + few)
            before = step(graph, seen.features[99, part], fresh(few))[2:]
            for alone, together in zip(step(graph, seen.features[100, part], before), crowd, strict=True):
                assert alone.tobytes() == together[part].tobytes()


def test_a_channel_stored_and_resumed_goes_on_as_if_unbroken(graph: Any, seen: Examples) -> None:
    rows, unbroken, resumed = seen.features.shape[1], None, None
    state = broken = fresh(rows)
    for now in seen.features[:40]:
        unbroken = step(graph, now, state)
        state = unbroken[2:]
        stored = [tensor.tobytes() for tensor in broken]
        resumed = step(graph, now, [np.frombuffer(raw, np.float32).reshape(rows, 2, 64) for raw in stored])
        broken = resumed[2:]
    assert all(one.tobytes() == other.tobytes() for one, other in zip(unbroken, resumed, strict=True))  # type: ignore[arg-type]


def test_the_graph_says_what_goes_in_and_comes_out_and_stays_small(network: GeneralForecaster, graph: Any) -> None:
    assert {i.name: i.shape[1:] for i in graph.get_inputs()} == {"x": [FEATURES], "h": [2, 64], "c": [2, 64]}
    assert {o.name: o.shape[1:] for o in graph.get_outputs()} == {
        "mean": [len(HORIZONS)],
        "scale": [len(HORIZONS)],
        "h_next": [2, 64],
        "c_next": [2, 64],
    }
    raw = export(network)
    assert len(raw) < 2**19
    assert len(onnx.load_from_string(raw).graph.node) <= 60


def test_a_target_is_the_change_from_the_last_value_in_steps() -> None:
    """A straight line under a steady clock: h readings later it is h steps farther."""
    line = np.arange(100, dtype=np.float32)[None]
    made = examples(Corpus(np.zeros(1, np.intp), np.arange(100)[None] * 60_000, line))
    for at, ahead in enumerate(HORIZONS):
        expected = min(ahead, general.FARTHEST)
        np.testing.assert_allclose(made.targets[20:-ahead, 0, at], expected, rtol=0.06)
        assert made.counted[:-ahead, 0, at].all()
        assert not made.counted[-ahead:, 0, at].any()


def test_a_missing_reading_is_no_target_and_the_value_before_it_stands_in() -> None:
    line = np.arange(100, dtype=np.float32)[None]
    line[0, 60] = np.nan
    made = examples(Corpus(np.zeros(1, np.intp), np.arange(100)[None] * 60_000, line))
    assert not made.counted[59, 0, 0]
    assert made.counted[60, 0, 0]
    assert made.targets[60, 0, 0] == pytest.approx(2, rel=0.06)
    assert all(torch.isfinite(part).all() for part in (made.features, made.targets, made.counted))


def test_a_stream_older_than_those_trained_on_looks_no_older() -> None:
    """An age that it never saw would mislead the network."""
    states = np.zeros(3, running_fields(1))
    states["count"][:, 0] = OLDEST_READINGS - 100, OLDEST_READINGS, 10**6
    values = np.ones((3, 1))
    ages = observe(states, values, placed(states, values), np.full(3, 60_000), np.full(3, 60_000))[:, 0, 10]
    assert ages[0] < ages[1] == ages[2]


def test_a_little_training_forecasts_unseen_series_better_than_the_last_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counts, say: they fall back to their mean, which is soon learned."""
    only = {"counts": KINDS["counts"]}
    for module in (signals, corpus, general):  # not KINDS itself: put back one by one, it would be in another order
        monkeypatch.setattr(module, "KINDS", only)
    _, skill = train(TINY)
    assert max(skill.typical) < 0.95


def test_the_same_seed_gives_the_same_network_to_the_bit() -> None:
    config = TINY.model_copy(update={"steps": 4, "series": 16, "rows": 128, "held_out": 13})
    (once, _), (again, _), (other, _) = train(config), train(config), train(config.model_copy(update={"seed": 1}))
    assert export(once) == export(again)
    assert export(once) != export(other)


def test_the_artefact_comes_back_and_says_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(general, "GeneralConfig", lambda **given: TINY.model_copy(update=given))
    monkeypatch.setattr(sys, "argv", ["general", "--out", str(tmp_path / "made"), "--steps", "3", "--series", "26"])
    general.main()
    assert "3 updates" in capsys.readouterr().out
    made = load_artefact(tmp_path / "made")
    assert isinstance(made.manifest, GeneralManifest)
    assert made.manifest.architecture_settings["steps"] == 3
    assert set(made.manifest.training["held_out"]) == {"pooled", "typical", "loss"}
    network = GeneralForecaster(TINY.layers, TINY.hidden)
    network.load_state_dict(load((tmp_path / "made" / WEIGHTS).read_bytes()))
    assert export(network.eval()) == made.graph
