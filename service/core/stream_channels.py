"""StreamChannels: which channels each stream has sent, and what a batch can take of readings that name their own.

A stream's list of channels begins with those of its first reading and grows by those that later ones bring. What
counts is the list in its record. This process keeps those it has met, bounded in number, and lays readings out by
them; one that is not known is taken for what the reading names. Where a record has another list, nothing of its stream
is applied: the list is learned, and the readings are laid out again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np

from gatewatch.models.text import listed
from gatewatch.service.core.layout import Layout, layout_of
from gatewatch.service.core.outcomes import Encoder, Refused, clip, not_taken
from gatewatch.service.core.readings import Batch, Model, Part
from gatewatch.service.core.sequencing import order_of
from gatewatch.service.core.stream_key import StreamKey

ONLY: Final = "value"
"""The channel of a stream whose readings are numbers without a name."""

STREAMS_KEPT: Final = 2**18
LISTS_KEPT: Final = 2**14
LISTS_BYTES: Final = 2**24
"""Streams whose lists are known at a time; the lists, most of which many streams share; and their bytes in a record."""

ORDERS_KEPT: Final = 1024
"""Readings with a part of a list, or in another order than the list, that are laid out without a look at each name."""

Row = tuple[float | None, ...]


@dataclass
class Named:
    """N readings that name their channels, in columns; see Readings."""

    model: Model
    streams: list[StreamKey] = field(default_factory=list)
    timestamps_ms: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    channels: list[tuple[str, ...] | None] = field(default_factory=list)
    values: list[Row] = field(default_factory=list)
    encoders: list[Encoder] = field(default_factory=list)

    @staticmethod
    def of(parts: Sequence[Part]) -> Named:
        """The readings of parts of one model."""
        named = Named(parts[0].readings.model)
        for readings, start, stop, encoder in parts:
            taken = slice(start, stop)
            named.streams += readings.streams[taken]
            named.timestamps_ms += readings.timestamps_ms[taken]
            named.seqs += readings.seqs[taken]
            named.channels += (readings.channels or [])[taken]
            named.values += readings.values[taken]
            named.encoders += [encoder] * (stop - start)
        return named

    @staticmethod
    def moved(batch: Batch, places: Sequence[int], model: Model) -> Named:
        """The readings of a batch at these places for another model, which takes any channels."""
        sent = [batch.sent_at(place) for place in places]
        return Named(
            model,
            [batch.streams[place] for place in places],
            batch.timestamps_ms[places].tolist(),
            batch.seqs[places].tolist(),
            [tuple(values) for values in sent],
            [tuple(values.values()) for values in sent],
            [batch.encoders[place] for place in places],
        )

    def in_order(self, places: Sequence[int]) -> Sequence[int]:
        """Places so that each stream's readings are in their order."""
        if len({self.streams[place] for place in places}) == len(places):
            return places
        return sorted(places, key=lambda place: order_of(self.seqs[place], self.timestamps_ms[place]))


@dataclass
class _Group:
    places: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)


@dataclass
class Plan:
    """What is done next with readings that name their channels.

    Attributes:
        batches: those that can be scored now, by number of channels, and their places.
        refused: place to why a reading cannot be.
        unsure: streams whose record has to be asked for its list.
        left: places of readings that come after one of these.
    """

    batches: list[tuple[Batch, list[int]]]
    refused: dict[int, Refused]
    unsure: set[StreamKey]
    left: list[int]


class StreamChannels:
    """The lists that this process knows."""

    def __init__(self, most: int) -> None:
        """`most`: channels that a stream may have."""
        self.most = most
        self._known: dict[StreamKey, Layout] = {}
        self._streams_of: dict[Layout, int] = {}
        self._bytes = 0

    def knows(self, stream: StreamKey) -> bool:
        """Whether a stream's list was learned."""
        return stream in self._known

    def differs(self, stream: StreamKey, layout: Layout) -> bool:
        """Whether a stream's list was learned, and was another one."""
        known = self._known.get(stream)
        return known is not None and known.channels != layout.channels

    def learn(self, stream: StreamKey, layout: Layout | None) -> None:
        """A stream's record has this list; None where there is no record."""
        before = self._known.get(stream)
        if before is layout:
            return
        if before is not None:
            del self._known[stream]
            self._streams_of[before] -= 1
            if not self._streams_of[before]:
                del self._streams_of[before]
                self._bytes -= len(before.encoded)
        if layout is None:
            return
        if len(self._known) >= STREAMS_KEPT or len(self._streams_of) >= LISTS_KEPT or self._bytes >= LISTS_BYTES:
            self._known.clear()
            self._streams_of.clear()
            self._bytes = 0
        if layout not in self._streams_of:
            self._bytes += len(layout.encoded)
        self._known[stream] = layout
        self._streams_of[layout] = self._streams_of.get(layout, 0) + 1

    def plan(self, named: Named, places: Sequence[int], sure: set[StreamKey]) -> Plan:
        """Lay readings out by the lists of their streams, up to the first of each stream that changes its list.

        A reading that brings a channel is the last one of its stream in a batch: its list grows when it is applied.

        Args:
            places: those that wait.
            sure: streams whose lists were just read.
        """
        plan = Plan([], {}, set(), [])
        groups: dict[int, _Group] = {}
        lists: dict[StreamKey, Layout | None] = {}
        closed: set[StreamKey] = set()
        known, streams, channels, values = self._known, named.streams, named.channels, named.values
        for place in named.in_order(places):
            stream, sent = streams[place], channels[place]
            if stream in closed:
                plan.left.append(place)
                continue
            layout = lists.get(stream) or known.get(stream)
            if layout is not None and layout.channels == sent:
                row = values[place]
            else:
                found = self._list_for(sent, layout)
                if (isinstance(found, str) or (not sent and layout is None)) and stream not in sure:
                    plan.unsure.add(stream)
                    closed.add(stream)
                    plan.left.append(place)
                    continue
                if isinstance(found, str):
                    plan.refused[place] = not_taken(
                        streams[place], named.timestamps_ms[place], named.seqs[place], found
                    )
                    continue
                if layout is not None and found is not layout:
                    if stream in lists:
                        plan.left.append(place)
                        closed.add(stream)
                        continue
                    closed.add(stream)
                layout, row = found, _laid_out(sent, values[place], found)
            lists[stream] = layout
            group = groups.get(len(row)) or groups.setdefault(len(row), _Group())
            group.places.append(place)
            group.rows.append(row)
            group.layouts.append(layout)
        plan.batches = [(_batch(named, group), group.places) for group in groups.values()]
        return plan

    def _list_for(self, sent: tuple[str, ...] | None, layout: Layout | None) -> Layout | str:
        """The list that a stream has with a reading, or why it cannot have it."""
        if sent is None:
            if layout is None or not layout.channels:
                return layout_of((ONLY,), (ONLY,))
            if len(layout.channels) > 1:
                return f"values is one number; this stream has {_shown(layout.channels)}: name the one it is of"
            return layout
        before = () if layout is None else layout.channels
        if not sent and not before:
            return "values is empty; expected the channels of the stream, which has sent none yet"
        new = _new(sent, before)
        if not new and layout is not None:
            return layout
        if len(before) + len(new) > self.most:
            return (
                f"values has {_shown(new)} that this stream has not sent before, and it has {len(before)}; a stream "
                f"has at most {self.most} (GATEWATCH_STREAM_CHANNELS): expected {listed(list(map(_clip, before)))}"
            )
        grown = (*before, *new)
        return layout_of(grown, grown)


def _shown(channels: Sequence[str]) -> str:
    count = f"{len(channels)} channel{'s' * (len(channels) != 1)}"
    return f"{count} ({listed(list(map(_clip, channels)))})"


def _clip(name: str) -> str:
    return clip(name) or ""


def all_channels(lists: Iterable[tuple[str, ...] | None]) -> tuple[str, ...]:
    """The names of several lists, each once, in their order."""
    return tuple(dict.fromkeys(name for channels in lists if channels for name in channels))


@lru_cache(ORDERS_KEPT)
def _new(sent: tuple[str, ...], before: tuple[str, ...]) -> tuple[str, ...]:
    known = set(before)
    return tuple(name for name in sent if name not in known)


@lru_cache(ORDERS_KEPT)
def _sources(sent: tuple[str, ...], channels: tuple[str, ...]) -> list[int]:
    """Of each channel where it stands among those sent; behind them where it was not."""
    at = {name: place for place, name in enumerate(sent)}
    return [at.get(name, len(sent)) for name in channels]


def _laid_out(sent: tuple[str, ...] | None, values: Row, layout: Layout) -> Row:
    if sent is None:
        return values
    with_missing = (*values, None)
    return tuple([with_missing[at] for at in _sources(sent, layout.channels)])


def _batch(named: Named, group: _Group) -> Batch:
    values = np.array(group.rows, np.float64).reshape(len(group.rows), -1)  # None becomes NaN
    values += 0.0  # -0.0 is the same reading as 0.0
    return Batch(
        named.model.sized(values.shape[1]),
        [named.streams[place] for place in group.places],
        np.array([named.timestamps_ms[place] for place in group.places], np.int64),
        np.array([named.seqs[place] for place in group.places], np.int64),
        values,
        [named.encoders[place] for place in group.places],
        group.layouts,
    )
