"""Network: the exported one-step graph of a model, checked before it is used, and its session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.artefact.graph import check_steps, open_session, settle

Tensor = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]


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
        self._outputs = ["mean", *(f"{name}_next" for name in tensors)]
        check_steps(self._session, inputs, tensors, mean)

    def step(self, feed: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Forecasts (N, ...) and the next state tensors of N rows; a row without a finite forecast begins afresh."""
        mean, *tensors = self._session.run(self._outputs, feed)
        settle(mean, tensors)
        return mean, tensors

    def mean(self, feed: Mapping[str, Tensor]) -> Tensor:
        """Forecasts alone, of a network without a state."""
        return cast("Tensor", self._session.run(["mean"], feed)[0])
