"""Takeover: which model a tenant's streams belong to, as a number in Redis that rises with each change of model.

A process takes the next number when it starts with another model than the last one's, and the last number where it
starts with the same. One that meets a higher number than its own stops scoring: streams never go back and forth between
two models. A process that is started anew in its place (a worker that died) keeps the number that its service had. If
the folder of the model had changed meanwhile, that worker takes the next number, and the others of its service end, to
be started anew as well.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from gatewatch.service.background import repeat
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable, Superseded
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.workers import service_of_this_process

log = structlog.get_logger(__name__)


LOOK_S: Final = 1.0

ENDING_S: Final = 3600.0
"""Longer than a process takes to end."""


class Takeover:
    """The number of this process; see the module's text.

    Attributes:
        number: 0 until Redis has given one.
    """

    def __init__(self, store: Store, model: str, metrics: Metrics) -> None:
        self.number = 0
        self._metrics = metrics
        self._store = store
        self._model = model
        self._service = service_of_this_process()
        self._superseded: tuple[int, str] | None = None
        self._followed = False
        self._older: StreamKey | None = None

    async def claim(self) -> None:
        """Have a number before anything is scored. Raises Superseded, or StoreUnavailable."""
        if self._superseded:
            raise self._error()
        if not self.number:
            self.number, highest, model = await self._store.claim_takeover(self._service, self._model)
            self._metrics.takeover(self.number)
            self._note(highest, model)
            if self._superseded:
                raise self._error()

    async def look(self) -> None:
        """Ask Redis whether another model has taken over. Raises Superseded, or StoreUnavailable."""
        if not self.number:
            await self.claim()
        own = 0 if self._superseded else self.number
        highest, model, taker = await self._store.takeover(self._service, own, self._model)
        self._followed = highest > self.number and taker == self._service
        self._note(highest, model)
        if self._superseded:
            raise self._error()

    async def watch(self) -> None:
        """Look every second, until cancelled. End this process once its own service goes on with another model."""
        await repeat(self._look_and_follow, "no look whether another model has taken over", LOOK_S)

    async def _look_and_follow(self) -> float:
        """Look; the time until the next look, in s."""
        with contextlib.suppress(Superseded):
            await self.look()
        if self._followed:
            log.info("this service goes on with another model: this process ends, to be started anew with it")
            signal.raise_signal(signal.SIGTERM)
            return ENDING_S
        return LOOK_S

    def check(self, numbers: NDArray[Any]) -> None:
        """Raise Superseded if a record carries a higher number than this process has."""
        if len(numbers) and (highest := int(np.max(numbers))) > self.number:
            self._note(highest, "another model")
            raise self._error()

    def overwritten(self, stream: StreamKey) -> None:
        """A version that knows only older records wrote one after this one had taken the stream over."""
        if self._older is None:
            self._older = stream
            log.error(
                "an older version of this service still writes: stop it, then start this one anew", stream=stream.name
            )

    def require_ready(self) -> None:
        """Raise Superseded, or StoreUnavailable while an older version writes the same streams."""
        if self._superseded:
            raise self._error()
        if self._older is not None:
            raise StoreUnavailable(
                f"an older version of this service wrote stream {self._older.name} after this one had taken it over; "
                "what it applied was taken in. Stop the older version, then start this one anew"
            )

    def _note(self, highest: int, model: str) -> None:
        if highest > self.number and self._superseded is None:
            self._superseded = highest, model
            self._metrics.takeover(0)
            log.error(
                "another model has taken over: this process scores nothing any more",
                takeover=highest,
                own_takeover=self.number,
                model=model,
                own_model=self._model,
            )

    def _error(self) -> Superseded:
        highest, model = self._superseded or (0, "")
        return Superseded(
            f"model {model} has taken over this tenant's streams (takeover {highest}; this process has {self._model}, "
            f"takeover {self.number}): send the readings to a service with that model, or start this one anew"
        )
