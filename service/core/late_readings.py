"""Late readings that wait for their places, and what they are laid out by."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gatewatch.service.core.layout import Layout, layout_of
from gatewatch.service.core.outcomes import Answer
from gatewatch.service.core.readings import NO_SEQ, Batch, Model
from gatewatch.service.core.stream_channels import all_channels

T = TypeVar("T")


@dataclass(frozen=True)
class LateReading:
    """A late reading, where it stands in its batch, and the future of its answer."""

    batch: Batch
    place: int
    done: asyncio.Future[Answer]

    @property
    def layout(self) -> Layout:
        """That its row is in, of a model that takes any channels."""
        return (self.batch.layouts or ())[self.place]

    @property
    def seq(self) -> int:
        return int(self.batch.seqs[self.place])

    @property
    def time_ms(self) -> int:
        return int(self.batch.timestamps_ms[self.place])

    @property
    def identity(self) -> int:
        return self.time_ms if self.seq == NO_SEQ else self.seq


@dataclass
class WaitingReadings:
    """The late readings of one stream that wait.

    Attributes:
        steps: what they are taken to cost, in readings to be replayed.
        attempts: how often they were begun in vain.
    """

    late: list[LateReading] = field(default_factory=list)
    steps: int = 0
    attempts: int = 0


def for_model(late: list[LateReading], model: Model) -> list[LateReading]:
    """Late readings of a stream in the channels of the model that it has."""
    if model.any_channels:
        channels = all_channels(_names(one) for one in late)
        return [relaid(one, model, layout_of(channels, channels)) for one in late]
    return [
        one if one.batch.model is model else replace(one, batch=one.batch.moved([one.place], model), place=0)
        for one in late
    ]


def _names(late: LateReading) -> tuple[str, ...]:
    """The channels of the list that a late reading was laid out by; of one for another model, those that it has."""
    return tuple(late.batch.sent_at(late.place)) if late.batch.layouts is None else late.layout.channels


def give(late: LateReading, answer: Answer) -> None:
    if not late.done.done():
        late.done.set_result(answer)


def alike(late: list[LateReading]) -> list[LateReading]:
    """Late readings of a stream laid out alike, though its list of channels may have grown between them."""
    model = late[0].batch.model
    if not model.any_channels or len({id(one.batch.layouts and one.layout) for one in late}) == 1:
        return late
    return for_model(late, model)


def relaid(late: LateReading, model: Model, layout: Layout) -> LateReading:
    """A late reading for a model that takes any channels, in a layout of its stream."""
    if late.batch.layouts is not None and late.layout is layout and late.batch.model is model.sized(len(layout.model)):
        return late
    return replace(late, batch=late.batch.relaid(late.place, model, layout), place=0)


def by_model(owned: Iterable[tuple[T, LateReading]]) -> list[tuple[Model, list[T]]]:
    """Things by the model of a late reading of each."""
    groups: dict[int, tuple[Model, list[T]]] = {}
    for thing, late in owned:
        groups.setdefault(id(late.batch.model), (late.batch.model, []))[1].append(thing)
    return list(groups.values())
