"""IncidentWriter: what is saved of incidents that changed, whether with a batch or with a correction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from gatewatch.models.detectors.asked import Words
from gatewatch.service.aside import in_slices
from gatewatch.service.clock import Clock
from gatewatch.service.core import records as state
from gatewatch.service.core import stepper
from gatewatch.service.core.applying import Applied
from gatewatch.service.core.bookkeeping import encode_alert
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.readings import Model, Policies
from gatewatch.service.core.records import LET_GO, Records
from gatewatch.service.core.store import IncidentWrite, Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.began import began
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.incident import Incident, RaisedAlert, decode, encode
from gatewatch.service.incidents.ruled import Fold, encode_pending
from gatewatch.service.incidents.running import Running, shows
from gatewatch.service.incidents.silence import over


class Changed(NamedTuple):
    """What became of the incidents of one stream.

    Attributes:
        row: of the stream in Writes.
        running: its latest incident until then.
        incidents: those that changed or began, in their order.
        before_it: makes what one that begins is proved from.
        seen: the number of its last reading.
        waits: whether the latest is written later, where people would see no difference.
        past: they lie before the latest one.
    """

    row: int
    stream: StreamKey
    running: Running
    incidents: list[Incident]
    before_it: Callable[[], bytes]
    seen: int = 0
    waits: bool = False
    past: bool = False


class IncidentWriter:
    """Says what is to be saved of incidents."""

    def __init__(
        self, store: Store, policies: Policies, groups: Groups | None, clock: Clock, write_s: float = 0.0
    ) -> None:
        """`write_s`: how often open incidents are written where nothing else has them written, seconds."""
        self._store = store
        self._policies = policies
        self._groups = groups
        self._clock = clock
        self._write_s = write_s

    async def writes_of(self, changed: Sequence[Changed], applied: Applied | None = None) -> list[IncidentWrite]:
        """What is to be saved of incidents that changed; those that begin, or are told, get tags and groups.

        Args:
            applied: gets what is to be remembered of them.
        """
        begun = [
            (one.stream, incident)
            for one in changed
            for incident in one.incidents
            if _begins(incident, one.running.written)
        ]
        joined = await self._groups.joined(begun) if begun and self._groups else [one for _, one in begun]
        grouped = {(stream, one.n): one for (stream, _), one in zip(begun, joined, strict=True)}
        writes: list[IncidentWrite] = []
        now_s = self._clock.monotonic()
        async for one in in_slices(changed):
            before, running = one.running.written, one.running
            last = running.incident
            was_ended = before is not None and not before.is_open
            for found in one.incidents:
                incident = grouped.get((one.stream, found.n), found)
                waits = one.waits and found is one.incidents[-1]
                if before is not None and (found is before or (waits and not shows(before, found))):
                    running = running._replace(incident=incident)
                    continue
                incident = msgspec.structs.replace(incident, seen=one.seen if self._write_s else 0)
                is_new = last is None or incident.n != last.n
                ended = not incident.is_open and (is_new or not was_ended)
                begun_from = one.before_it() if is_new else b""
                past = (last.n, encode(last)) if is_new and last is not None else None
                again = was_ended and not is_new and incident.is_open
                told = incident.untold is None
                newly = told and not is_new and before is not None and before.n == incident.n and bool(before.untold)
                content = encode(incident)
                write = IncidentWrite(one.row, incident.n, incident.start_ms, content, past, is_new, ended, begun_from)
                writes.append(write._replace(told=told, reopened=again, newly_told=newly, latest=not one.past))
                last = incident
                running = running._replace(incident=incident, written=incident, written_s=now_s)
            if applied is not None and self._write_s:
                applied.running[one.stream] = running
        return writes

    async def back(self, back: Sequence[tuple[int, StreamKey, int, int]]) -> list[IncidentWrite]:
        """The ends of the silences of streams that send again.

        Args:
            back: of each its row in Writes, its key, how many readings it had sent, and the time of the next one.
        """
        if not back:
            return []
        kept = await self._store.incidents_of([(stream, -readings) for _, stream, readings, _ in back])
        writes = []
        for (row, _, _, first_ms), content in zip(back, kept, strict=True):
            silence = decode(content)
            if silence is not None and silence.is_open:
                ended = over(silence, first_ms)
                writes.append(IncidentWrite(row, ended.n, ended.start_ms, encode(ended), None, False, True))
        return writes

    def mute(self, writes: Writes) -> None:
        """Tell nobody of streams that people have muted: their incidents are kept, and that is all."""
        quiet = {stream for stream in writes.opened if self._policies.is_muted(stream)}
        writes.opened -= quiet
        writes.closed |= quiet
        writes.alerts = [one for one in writes.alerts if not self._policies.is_muted(writes.streams[one[0]])]


def put(writes: Writes, row: int, stream: StreamKey, made: Fold, pending: bytes, corrected: bool = False) -> None:
    """Put into Writes what is to be told of a stream's incidents and whether one is open, and what is pending."""
    put_alerts(writes, row, stream, made.alerts, corrected)
    (writes.opened if made.is_told else writes.closed).add(stream)
    if (after := encode_pending(made.pending)) != pending:
        writes.pending.append((row, after))


def put_alerts(
    writes: Writes, row: int, stream: StreamKey, alerts: Iterable[tuple[int, RaisedAlert]], corrected: bool = False
) -> None:
    """Put into Writes what is to be told of a stream: number of the reading and alert of each."""
    writes.alerts += [(row, encode_alert(stream, n, alert, corrected)) for n, alert in alerts]


def let_go(model: Model, record: Records, last: Entries, writes: Writes, row: int, layout: Layout, seed: int) -> None:
    """Have a (1,) record learn again, since nothing came of what it was kept for, and the history say so.

    Args:
        last: (1,) the entry of its last reading.
        row: of the stream in Writes.
    """
    stepper.let_go(record)
    last["status"] |= LET_GO
    (writes.records[row],) = state.pack(record, [layout], [seed])
    writes.slots += model.stepper.slots_in([layout], [seed], [row], last)


def began_from(model: Model, record: Records, layout: Layout, seed: int, asked: Words) -> bytes:
    """What an incident is proved from: a (1,) record of its stream from before it."""
    return began(state.pack(record, [layout], [seed])[0], asked, model.detector)


def _begins(incident: Incident, latest: Incident | None) -> bool:
    """Whether an incident begins, or people are told of it only now."""
    if latest is None or incident.n > latest.n:
        return True
    return incident.n == latest.n and latest.untold is not None and incident.untold is None
