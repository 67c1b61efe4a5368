"""Scorer: score a batch of readings, whatever streams they are of; load, step, judge, save. The core loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
import structlog

from gatewatch.service.clock import Clock
from gatewatch.service.core import records as state
from gatewatch.service.core.applying import Applied, apply
from gatewatch.service.core.bookkeeping import Bookkeeping
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import layout_of
from gatewatch.service.core.loading import LoadedBatch, Loader
from gatewatch.service.core.outcomes import Answer, Outcomes, encode, not_taken
from gatewatch.service.core.readings import Batch, Model, Models, Part, batch_of, by_model
from gatewatch.service.core.repeats import Repeats
from gatewatch.service.core.sequencing import Round, joined, rounds_of, without
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_channels import Named, StreamChannels
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.errors import (
    Contended,
    NewerRecord,
    PartlyUnavailable,
    StoreUnavailable,
    concerns_all,
    other_channels,
)
from gatewatch.service.incidents.recorder import Recorder
from gatewatch.service.incidents.writing import IncidentWriter
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

OTHER_CHANNELS: Final = object()
"""In the place of an answer: the reading's stream has other channels than was presumed, which are known now."""

SMALL_BATCH: Final = 32
"""Readings; so few are scored on the event loop, in a millisecond or two: a thread's hand-over costs 0.1 ms more."""


MODELS_BESIDE: Final = 8
"""Models of a batch whose readings are scored at a time: while Redis saves for one, the others are stepped."""


class Watcher(Protocol):
    """Is shown what was scored and saved, beside the way of an answer."""

    def scored(
        self, model: Model, rounds: Sequence[tuple[Round, Entries]], loaded: LoadedBatch, lost: AbstractSet[StreamKey]
    ) -> None:
        """Readings were applied and saved, but for those of `lost` streams. Takes no time, and never raises."""


class Scorer:
    """Scores batches over one store, each reading with the model that it came for.

    Attributes:
        watchers: are shown what was scored.
    """

    def __init__(
        self,
        models: Models,
        store: Store,
        loader: Loader,
        repeats: Repeats,
        incidents: Recorder,
        writer: IncidentWriter,
        books: Bookkeeping,
        backoff: ContentionBackoff,
        takeover: Takeover,
        metrics: Metrics,
        clock: Clock,
        save_attempts: int,
        stream_channels: int,
    ) -> None:
        self.watchers: tuple[Watcher, ...] = ()
        self._models = models
        self._channels = StreamChannels(stream_channels)
        self._store = store
        self._loader = loader
        self._repeats = repeats
        self._incidents = incidents
        self._writer = writer
        self._books = books
        self._backoff = backoff
        self._takeover = takeover
        self._metrics = metrics
        self._clock = clock
        self._attempts = save_attempts

    async def score_batch(self, parts: Sequence[Part]) -> list[Answer]:
        """Score readings of any streams; a stream's readings are applied in order of seq, or else of timestamp.

        A stream that another process wrote meanwhile is loaded and scored again, without the others.

        Returns:
            Each reading's answer, in the order given, as its encoder wrote it while the store saved; the future of it
            for a late reading that may take its place; why it was refused; or the error that its stream or its model
            met alone: Contended, if other processes wrote it `save_attempts` times, TooManyWaiting, if too many late
            ones wait, PartlyUnavailable, ModelFailed, or whatever else went wrong with readings of that model.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        await self._takeover.claim()
        groups = by_model(parts)
        if len(groups) == 1:
            return await _apart(self._score_parts(parts), len(groups[0][1]))
        answers: list[Answer] = [None] * sum(len(places) for _, places in groups)
        waiting, failed = iter(groups), list[BaseException]()

        async def work() -> None:
            for own, places in waiting:
                try:
                    scored = await _apart(self._score_parts(own), len(places))
                except Exception as error:
                    failed.append(error)
                if failed:  # the others are saved or fail by themselves; nothing more is begun
                    return
                for place, answer in zip(places, scored, strict=True):
                    answers[place] = answer

        beside = 1 if _share_streams(groups) else MODELS_BESIDE
        await asyncio.gather(*(work() for _ in range(min(beside, len(groups)))))
        if failed:
            raise failed[0]
        return answers

    def forget_channels(self, stream: StreamKey) -> None:
        """A stream may have another list of channels than before."""
        self._channels.learn(stream, None)

    async def ping(self) -> bool:
        """Whether the store answers at once."""
        return await self._store.ping()

    async def _score_parts(self, parts: Sequence[Part]) -> list[Answer]:
        """Score parts of one model."""
        with self._metrics.stage("parse"):
            if parts[0].readings.model.any_channels:
                named = Named.of(parts)
            else:
                batch = batch_of(parts)
                return await self._score(batch)
        return await self._score_named(named)

    async def _score_named(self, named: Named) -> list[Answer]:
        """Score readings that name their channels: batch after batch, until no list of a stream changes any more."""
        answers: list[Answer] = [None] * len(named.streams)
        waiting, sure, left = list(range(len(named.streams))), set[StreamKey](), self._attempts + 2
        while waiting:
            with self._metrics.stage("parse"):
                plan = self._channels.plan(named, waiting, sure)
            before = len(waiting)
            for place, refused in plan.refused.items():
                answers[place] = refused
            if plan.refused:
                self._metrics.answered("rejected", len(plan.refused))
            if plan.unsure:
                await self._ask_for_channels(list(plan.unsure))
                sure |= plan.unsure
            waiting = plan.left
            for batch, places in plan.batches:
                for place, answer in zip(places, await _apart(self._score(batch), len(places)), strict=True):
                    if answer is OTHER_CHANNELS:
                        sure.add(named.streams[place])
                        waiting.append(place)
                    else:
                        answers[place] = answer
            if not plan.unsure and len(waiting) == before:
                left -= 1
                if not left:
                    streams = {named.streams[place] for place in waiting}
                    error = Contended(f"other processes kept writing {len(streams)} streams; send the readings again")
                    for place in waiting:
                        answers[place] = error
                    break
            waiting.sort()
        return answers

    async def _ask_for_channels(self, streams: list[StreamKey]) -> None:
        """Learn the lists of streams from their records."""
        packed, seeds = await self._store.load(streams), self._store.seeds(streams)
        for stream, record, seed in zip(streams, packed, seeds, strict=True):
            part = state.stream_part(record or b"", seed)
            self._channels.learn(stream, layout_of(part[1].channels, part[1].channels) if part else None)

    async def _score(self, batch: Batch) -> list[Answer]:
        answers: list[Answer] = [None] * len(batch)
        waiting: Sequence[int] = range(len(batch))
        moved: set[int] = set()
        try:
            while waiting:
                try:
                    await self._score_until_saved(batch, waiting, answers, moved)
                    break
                except PartlyUnavailable as error:  # the others go on without those that it affects
                    affected = {place for place in waiting if error.affects(batch.streams[place])}
                    if not affected:
                        raise
                    for place in affected:
                        answers[place] = error
                    waiting = [place for place in waiting if place not in affected]
                    moved -= affected
        finally:
            self._loader.over(batch.streams)
        if moved:
            for model, places in (await self._by_model(batch, sorted(moved), answers)).values():
                if model.any_channels:
                    scoring = self._score_named(Named.moved(batch, places, model))
                else:
                    others = batch.moved(places, model)
                    self._metrics.unknown_channels(others.partly_known)
                    scoring = self._score(others)
                for place, answer in zip(places, await _apart(scoring, len(places)), strict=True):
                    answers[place] = answer
        return answers

    async def _by_model(
        self, batch: Batch, places: Iterable[int], answers: list[Answer]
    ) -> dict[int, tuple[Model, list[int]]]:
        """Readings by the models that their streams have by now; a stream whose model cannot be had gets the error."""
        groups: dict[int, tuple[Model, list[int]]] = {}
        models: dict[StreamKey, Model] = {}
        for place in places:
            stream = batch.streams[place]
            try:
                model = models[stream] = models.get(stream) or await self._models.of(stream)
            except StoreUnavailable as error:
                answers[place] = error
                continue
            if not batch.fits(place, model):
                answers[place] = other_channels(stream)
            else:
                groups.setdefault(id(model), (model, []))[1].append(place)
        return groups

    async def _score_until_saved(
        self, batch: Batch, waiting: Sequence[int], answers: list[Answer], moved: set[int]
    ) -> None:
        """Score those readings of a batch that wait, into `answers`.

        Args:
            moved: gets the places of readings whose streams have another model by now.
        """
        left, deep = self._attempts, len(batch)
        while waiting:
            streams, rounds = rounds_of(batch, waiting)
            began, load = self._clock.monotonic(), self._metrics.stage("load")
            async with self._store.begin(streams, cached=not self._backoff.shares(streams)) as work:
                loaded = await self._loader.load(
                    batch.model, streams, work.packed, work.from_cache, batch.layouts_of(streams)
                )
                if loaded.moved:
                    load.done()
                    if await work.confirmed(False):
                        moved.update(place for place in waiting if batch.streams[place] in loaded.moved)
                        waiting = [place for place in waiting if place not in moved]
                    continue
                if loaded.newer:
                    waiting, rounds = _without_newer(batch, waiting, rounds, loaded, answers)
                if batch.layouts is not None:
                    waiting, rounds = self._elsewhere(waiting, rounds, loaded, answers)
                await self._loader.admit(loaded)
                self._backoff.loaded(streams, loaded.fences, began)
                load.done()
                taken, into = batch, dict[int, int]()
                if np.count_nonzero(loaded.records["join"]):
                    taken, rounds, into = joined(batch, rounds, loaded.records)
                if any(own.hold and own.minimum for own in loaded.rules.values()):
                    deep = 1  # what was held for nothing is let go with the reading that shows it
                later = {place for round_ in rounds[deep:] for place in round_.places.tolist()}
                later |= {place for place, first in into.items() if first in later}
                with self._metrics.stage("step"):
                    applied = await self._apply(taken, rounds[:deep], loaded)
                if not await work.confirmed(not (applied.seen or applied.refused)):
                    self._loader.first_look.forget(loaded.seeds)
                    continue
                with self._metrics.stage("save"):
                    if applied.writes.streams:
                        applied.writes.incidents = await self._incidents.writes(
                            batch.model, loaded, applied, work.packed
                        )
                        self._writer.mute(applied.writes)
                        await work.send(applied.writes)
                    _answer_applied(answers, batch, applied, loaded)
                    try:
                        saved = await work.saved()
                    except StoreUnavailable:
                        self._books.unsure(applied, loaded.streams)
                        raise
            written = applied.writes.streams
            lost = {stream for stream, ok in zip(written, saved, strict=True) if not ok}
            now = self._clock.monotonic()
            self._incidents.saved(applied, lost)
            self._backoff.saved(written, applied.writes.records, lost - work.failed.keys(), now - began, now)
            if work.unsure:
                self._books.unsure(applied, loaded.streams, lost)
            await self._books.count(batch, applied, loaded, lost)
            for watcher in self.watchers:
                watcher.scored(batch.model, applied.rounds, loaded, lost)
            kept = set(written) - lost
            await self._loader.saved(loaded, kept)
            if batch.layouts is not None:
                self._learn(loaded, kept)
                self._books.joined(loaded, kept)
            if seen := [(place, row) for place, row in applied.seen if loaded.streams[row] not in lost]:
                apart = await self._repeats.apart(batch, seen, into, loaded) if into else []
                alone = {place for place, _ in apart}
                into = {place: first for place, first in into.items() if place not in alone}
                later |= await self._repeats.answer(answers, batch, apart, loaded)
                rest = [(place, row) for place, row in seen if place not in alone]
                later |= await self._repeats.answer(answers, taken, rest, loaded)
            for place, first in into.items():
                answers[place] = answers[first]
            if work.failed:
                away = {place for place in waiting if batch.streams[place] in work.failed}
                for place in away:
                    answers[place] = work.failed[batch.streams[place]]
                later.difference_update(away)
                lost.difference_update(work.failed)
            if lost:
                if work.from_cache:
                    rows = [row for row, stream in enumerate(loaded.streams) if stream in lost]
                    self._loader.first_look.forget([loaded.seeds[row] for row in rows])
                left, deep = left - 1, max(1, len(rounds[:deep]) // 2)  # what takes less time is less often overtaken
                if not left:
                    error = Contended(f"other processes kept writing {len(lost)} streams; send the readings again")
                    contended = {place for place in waiting if batch.streams[place] in lost}
                    answers[:] = [error if at in contended else answer for at, answer in enumerate(answers)]
                    later.difference_update(contended)
                    left, lost = self._attempts, set()
            left_over = waiting if lost or later else ()
            waiting = [p for p in left_over if batch.streams[p] in lost or p in later or into.get(p) in later]

    def _elsewhere(
        self, waiting: Sequence[int], rounds: list[Round], loaded: LoadedBatch, answers: list[Answer]
    ) -> tuple[Sequence[int], list[Round]]:
        """What is left of a batch without streams that have other channels than was presumed, which are learned."""
        for row in [row for row in loaded.new if self._channels.knows(loaded.streams[row])]:
            loaded.others[row] = None
            loaded.new.remove(row)
        for row in [
            row for row, before in loaded.before.items() if self._channels.differs(loaded.streams[row], before)
        ]:
            loaded.others[row] = loaded.before.pop(
                row
            )  # the list became shorter: the stream goes on from another state
        if not loaded.others:
            return waiting, rounds
        for row, layout in loaded.others.items():
            self._channels.learn(loaded.streams[row], layout)
        rounds, places = without(rounds, set(loaded.others))
        for place in places:
            answers[place] = OTHER_CHANNELS
        elsewhere = set(places)
        return [place for place in waiting if place not in elsewhere], rounds

    def _learn(self, loaded: LoadedBatch, saved: set[StreamKey]) -> None:
        """Note the lists of streams as their records have them."""
        unsaved = loaded.before.keys() | loaded.others.keys() | loaded.newer | set(loaded.new)
        for row, (stream, layout) in enumerate(zip(loaded.streams, loaded.layouts, strict=True)):
            if stream in saved or row not in unsaved:
                self._channels.learn(stream, layout)

    async def _apply(self, batch: Batch, rounds: list[Round], loaded: LoadedBatch) -> Applied:
        arguments: tuple[Any, ...] = batch, rounds, loaded, self._clock.unix_ms()
        applied = apply(*arguments) if len(batch) <= SMALL_BATCH else await asyncio.to_thread(apply, *arguments)
        if applied.clocks_set_back:
            self._metrics.clock_stepped(applied.clocks_set_back)
        return applied


async def _apart(scoring: Awaitable[list[Answer]], readings: int) -> list[Answer]:
    """The answers to readings of one model; where it or their streams are in trouble, that instead of each.

    Raises what concerns all, see errors.concerns_all.
    """
    try:
        return await scoring
    except Exception as error:
        if concerns_all(error):
            raise
        return [error] * readings


def _without_newer(
    batch: Batch, waiting: Sequence[int], rounds: list[Round], loaded: LoadedBatch, answers: list[Answer]
) -> tuple[Sequence[int], list[Round]]:
    """What is left of a batch without streams that only a later version can read; their readings are refused."""
    rounds, places = without(rounds, loaded.newer)
    for place in places:
        stream, error = batch.streams[place], NewerRecord([batch.streams[place]])
        moment, seq = int(batch.timestamps_ms[place]), int(batch.seqs[place])
        answers[place] = replace(not_taken(stream, moment, seq, str(error)), instead=error)
    refused = set(places)
    return [place for place in waiting if place not in refused], rounds


def _share_streams(groups: Sequence[tuple[Sequence[Part], Sequence[int]]]) -> bool:
    """Whether a stream has readings for several models, as where its rule has just changed: they keep their order."""
    streams = [{name for part in own for name in part.readings.streams[part.start : part.stop]} for own, _ in groups]
    return len(set().union(*streams)) < sum(map(len, streams))


def _answer_applied(answers: list[Answer], batch: Batch, applied: Applied, loaded: LoadedBatch) -> None:
    """Have the answers written of what was applied; of streams that another process wrote they are written again."""
    for place, refused in applied.refused.items():
        answers[place] = refused
    for round_, entries in applied.rounds:
        streams = [loaded.streams[row] for row in round_.rows.tolist()]
        places = round_.places.tolist()
        if batch.layouts is None:
            channels = [batch.model.detector.channels] * len(places)
        else:
            channels = [batch.layouts[place].channels for place in places]
        outcomes = Outcomes(streams, entries, channels, replayed=False)
        encoders = [batch.encoders[place] for place in places]
        for place, answer in zip(places, encode(encoders, outcomes), strict=True):
            answers[place] = answer
