"""Registry: which served model scores which stream. Today one scores all; that may be AnyChannels."""

from __future__ import annotations

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.serving.served_model import ServedModel


class Registry:
    """The models that a process serves.

    Attributes:
        default: scores every stream that has no other.
    """

    def __init__(self, default: ServedModel) -> None:
        self.default = default

    def of(self, stream: StreamKey) -> ServedModel:  # noqa: ARG002
        """The model that scores a stream."""
        return self.default
