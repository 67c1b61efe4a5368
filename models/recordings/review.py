"""Reviewed: a recording, and what is known to be wrong in it: what a training leaves out, and what a test must find.

Wrong is what a person labelled, and what a model judged anomalous where nobody said otherwise. The readings between are
stretches, each trained on as a recording of its own: what came before a fault and what came after it do not belong
together, and a hole in the values would teach that values may be missing for so long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.evaluation.vus import runs
from gatewatch.models.recordings.labels import Span
from gatewatch.models.recordings.recording import Recording, Source

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Stretch:
    """The rows of a recording from `start` up to, not including, `stop`: a Source."""

    whole: Source
    start: int
    stop: int

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.whole.stream

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the C channels."""
        return self.whole.channels

    def __len__(self) -> int:
        return self.stop - self.start

    def rows(self, start: int, stop: int | None = None) -> Recording:
        """The readings from row `start` of the stretch up to, not including, row `stop`, in memory."""
        first, last, _ = slice(start, stop).indices(len(self))
        return self.whole.rows(self.start + first, self.start + max(first, last))

    def only(self, channels: Sequence[str]) -> Stretch:
        """The readings of some channels alone, in the order given. Raises RecordingError."""
        return replace(self, whole=self.whole.only(channels))


@dataclass(frozen=True)
class Reviewed:
    """N readings of a stream, and what is known to be wrong among them.

    Attributes:
        source: the recording, without label columns.
        judged: (N,) a model judged it anomalous, or it lies in an incident, and nobody said that nothing was wrong.
        labelled: (N,) somebody said that something was wrong or unusual.
        events: first and last row of each fault that somebody labelled.
    """

    source: Source
    judged: Mask
    labelled: Mask
    events: Sequence[Span]

    @property
    def left_out(self) -> Mask:
        """(N,) what is not to be learned, and what is no false alarm."""
        return self.judged | self.labelled

    def stretches(self, stop: int | None = None) -> list[Source]:
        """What may be learned of the readings up to, not including, row `stop`, without what is left out."""
        kept = ~self.left_out[:stop]
        if kept.all():
            return [self.source if stop is None else Stretch(self.source, 0, len(kept))] if len(kept) else []
        return [Stretch(self.source, first, last + 1) for first, last in runs(kept)]


def unreviewed(source: Source) -> Reviewed:
    """A recording of which nothing wrong is known."""
    nothing = np.zeros(len(source), bool)
    return Reviewed(source, nothing, nothing, [])


@dataclass(frozen=True)
class LeftOut:
    """How much of some readings is left out, and why; what is both labelled and judged counts as labelled.

    Attributes:
        readings: of all.
        judged, labelled: of these, left out.
        events: faults that somebody labelled.
    """

    readings: int
    judged: int
    labelled: int
    events: int

    @classmethod
    def of(cls, reviewed: Iterable[Reviewed]) -> LeftOut:
        """Count."""
        each = [
            (len(one.judged), int((one.judged & ~one.labelled).sum()), int(one.labelled.sum()), len(one.events))
            for one in reviewed
        ]
        return cls(*(sum(column) for column in zip(*each, strict=True))) if each else cls(0, 0, 0, 0)

    @property
    def share(self) -> float:
        """Of the readings, 0 to 1."""
        return (self.judged + self.labelled) / self.readings if self.readings else 0.0

    def line(self) -> str:
        """For people."""
        if not self.judged + self.labelled:
            return f"nothing of {self.readings:,} readings was labelled or judged anomalous: all of them are taken"
        return (
            f"left out {self.judged + self.labelled:,} of {self.readings:,} readings ({self.share:.1%}): "
            f"{self.labelled:,} that were labelled ({self.events} faults), {self.judged:,} that were judged anomalous"
        )

    def as_json(self) -> dict[str, int]:
        """For a report."""
        return asdict(self)
