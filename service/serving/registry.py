"""Registry: which served model scores which stream, by the rules of now.

A model that is not in memory is loaded before the readings that need it are decoded; nobody else waits for that. Rules
may change between the decoding of a reading and its step, or may have changed where this process has not heard of it: a
record that another model wrote shows it, and `moved` says what is to be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from gatewatch.models.errors import ArtefactError
from gatewatch.service.core.readings import Model
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import ModelAway
from gatewatch.service.serving.rules import Chosen
from gatewatch.service.serving.served_model import ServedModel

if TYPE_CHECKING:
    from gatewatch.service.serving.models import Models


class ModelNeeded(Exception):
    """A model that is not in memory is needed to go on."""

    def __init__(self, stream: str, chosen: Chosen) -> None:
        super().__init__(stream)
        self.stream = stream
        self.chosen = chosen


Held = dict[str, ServedModel]
"""Models by their SHA-256 that a request needs: they stay until it is decoded, whatever is dropped meanwhile."""


class Registry:
    """The models that a process serves.

    Attributes:
        default: scores every stream that has no other model by the rules.
        reading_bytes: that a reading may have, whatever its stream's model.
    """

    def __init__(self, default: ServedModel, models: Models | None = None) -> None:
        """`models`: the rules, and the models that they name; without them the default one scores all."""
        self.default = default
        self.reading_bytes = default.decoder.reading_bytes
        self._models = models

    def note(self, served: ServedModel) -> None:
        """A model was loaded."""
        self.reading_bytes = max(self.reading_bytes, served.decoder.reading_bytes)

    @property
    def is_single(self) -> bool:
        """Whether the default model scores all streams."""
        return self._models is None or not self._models.assignments.now.assignment.versions

    def at_hand(self, held: Held, stream: str) -> ServedModel:
        """The model of a stream, if it is in memory or held. Raises ModelNeeded."""
        models = self._models
        chosen = models.assignments.now.version_of(stream) if models is not None else None
        if models is None or chosen is None:
            return self.default
        model = held.get(chosen.sha256) or models.loaded.at_hand(chosen)
        if model is None:
            raise ModelNeeded(stream, chosen)
        return model

    def chooser(self, held: Held) -> partial[ServedModel]:
        """`at_hand` with models that are held."""
        return partial(self.at_hand, held)

    async def hold(self, needed: ModelNeeded, held: Held) -> None:
        """Have a model in memory, and hold it. Raises ModelAway."""
        held[needed.chosen.sha256] = await self._get(needed.stream, needed.chosen)

    async def of(self, stream: StreamKey) -> ServedModel:
        """The model that scores a stream. Raises ModelAway."""
        try:
            return self.at_hand({}, stream.name)
        except ModelNeeded as needed:
            return await self._get(needed.stream, needed.chosen)

    async def knows(self, digest: bytes) -> bool:
        """Whether a model is the default one, one of the rules, or a version of the repository. Raises ModelAway."""
        if digest == self.default.detector.digest or self._models is None:
            return digest == self.default.detector.digest
        versions = self._models.assignments.now.assignment.versions.values()
        return any(digest == one.digest for one in versions) or await self._models.administration.has(digest)

    async def moved(self, model: Model, streams: Sequence[StreamKey]) -> list[int]:
        """Which of some streams, whose records are another model's, do not have this one by the newest rules."""
        if self._models is None:
            return []
        await self._models.assignments.look()
        now, default = self._models.assignments.now, self.default.detector.digest
        digests = [chosen.digest if (chosen := now.version_of(stream.name)) else default for stream in streams]
        return [at for at, digest in enumerate(digests) if digest != model.detector.digest]

    async def _get(self, stream: str, chosen: Chosen) -> ServedModel:
        if self._models is None:  # there are no rules without it
            return self.default
        try:
            return await self._models.loaded.get(chosen)
        except ArtefactError as error:
            reference = self._models.assignments.now.reference_of(stream)
            raise ModelAway(
                f"{reference} (version {chosen.version}), the model of stream {stream}, cannot be loaded: {error}"
            ) from error
