"""Network: the exported one-step graph of a model, checked before it is used, and its session."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from gatewatch.models.artefact.graph import check_steps, open_session, settle

Tensor = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]


MOST_BOUND = 16
"""Rows; of more, what binding saves is nothing beside the step."""


class _Bound:
    """Memory for the inputs and outputs of so many rows, to which a session is bound: a quarter less for a lone row."""

    def __init__(self, session: InferenceSession, inputs: Shapes, outputs: Shapes, rows: int) -> None:
        self._session, self._binding = session, session.io_binding()
        self._inputs = {name: np.zeros((rows, *shape), np.float32) for name, shape in inputs.items()}
        self._outputs = {name: np.zeros((rows, *shape), np.float32) for name, shape in outputs.items()}
        for bind, arrays in ((self._binding.bind_input, self._inputs), (self._binding.bind_output, self._outputs)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self, feed: Mapping[str, Tensor]) -> list[Tensor]:
        for name, array in self._inputs.items():
            array[:] = feed[name]
        self._session.run_with_iobinding(self._binding)
        return list(self._outputs.values())


class _OfThread(threading.local):
    """What a thread has bound, by the number of rows: steps may be taken in several threads at once."""

    def __init__(self) -> None:
        self.by_rows: dict[int, _Bound] = {}


class Network:
    """Steps rows of readings: state in, forecast and next state out."""

    def __init__(self, graph: bytes, inputs: Shapes, tensors: Shapes, mean: tuple[int, ...]) -> None:
        """Open and try a graph.

        Args:
            inputs: shape of each input of a row but the state.
            tensors: shape of each state tensor of a row.
            mean: shape of what is forecast for a row.

        Raises:
            ArtefactError: it cannot be run, or its inputs and outputs are not these.
        """
        self._session = open_session(graph)
        self._inputs = {**inputs, **tensors}
        self._outputs = {"mean": mean, **{f"{name}_next": shape for name, shape in tensors.items()}}
        self._bound = _OfThread()
        check_steps(self._session, inputs, tensors, mean)

    def step(self, feed: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Forecasts (N, ...) and the next state tensors of N rows; a row without a finite forecast begins afresh.

        Both are valid until the thread's next step: few rows have memory of their own, to which the graph is bound.
        """
        rows = len(feed["x"])
        if rows <= MOST_BOUND:
            mean, *tensors = self._of(rows).run(feed)
        else:
            whole = {name: np.ascontiguousarray(each) for name, each in feed.items()}
            mean, *tensors = self._session.run(list(self._outputs), whole)
        settle(mean, tensors)
        return mean, tensors

    def _of(self, rows: int) -> _Bound:
        """The memory of this thread for so many rows."""
        by_rows = self._bound.by_rows
        if rows not in by_rows:
            by_rows[rows] = _Bound(self._session, self._inputs, self._outputs, rows)
        return by_rows[rows]

    def mean(self, feed: Mapping[str, Tensor]) -> Tensor:
        """Forecasts alone, of a network without a state."""
        return cast("Tensor", self._session.run(["mean"], feed)[0])
