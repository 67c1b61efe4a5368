"""Shadows: versions that score a share of the streams beside the model that answers, and are only counted.

What was scored and saved is copied for the shadow, and nothing else is done on the way of an answer. A task of its own
steps the shadow in pieces of about a millisecond, while no reading waits for a batch, and rests three times as long
after each. What finds no room is dropped and counted.

A shadow's states live in this process only. Each begins with a replay of the stream's history, as it would after a
promotion, and readings that another process scored are replayed from there too. So nothing has to be kept of them, and
a process that ends loses only the time of a replay. A stream is in the share by a hash of its name: every process
chooses the same ones, and each compares the readings that it scored itself.
"""

from __future__ import annotations

import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, Protocol

import numpy as np
import structlog

from gatewatch.models.artefact.versions import Reference
from gatewatch.models.detectors.asked import Asked
from gatewatch.models.detectors.detector import ANOMALOUS, WARMING_UP, Detector
from gatewatch.models.detectors.incidents import calms, unlearn, with_incidents_ended
from gatewatch.models.errors import ArtefactError
from gatewatch.service.background import repeat
from gatewatch.service.core import history
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import layout_of, of_ring
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model
from gatewatch.service.core.sequencing import Round
from gatewatch.service.core.stepper import kept_from_learning, unlearned
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.rules import Assignment, Chosen, Shadow
from gatewatch.service.serving.shadow_stream import ShadowStream, Taken, columns_of, in_channels

log = structlog.get_logger(__name__)

PIECE: Final = 16
"""Streams stepped together: about a millisecond with either shipped model."""

REST: Final = 3.0
"""Times what a piece took, until the next one: shadows take at most a quarter of a core."""

BUSY_S: Final = 0.005
IDLE_S: Final = 0.25
"""Until the next look, where readings wait for the model that answers, and where nothing waits for a shadow."""

WAITING: Final = 10_000
"""Readings that wait for a shadow in a process."""

CATCH_UP: Final = 16
CATCH_UP_S: Final = 2.0
"""Histories read at a time, and the time between two looks into that of one stream."""

FLUSH_S: Final = 2.0
UNUSED_S: Final = 600.0
LOSS_LIMIT: Final = 10.0
"""Half widths of the band; a forecast that is farther off counts as so far off."""

NAMES_KEPT: Final = 65_536


class Histories(Protocol):
    """What is asked of a store."""

    def seeds(self, streams: Sequence[StreamKey]) -> list[int]:
        """Where the checksums of the streams' records start."""

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The streams' history rings, empty for a stream without one. Raises StoreUnavailable."""


class Figures(Protocol):
    """Where figures are summed up."""

    async def add(self, model: str, number: int, sums: Mapping[str, float]) -> None:
        """Add to a shadow's sums. Raises StoreUnavailable."""


class Policies(Protocol):
    """Knows what is asked of streams."""

    def asked(self, streams: Sequence[StreamKey], channels: Sequence[Sequence[str]]) -> Asked | None:
        """What is asked of the scoring of B streams, in these channels each; None where that is nothing."""


class Source(Protocol):
    """Has models of the repository in memory."""

    async def get(self, chosen: Chosen) -> Model:
        """A model, loaded if need be. Raises ArtefactError."""


def in_share(stream: StreamKey, share: float) -> bool:
    """Whether a stream belongs to a share of all, by a hash of its name."""
    return zlib.crc32(stream.name.encode()) < share * 2**32


class _Run:
    """One shadow in this process."""

    def __init__(self, name: str, shadow: Shadow) -> None:
        self.name = name
        self.shadow = shadow
        self.model: Model | None = None
        self.streams: dict[StreamKey, ShadowStream] = {}
        self.ready: deque[StreamKey] = deque()
        self.behind: dict[StreamKey, None] = {}
        self.sums: defaultdict[str, float] = defaultdict(float)
        self._chosen: dict[StreamKey, bool] = {}

    def takes(self, stream: StreamKey) -> bool:
        """Whether a stream is in the share; it is remembered."""
        known = self._chosen.get(stream)
        if known is None:
            if len(self._chosen) >= NAMES_KEPT:
                self._chosen.clear()
            known = self._chosen[stream] = in_share(stream, self.shadow.share)
        return known

    def detector(self, names: tuple[str, ...]) -> Detector:
        """The shadow's, for a stream of these channels."""
        assert self.model is not None  # noqa: S101 - nothing is stepped before it is loaded
        return self.model.named(names).detector


class Shadows:
    """The shadows that this process runs."""

    def __init__(
        self,
        store: Histories,
        figures: Figures,
        source: Source,
        policies: Policies,
        metrics: Metrics,
        most_streams: int,
        is_busy: Callable[[], bool],
    ) -> None:
        """Begin with none.

        Args:
            most_streams: that all shadows follow in this process.
            is_busy: whether readings wait for a batch.
        """
        self._store = store
        self._figures = figures
        self._source = source
        self._policies = policies
        self._metrics = metrics
        self._most_streams = most_streams
        self._is_busy = is_busy
        self._runs: dict[str, _Run] = {}
        self._of_digest: dict[bytes, _Run] = {}
        self._waiting = 0
        self._flushed_at = time.monotonic()

    @property
    def any(self) -> bool:
        """Whether there is a shadow with something to score, so that `scored` is to be called."""
        return bool(self._of_digest)

    def follow(self, assignment: Assignment) -> None:
        """Go by a new assignment: begin and end shadows."""
        runs = {}
        for name, shadow in assignment.shadows.items():
            known = self._runs.get(name)
            if known is None or known.shadow != shadow:
                known = _Run(name, shadow)
                self._metrics.shadow_begins(name)
            runs[name] = known
        self._runs = runs
        self._waiting = sum(len(one.waiting) for run in runs.values() for one in run.streams.values())
        self._of_digest = {
            chosen.digest: run
            for reference, chosen in assignment.versions.items()
            if (run := runs.get(Reference.of(reference).model)) and run.shadow.chosen.sha256 != chosen.sha256
        }

    def scored(
        self, model: Model, rounds: Sequence[tuple[Round, Entries]], loaded: LoadedBatch, lost: AbstractSet[StreamKey]
    ) -> None:
        """Copy what the shadow of a model is to score."""
        run = self._of_digest.get(model.detector.digest)
        if run is None:
            return
        for round_, entries in rounds:
            for at, row in enumerate(round_.rows.tolist()):
                stream = loaded.streams[row]
                if run.takes(stream) and stream not in lost:
                    self._take(run, stream, Taken(entries[at].copy(), loaded.layouts[row].model))

    def _take(self, run: _Run, stream: StreamKey, taken: Taken) -> None:
        one = run.streams.get(stream)
        if self._waiting >= WAITING or (one is None and self._followed() >= self._most_streams):
            run.sums["dropped"] += 1
            return
        if one is None:
            one = run.streams[stream] = ShadowStream()
        one.used_at = time.monotonic()
        if not one.waiting and not one.replay and stream not in run.behind:
            run.ready.append(stream)
        one.waiting.append(taken)
        self._waiting += 1

    def _followed(self) -> int:
        return sum(len(run.streams) for run in self._runs.values())

    async def run(self) -> None:
        """Step the shadows while there is time, until cancelled."""

        async def step() -> float:
            rests = [await self._work(run) for run in list(self._runs.values())]
            await self._flush()
            return min(rests, default=IDLE_S)

        await repeat(step, "a shadow cannot be scored", IDLE_S)

    async def _work(self, run: _Run) -> float:
        """Do a piece of a shadow's work; returns the seconds to rest."""
        if run.model is None:
            if not run.streams:
                return IDLE_S
            try:
                run.model = await self._source.get(run.shadow.chosen)
            except ArtefactError:  # said by LoadedModels
                return IDLE_S
        if self._is_busy():
            return BUSY_S
        if run.behind and len(run.ready) < PIECE:
            await self._catch_up(run)
        if not run.ready:
            return IDLE_S
        began = time.perf_counter()
        self._piece(run)
        took = time.perf_counter() - began
        run.sums["seconds"] += took
        return REST * took

    def _piece(self, run: _Run) -> None:
        """Step the next reading of some streams of the same channels."""
        entries: list[Any] = []
        keys: list[StreamKey] = []
        streams: list[ShadowStream] = []
        compared: list[bool] = []
        names: tuple[str, ...] | None = None
        for _ in range(min(len(run.ready), PIECE)):
            stream = run.ready.popleft()
            one = run.streams.get(stream)
            found = self._next(run, stream, one) if one is not None else None
            if one is None or found is None:
                continue
            entry, own, own_names = found
            if names is not None and own_names != names:
                one.replay.appendleft((entry, own))
                run.ready.append(stream)
                continue
            names = own_names
            entries.append(entry)
            keys.append(stream)
            streams.append(one)
            compared.append(own)
            if one.replay or one.waiting:
                run.ready.append(stream)
        if names is not None:
            asked = self._policies.asked(keys, [run.detector(names).channels] * len(keys))
            self._step(run, names, streams, np.array(entries), np.array(compared), asked)

    def _next(self, run: _Run, stream: StreamKey, one: ShadowStream) -> tuple[Any, bool, tuple[str, ...]] | None:
        """The next reading of a stream, whether it counts, and its channels; None where the history is needed."""
        if one.replay:
            entry, own = one.replay.popleft()
            return entry, own, one.names
        while one.waiting:
            taken = one.waiting[0]
            if one.is_next(taken) or one.begins(taken, run.detector(taken.names)):
                self._forget_one(one)
                return taken.entry, True, taken.names
            if not one.was_seen(taken):
                run.behind[stream] = None
                return None
            self._forget_one(one)
        return None

    def _forget_one(self, one: ShadowStream) -> None:
        one.waiting.popleft()
        self._waiting -= 1

    def _step(
        self,
        run: _Run,
        names: tuple[str, ...],
        streams: list[ShadowStream],
        entries: Entries,
        compared: Any,
        asked: Asked | None,
    ) -> None:
        """Feed each stream one reading; `entries` (B,) in the channels `names`, `asked` in the shadow's."""
        detector = run.detector(names)
        columns = columns_of(names, detector.channels)
        values = in_channels(entries["values"], columns)
        states = np.concatenate([one.state for one in streams if one.state is not None])
        let_go = np.array([one.was_let_go(entry) for one, entry in zip(streams, entries, strict=True)])
        if let_go.any():
            states[let_go] = with_incidents_ended(states[let_go])
        normal, silent = states.copy(), unlearned(entries)
        before = None if silent is None else states[silent]
        step = detector.advance(values, entries["timestamp_ms"], states, asked)
        if silent is not None and before is not None:
            states[silent] = unlearn(before, states[silent])
        if (kept := kept_from_learning(entries)) is not None:
            kept &= np.array([one.is_kept(entry) for one, entry in zip(streams, entries, strict=True)])
            own = states[kept]
            followed, calm = detector.held(normal[kept], own), ~detector.is_open(own)
            calms(followed)[calm] = calms(own)[calm]  # what the shadow has not found itself is not held open
            states[kept] = followed
        seen = enumerate(zip(streams, entries, strict=True))
        elapsed = np.array([one.seen(entry, states[at : at + 1].copy()) for at, (one, entry) in seen])
        judged = compared & (step.status != WARMING_UP) & (entries["status"] & state.STATUS_BITS != WARMING_UP)
        champion, shadow = entries["status"] & state.STATUS_BITS == ANOMALOUS, step.status == ANOMALOUS
        width = in_channels(entries["half"], columns)
        mid, sums = in_channels(entries["mid"], columns), run.sums
        with np.errstate(invalid="ignore", divide="ignore"):
            own, others = (np.minimum(np.abs(values - one) / width, LOSS_LIMIT) for one in (mid, step.mid))
        told = np.isfinite(own) & np.isfinite(others) & (width > 0) & np.isfinite(width) & judged[:, None]
        for name, value in (
            ("stepped", len(streams)),
            ("readings", np.count_nonzero(judged)),
            ("stream_ms", np.sum(elapsed[judged])),
            ("champion_alerts", np.count_nonzero(judged & (entries["status"] & state.ALERT > 0))),
            ("shadow_alerts", np.count_nonzero(judged & step.alert)),
            ("champion_only", np.count_nonzero(judged & champion & ~shadow)),
            ("shadow_only", np.count_nonzero(judged & shadow & ~champion)),
            ("both", np.count_nonzero(judged & shadow & champion)),
            ("losses", np.count_nonzero(told)),
            ("champion_loss", np.sum(own[told])),
            ("shadow_loss", np.sum(others[told])),
        ):
            sums[name] += float(value)

    async def _catch_up(self, run: _Run) -> None:
        """Read the histories of some streams that have readings which do not follow from what was seen."""
        now = time.monotonic()
        due = [stream for stream in run.behind if now - run.streams[stream].looked_at >= CATCH_UP_S][:CATCH_UP]
        if not due:
            return
        try:
            rings = await self._store.load_histories(due)
        except StoreUnavailable:  # which others report
            return
        for stream, ring, seed in zip(due, rings, self._store.seeds(due), strict=True):
            one = run.streams[stream]
            one.looked_at = now
            run.behind.pop(stream, None)
            waited, kept = len(one.waiting), of_ring(ring)
            names = one.waiting[-1].names if waited else ()
            if kept is not None and waited and set(names) <= set(kept):
                layout = layout_of(kept, names)
                entries = history.gathered(history.unpack_entries(ring, layout, seed), layout)
                one.catch_up(entries, names, run.detector(names))
            if not one.replay:  # it has none that goes so far: the stream was deleted
                run.sums["dropped"] += len(one.waiting)
                one.waiting.clear()
            self._waiting -= waited - len(one.waiting)
            if one.replay or one.waiting:
                run.ready.append(stream)

    async def _flush(self) -> None:
        """Tell what came together, and forget streams that do not send any more."""
        now = time.monotonic()
        if now - self._flushed_at < FLUSH_S:
            return
        self._flushed_at = now
        for run in list(self._runs.values()):
            for stream in [stream for stream, one in run.streams.items() if now - one.used_at > UNUSED_S]:
                self._waiting -= len(run.streams.pop(stream).waiting)
                run.behind.pop(stream, None)
            sums, run.sums = run.sums, defaultdict(float)
            if sums:
                self._metrics.shadow_counted(run.name, sums)
                try:
                    await self._figures.add(run.name, run.shadow.number, sums)
                except StoreUnavailable:  # counted in this process all the same
                    continue
