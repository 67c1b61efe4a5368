"""AnyChannels: the general model for streams whose channels are those that they have sent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.service.core.history import Entries, gathered
from gatewatch.service.core.layout import layout_of
from gatewatch.service.core.records import KEPT, STREAM_FIELDS, Records
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.serving.served_model import ServedModel

NAMED_KEPT: Final = 256
"""Steppers for lists of channels, which only streams need that begin, grow or are recovered."""


class NamedStepper(Stepper):
    """Moves records of streams with one list of channels."""

    def __init__(self, detector: GeneralDetector, history_readings: int) -> None:
        super().__init__(detector, history_readings)
        self._general = detector

    def rebuild(self, histories: Sequence[Entries], asked: Asked | None = None) -> Records:
        """As of any stepper; but each channel begins with the reading that brought it, as it did then."""
        records = super().rebuild(histories, asked)
        for row, entries in enumerate(histories):
            known = _known(entries)
            if not known.all() and known[0].any():
                own = None if asked is None else asked.at([row])
                self._rebuild_grown(records[row : row + 1], entries, known, own)
        return records

    def _rebuild_grown(
        self,
        record: Records,
        entries: Entries,
        known: NDArray[np.bool_],
        asked: Asked | None,
    ) -> None:
        """Put the state after a history into a (1,) record.

        Args:
            known: (N, C) the channels that the stream had with each reading.
            asked: (1,) as in `step`.
        """
        begins = [0, *(np.flatnonzero((known[1:] != known[:-1]).any(axis=1)) + 1).tolist(), len(entries)]
        state, before = self.detector.initial(1), self.detector.channels
        head: Records | None = None
        for start, stop in pairwise(begins):
            there = np.flatnonzero(known[start])
            own = None if asked is None else asked.of_channels(there)
            names = tuple(self.detector.channels[at] for at in there)
            stepper = Stepper(self._general.watching(names), self.slots)
            grown = stepper.fresh(1)
            grown["status"] = entries["status"][0] & KEPT
            if head is not None:
                for name in (*STREAM_FIELDS, "level"):
                    grown[name] = head[name]
                grown["present"][0, [names.index(name) for name in before]] = head["present"][0]
            grown["detector"] = stepper.detector.carried_over(state.tobytes(), before)
            readings = gathered(entries[start:stop], layout_of(self.detector.channels, names))
            stepper.replay(grown, [readings], asked=own)
            head, state, before = grown, grown["detector"], names
        assert head is not None  # noqa: S101 - there are readings
        record["detector"] = self.detector.carried_over(state.tobytes(), before)
        record["score"], record["status"], record["level"] = head["score"], head["status"], head["level"]
        record["present"] = False
        record["present"][0, there] = head["present"][0]


def _known(entries: Entries) -> NDArray[np.bool_]:
    """(N, C) which channels the stream had sent with each of its readings, or before."""
    return np.logical_or.accumulate(np.isfinite(entries["attribution"]) | np.isfinite(entries["values"]), axis=0)


class AnyChannels(ServedModel):
    """The general model as it is served to streams of one number of channels.

    It takes each channel for itself, so what it needs of a stream is how many there are; their names are the stream's.
    There is one of these for each number, made when first needed; they share the network, so that a batch is divided by
    number and not by list.

    Attributes:
        detector: its channels have no names that mean anything.
    """

    any_channels = True

    def __init__(
        self,
        detector: GeneralDetector,
        decoder: ReadingDecoder,
        history_readings: int,
        sizes: dict[int, AnyChannels] | None = None,
    ) -> None:
        """`sizes`: those for other numbers, by number."""
        super().__init__(detector, decoder, history_readings)
        self._general = detector
        self._history_readings = history_readings
        self._sizes = {} if sizes is None else sizes
        self._sizes[len(detector.channels)] = self
        self._named: dict[tuple[str, ...], Stepper] = {}

    @property
    def identity(self) -> str:
        """What tells two served models apart: the model, and that it takes any channels."""
        return f"{self.detector.name}/any"

    def sized(self, channels: int) -> AnyChannels:
        """The one for streams of so many channels."""
        if (sized := self._sizes.get(channels)) is None:
            detector = self._general.watching([str(at) for at in range(channels)])
            sized = AnyChannels(detector, self.decoder, self._history_readings, self._sizes)
        return sized

    def named(self, channels: tuple[str, ...]) -> Stepper:
        """A stepper whose detector has these channels by name."""
        if (stepper := self._named.get(channels)) is None:
            if len(self._named) >= NAMED_KEPT:
                self._named.clear()
            stepper = self._named[channels] = NamedStepper(self._general.watching(channels), self._history_readings)
        return stepper
