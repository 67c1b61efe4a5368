"""Bookkeeping: tells what was saved, once: metrics, and the log line with which an incident begins.

A process may die between saving a reading and telling of it, or never hear that it was saved. So an alert is saved
together with its reading, among the tenant's alerts to be told. Who saved it tells it and takes it off; one that stays
is taken over by whichever process claims it first. Readings whose save was not answered are remembered and counted
when their repeat shows that they were saved.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from gatewatch.models.detectors.budget_loop import at_bound, notable
from gatewatch.models.detectors.detector import STATUSES
from gatewatch.service.aside import in_slices
from gatewatch.service.background import repeat
from gatewatch.service.clock import Clock
from gatewatch.service.core import records as state
from gatewatch.service.core.alike import joined_alike
from gatewatch.service.core.history import Entries
from gatewatch.service.core.outcomes import Refused, format_time
from gatewatch.service.core.readings import Batch
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.incidents.incident import Incident, RaisedAlert, decode
from gatewatch.service.incidents.rules import counted
from gatewatch.service.observability.metrics import Metrics

if TYPE_CHECKING:
    from gatewatch.service.core.applying import Applied
    from gatewatch.service.core.loading import LoadedBatch

log = structlog.get_logger(__name__)

LOOK_S: Final = 5.0
CLAIM_S: Final = 10.0
"""An alert that stands there for so long, by the clock of the one who looks, is told by somebody else."""

UNSURE: Final = 65_536
"""Readings of which a process remembers that their save was not answered; of more, the oldest are not counted."""


class Alert(msgspec.Struct, array_like=True):
    """The reading that raised an alert, as it is saved to be told.

    Attributes:
        n: number of the reading in its stream; below 0 of a silence.
        time_ms: of the reading.
        channel, direction: as in RaisedAlert.
    """

    stream: str
    n: int
    reason: str
    score: float
    corrected: bool = False
    time_ms: int = 0
    channel: str = ""
    direction: str | None = None


class _Unsure(NamedTuple):
    """What else belongs to a reading whose save was not answered: the alert that it may have raised, and its time."""

    alert: bytes | None
    at: float


_Identity = tuple[StreamKey, int, int]
"""Stream, seq and time of a reading."""


class Bookkeeping:
    """Counts and logs what one process saved."""

    def __init__(self, metrics: Metrics, store: Store, clock: Clock, *, tells: bool = True) -> None:
        """`tells`: alerts, and ends of incidents; not where readings are of the past, or only tried."""
        self._tells_of = tells
        self._metrics = metrics
        self._store = store
        self._clock = clock
        self._unsure: dict[_Identity, _Unsure] = {}
        self._told: list[bytes] = []
        self._tells = asyncio.Event()
        self._first_seen: dict[tuple[bytes, float], float] = {}

    async def count(self, batch: Batch, applied: Applied, loaded: LoadedBatch, lost: set[StreamKey]) -> None:
        """Count what was applied and saved, and what was refused."""
        refused = sum(batch.streams[place] not in lost for place in applied.refused)
        if refused:
            self._metrics.answered("rejected", refused)
        saved = set(applied.writes.streams) - lost if loaded.causes else set()
        for row, cause in loaded.causes.items():
            if loaded.streams[row] in saved:
                self._metrics.rebuilt(cause)
                readings = len(loaded.recovered[row])
                log.warning(
                    "state rebuilt from history", stream=loaded.streams[row].name, cause=cause, readings=readings
                )
        for round_, entries in applied.rounds:
            rows = round_.rows
            if lost:
                kept = np.array([loaded.streams[row] not in lost for row in rows], bool)
                rows, entries = rows[kept], entries[kept]
            self.count_entries([loaded.streams[row] for row in rows.tolist()], entries)
        async for row, alert in in_slices(applied.writes.alerts):
            if applied.writes.streams[row] not in lost:
                self.tell(alert)
        if applied.levels is not None and self._tells_of:
            _log_moves(applied.levels, loaded, lost)
        async for write in in_slices(applied.writes.incidents if self._tells_of else ()):
            if write.ended and applied.writes.streams[write.row] not in lost:
                ended = decode(write.incident)
                if ended is not None and ended.untold is None:
                    _log_end(ended)

    def joined(self, loaded: LoadedBatch, saved: set[StreamKey]) -> None:
        """Tell of channels that streams have brought which are named like another one of theirs."""
        for row in (*loaded.new, *loaded.before):
            stream, layout = loaded.streams[row], loaded.layouts[row]
            if stream not in saved:
                continue
            before = loaded.before[row].channels if row in loaded.before else ()
            for channel, like in joined_alike(layout.channels, before):
                self._metrics.named_alike()
                log.warning("a channel is named like another one", stream=stream.name, channel=channel, like=like)

    def count_entries(self, streams: Sequence[StreamKey], entries: Entries) -> None:
        """Count readings that were applied and saved."""
        if self._unsure:  # they were not saved the first time
            for identity in _identities(streams, entries):
                self._unsure.pop(identity, None)
        self._metrics.scored(entries["score"])
        for at, count in Counter((entries["status"] & state.STATUS_BITS).tolist()).items():
            self._metrics.answered(STATUSES[at], count)
        if np.count_nonzero(entries["reason"] > state.REASON_BITS):
            self._metrics.gated(*counted(entries))

    def refused(self, refused: Refused) -> None:
        """Count a reading that was late or in conflict, or refused for what its stream has seen."""
        self._metrics.answered(refused.status, 1)

    def corrected(self, stream: StreamKey, late: Entries, alerts: Sequence[bytes]) -> None:
        """Count late readings that took their places, and tell the alerts of incidents that began with them."""
        self.count_entries([stream] * len(late), late)
        for alert in alerts:
            self.tell(alert)

    def tell(self, alert: bytes) -> None:
        """Count and log an alert; it is taken off soon after."""
        if not self._tells_of:
            return
        known = msgspec.msgpack.decode(alert, type=Alert)
        self._metrics.alerted(known.reason)
        more: dict[str, Any] = {"corrected": True} if known.corrected else {}
        if known.time_ms:  # an alert of the version before does not say more
            more |= {"at": format_time(known.time_ms), "channel": known.channel, "direction": known.direction}
        if known.n < 0:
            log.info("stream fell silent", stream=known.stream, score=known.score, readings=-known.n, at=more["at"])
        else:
            log.info("anomaly opened", stream=known.stream, score=known.score, reason=known.reason, **more)
        self._told.append(alert)
        self._tells.set()

    def unsure(self, applied: Applied, streams: Sequence[StreamKey], only: set[StreamKey] | None = None) -> None:
        """The save of what was applied was not answered; `only` of these streams it may have come to something."""
        writes = applied.writes
        alerts = {
            (writes.streams[row], msgspec.msgpack.decode(alert, type=Alert).n): alert for row, alert in writes.alerts
        }
        for round_, entries in applied.rounds:
            names = [streams[row] for row in round_.rows.tolist()]
            numbers = entries["n"].tolist()
            for at, identity in enumerate(_identities(names, entries)):
                if only is None or names[at] in only:
                    self._unsure[identity] = _Unsure(alerts.get((names[at], numbers[at])), writes.at)
        while len(self._unsure) > UNSURE:
            del self._unsure[next(iter(self._unsure))]

    async def replayed(self, streams: Sequence[StreamKey], entries: Entries) -> None:
        """These had been applied before; those whose save was not answered were saved, and are counted now."""
        self._metrics.replayed(len(entries))
        if not self._unsure:
            return
        alerts: list[tuple[bytes, float]] = []
        for at, identity in enumerate(_identities(streams, entries)):
            found = self._unsure.get(identity)
            if found is not None:
                self.count_entries(streams[at : at + 1], entries[at : at + 1])
                if found.alert is not None:
                    alerts.append((found.alert, found.at))
        if alerts:
            try:
                await self._take_over(alerts)
            except StoreUnavailable as error:
                log.warning("alerts are told later", error=str(error))

    async def run(self) -> None:
        """Take off what was told, at once; take over, now and then, what others did not tell. Ends when cancelled."""

        async def step() -> float:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._tells.wait()
            self._tells.clear()
            await self.settle()
            await self._look()
            return 0.0

        await repeat(step, "what was told is taken off later", LOOK_S)

    async def settle(self) -> None:
        """Take off what was told."""
        while self._told:
            told = self._told[:100]
            await self._store.told(told)
            self._told = self._told[len(told) :]

    async def _look(self) -> None:
        now = self._clock.monotonic()
        self._first_seen = {one: self._first_seen.get(one, now) for one in await self._store.untold()}
        due = [one for one, since in self._first_seen.items() if now - since >= CLAIM_S and one[0] not in self._told]
        if due:
            await self._take_over(due)

    async def _take_over(self, alerts: Sequence[tuple[bytes, float]]) -> None:
        for alert in await self._store.claim(alerts):
            self.tell(alert)


def encode_alert(stream: StreamKey, n: int, raised: RaisedAlert, corrected: bool = False) -> bytes:
    """An alert of the reading of this number, as it is saved."""
    more = (raised.timestamp_ms, raised.channel, raised.direction)
    return msgspec.msgpack.encode(Alert(stream.name, n, raised.reason, raised.score, corrected, *more))


def silence_alert(silence: Incident) -> bytes:
    """The alert of a stream that has fallen silent, as it is saved."""
    (raised,) = silence.alerts
    more = (raised.timestamp_ms, raised.channel, raised.direction)
    return msgspec.msgpack.encode(Alert(silence.stream, silence.n, raised.reason, raised.score, False, *more))


def _log_moves(before: NDArray[np.float64], loaded: LoadedBatch, lost: set[StreamKey]) -> None:
    """Log factors that the budget loop has moved far; about as often as their streams alert."""
    asked, after = loaded.asked, loaded.records["level"]
    if asked is None:
        return
    bound = at_bound(after, asked.least)
    for row in np.flatnonzero(notable(before, after, asked.least)).tolist():
        stream, record = loaded.streams[row], loaded.records[row]
        if stream not in lost:
            log.info(
                "budget factor moved",
                stream=stream.name,
                before=round(math.exp(before[row]), 3),
                factor=round(math.exp(record["level"]), 3),
                at_bound=bool(bound[row]),
                alerts_per_week=float(asked.held[row]),
                at=format_time(int(record["last_ms"])),
            )


def _log_end(ended: Incident) -> None:
    if ended.is_silence:
        log.info("stream sends again", stream=ended.stream, silent_since=format_time(ended.onset_ms))
        return
    log.info(
        "anomaly ended",
        stream=ended.stream,
        score=ended.peak_score,
        reason=ended.reason,
        began=format_time(ended.start_ms),
        at=format_time(ended.last_ms),
        channel=ended.channels[0].channel,
        readings=ended.anomalous,
    )


def _identities(streams: Sequence[StreamKey], entries: Entries) -> Iterable[_Identity]:
    return zip(streams, entries["seq"].tolist(), entries["timestamp_ms"].tolist(), strict=True)
