"""Recorder: what the readings of a batch make of their streams' incidents, to be saved with them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np

from gatewatch.models.detectors.asked import Words, words
from gatewatch.service.clock import Clock
from gatewatch.service.core import records as state
from gatewatch.service.core.applying import Applied
from gatewatch.service.core.bookkeeping import encode_alert
from gatewatch.service.core.corrections import Correction
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout
from gatewatch.service.core.loading import LoadedBatch
from gatewatch.service.core.readings import Model, Policies
from gatewatch.service.core.records import ALERT, GATE_BITS, HELD, KEPT, LET_GO, OPEN, Records
from gatewatch.service.core.sequencing import Places
from gatewatch.service.core.stepper import let_go
from gatewatch.service.core.store import IncidentWrite, Store, Writes
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.began import began
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.incident import Incident, Scored, advance, concerns, decode, encode
from gatewatch.service.incidents.ruled import Fold, decode_pending, encode_pending, fold, may_begin
from gatewatch.service.incidents.rules import Rules, limited
from gatewatch.service.incidents.running import Running, RunningIncidents, histories, latest_of, shows
from gatewatch.service.incidents.silence import over


class _Changed(NamedTuple):
    """What became of the incidents of one stream.

    Attributes:
        row: of the stream in Writes.
        running: its latest incident until then.
        incidents: those that changed or began, in their order.
        before_it: makes what one that begins is proved from.
        seen: the number of its last reading.
        waits: whether the latest is written later, where people would see no difference.
    """

    row: int
    stream: StreamKey
    running: Running
    incidents: list[Incident]
    before_it: Callable[[], bytes]
    seen: int = 0
    waits: bool = False


class Begun(NamedTuple):
    """A stream whose incident begins with a reading that was scored anew.

    Attributes:
        row: in Writes,
        loaded: and among the streams that were loaded.
        seed: where the checksum of its record starts.
        asked: of the stream's scoring.
        start: (1,) the earlier record from which it was scored anew.
        entries: its readings from that one on.
    """

    row: int
    loaded: int
    stream: StreamKey
    layout: Layout
    seed: int
    asked: Words
    start: Records
    entries: Entries


class Corrected(NamedTuple):
    """A stream whose incidents go by rules, with readings that count only since it was corrected.

    Attributes:
        row: in Writes,
        loaded: and among the streams that were loaded.
        seed: where the checksum of its record starts.
        asked: of the stream's scoring.
    """

    row: int
    loaded: int
    stream: StreamKey
    layout: Layout
    seed: int
    asked: Words
    rules: Rules
    correction: Correction


class Recorder:
    """Makes incidents of entries. Streams that are in none cost nothing; those in one, a round trip for all of them."""

    def __init__(
        self,
        store: Store,
        policies: Policies,
        groups: Groups | None,
        clock: Clock,
        write_s: float = 0.0,
    ) -> None:
        """`write_s`: how often open incidents are written where nothing else has them written, seconds."""
        self._store = store
        self._policies = policies
        self._groups = groups
        self._clock = clock
        self._write_s = write_s
        self._remembered = RunningIncidents()

    async def writes(
        self, model: Model, loaded: LoadedBatch, applied: Applied, packed: Sequence[bytes | None]
    ) -> list[IncidentWrite]:
        """What a batch makes of its streams' incidents, to be put into its Writes.

        Args:
            packed: the records before the batch, as the store held them.
        """
        if not applied.rounds:
            return []
        ((round_, entries),) = applied.rounds
        rows, was_open = round_.rows, applied.was_open
        concerned = concerns(entries) | was_open[rows]
        looked_at = applied.was_silent or applied.ruled or loaded.causes
        if not (looked_at or np.count_nonzero(concerned)):  # as mostly
            return []
        row_of = {stream: row for row, stream in enumerate(applied.writes.streams)}
        silences = await self.back(
            [
                (row_of[loaded.streams[row]], loaded.streams[row], before, int(entries["timestamp_ms"][rows == row][0]))
                for row, before in applied.was_silent.items()
                if (rows == row).any()
            ]
        )
        tallied, due = self._tallied(model, loaded, applied, packed, row_of)
        ruled = await self._ruled(model, loaded, applied, packed, tallied) if applied.ruled else []
        applied.writes.opened |= {one.stream for one in due}
        if loaded.causes:  # an incident that was open before a state was lost may not be open after it
            concerned |= np.isin(rows, list(loaded.causes))
        concerned[tallied] = False
        every = [row for row in np.unique(rows[concerned]).tolist() if row not in applied.ruled]
        if not every:
            return silences + ruled + await self._written(due, applied)
        own = _of_rows(rows, entries)
        known = await self._known(model, loaded, packed, every, own)
        begins = {row for row in rows[(entries["status"] & ALERT) != 0].tolist() if not was_open[row]} & {*every}
        histories = await self._histories(model, sorted(begins), loaded)
        changed, now_s = due, self._clock.monotonic()
        for row, running in zip(every, known, strict=True):
            stream, of_row = loaded.streams[row], own[row]
            before = partial(_before, model, loaded, row, packed[row])
            incidents = advance(
                running.incident, stream.name, of_row, loaded.layouts[row].model, bool(was_open[row]),
                histories.get(row, ()), model.stepper.slots,
            )  # fmt: skip
            seen = int(of_row["n"][-1])
            waits = not loaded.records["reorder_ms"][row] and self._waits(model, running, seen, now_s)
            changed.append(_Changed(row_of[stream], stream, running, incidents, before, seen, waits))
        return silences + ruled + await self._written(changed, applied)

    def _tallied(
        self,
        model: Model,
        loaded: LoadedBatch,
        applied: Applied,
        packed: Sequence[bytes | None],
        row_of: Mapping[StreamKey, int],
    ) -> tuple[list[int], list[_Changed]]:
        """Count readings that change no more of open incidents than what is counted; most of theirs are such.

        What waits to be written stays in the list of what is open as it stands there.

        Returns:
            The places of their entries, and the incidents that are due to be written.
        """
        found: list[int] = []
        due: list[_Changed] = []
        if not self._remembered.any:
            return found, due
        ((round_, entries),) = applied.rounds
        rows, status = round_.rows, entries["status"]
        likely = (status & (ALERT | OPEN) == OPEN) & (entries["reason"] & GATE_BITS == 0) & applied.was_open[rows]
        likely &= (loaded.records["reorder_ms"][rows] == 0) & (np.bincount(rows)[rows] == 1)
        places, now_s = np.flatnonzero(likely), self._clock.monotonic()
        columns = [entries[name][places].tolist() for name in ("n", "timestamp_ms", "score", "status")]
        for at, row, n, time_ms, score, bits in zip(places.tolist(), rows[places].tolist(), *columns, strict=True):
            stream = loaded.streams[row]
            running = self._remembered.of(stream, packed[row])
            if running is None or row in loaded.causes:
                continue
            after = running.tallied(n, time_ms, score, bits, applied.ruled.get(row))
            if after is None:
                continue
            found.append(at)
            if self._waits(model, running, n, now_s):
                applied.running[stream] = after
                applied.writes.opened.discard(stream)
            elif (whole := after.whole()).incident is not None:
                due.append(_Changed(row_of[stream], stream, whole, [whole.incident], _nothing, n))
        return found, due

    async def _ruled(
        self,
        model: Model,
        loaded: LoadedBatch,
        applied: Applied,
        packed: Sequence[bytes | None],
        tallied: Sequence[int],
    ) -> list[IncidentWrite]:
        """What a batch makes of the incidents of streams that go by rules.

        What is told of them, and what is open, goes into the batch's Writes.

        Args:
            tallied: places of entries that are counted already.
        """
        writes = applied.writes
        writes.opened -= (streams := {loaded.streams[row] for row in applied.ruled})
        writes.closed -= streams
        ((round_, entries),) = applied.rounds
        rows = round_.rows
        looked_at = {row for row in applied.ruled if row in applied.held or applied.was_open[row]} | {*loaded.causes}
        concerned = concerns(entries) | limited(entries) | np.isin(rows, list(looked_at))
        concerned[tallied] = False
        every = [row for row in np.unique(rows[concerned]).tolist() if row in applied.ruled]
        if not every:
            return []
        own = _of_rows(rows, entries)
        known = await self._known(model, loaded, packed, every, own, applied.ruled)
        begins = [
            row
            for row, running in zip(every, known, strict=True)
            if may_begin(applied.ruled[row], running.incident, decode_pending(running.pending or b""), own[row])
        ]
        histories = await self._histories(model, begins, loaded)
        row_of = {stream: row for row, stream in enumerate(writes.streams)}
        changed, now_s = [], self._clock.monotonic()
        for row, running in zip(every, known, strict=True):
            stream, pending = loaded.streams[row], running.pending or b""
            at, layout = row_of[stream], loaded.layouts[row]
            made = fold(
                applied.ruled[row], stream.name, layout.model, running.incident, decode_pending(pending),
                bool(applied.was_open[row]), own[row], histories.get(row, ()), model.stepper.slots,
            )  # fmt: skip
            before = partial(_before, model, loaded, row, packed[row])
            seen = int(own[row]["n"][-1])
            waits = not (made.has_ended or loaded.records["reorder_ms"][row])
            waits = waits and self._waits(model, running, seen, now_s)
            running = running._replace(pending=encode_pending(made.pending))
            incidents = list(made.changed.values())
            latest = running.incident
            if not (incidents or waits) and latest is not None and latest is not running.written:
                incidents = [latest]  # what waited, which these readings change nothing of
            changed.append(_Changed(at, stream, running, incidents, before, seen, waits))
            _put(writes, at, stream, made, pending)
            record, seed = loaded.records[row : row + 1], loaded.seeds[row]
            if record["status"][0] & KEPT and not made.goes_on(seen):
                last = int(np.flatnonzero(rows == row)[-1])
                _let_go(model, record, entries[last : last + 1], writes, at, layout, seed)
            elif made.is_held:
                record["status"] |= HELD
                (writes.records[at],) = state.pack(record, [layout], [seed])
        return await self._written(changed, applied)

    def saved(self, applied: Applied, lost: Container[StreamKey]) -> None:
        """A batch was saved, but for streams that are lost: remember its incidents."""
        if not applied.running:
            return
        writes, now_s = applied.writes, self._clock.monotonic()
        for stream, record in zip(writes.streams, writes.records, strict=True):
            running = applied.running.get(stream)
            if running is None:
                continue
            if stream in lost:
                self._remembered.forget(stream)
            else:
                running = running._replace(since_s=now_s) if running.since_s is None else running
                self._remembered.note(stream, record, running)

    async def _known(
        self,
        model: Model,
        loaded: LoadedBatch,
        packed: Sequence[bytes | None],
        rows: Sequence[int],
        entries: Mapping[int, Entries],
        rules: Mapping[int, Rules] | None = None,
    ) -> list[Running]:
        """The latest incidents of streams as they stand before a batch: remembered, or what is kept and the history.

        Args:
            packed: the records before the batch, as the store held them.
            entries: of the rows, which are the streams' next ones.
            rules: of the rows, where they go by rules.
        """
        known: dict[int, Running] = {}
        for row in rows:
            running = self._remembered.of(loaded.streams[row], packed[row])
            if running is not None and (rules is None or running.pending is not None):
                known[row] = running.whole()
        missing = [row for row in rows if row not in known]
        if not missing:
            return [known[row] for row in rows]
        latest = await latest_of(self._store, model, loaded, {row: int(entries[row]["n"][0]) for row in missing})
        pendings: Sequence[bytes | None] = [None] * len(missing)
        if rules is not None:
            pendings = await self._store.pending_incidents([loaded.streams[row] for row in missing])
        for row, pending in zip(missing, pendings, strict=True):
            known[row] = Running(*latest[row], pending)
        return [known[row] for row in rows]

    def _waits(self, model: Model, running: Running, seen: int, now_s: float) -> bool:
        """Whether an incident may be behind its stream after a reading: its history goes back far enough.

        A late reading changes the history; so the incidents of streams that take any are written with each.

        Args:
            seen: number of the reading.
        """
        if running.written is None or not running.may_wait(now_s, self._write_s):
            return False
        return seen - running.written.seen < model.stepper.slots // 2

    async def corrected(self, model: Model, loaded: LoadedBatch, begun: Sequence[Begun]) -> list[IncidentWrite]:
        """What corrections make of incidents: those that begin with a reading that was scored anew."""
        if not begun:
            return []
        latest = await latest_of(self._store, model, loaded, _until(loaded, begun))
        changed = []
        for one in begun:
            before = partial(_packed, model, one.start, one.layout, one.seed, one.asked)
            running = Running(*latest[one.loaded])
            incidents = advance(running.incident, one.stream.name, one.entries, one.layout.model, was_open=False)
            changed.append(_Changed(one.row, one.stream, running, incidents, before))
        return await self._written(changed)

    async def corrected_ruled(
        self, model: Model, loaded: LoadedBatch, corrected: Sequence[Corrected], writes: Writes
    ) -> list[IncidentWrite]:
        """What corrections make of incidents of streams that go by rules: those that begin with what counts only now.

        Args:
            writes: gets what is to be told of them, and the records of streams of which nothing is kept after all.
        """
        if not corrected:
            return []
        latest = await latest_of(self._store, model, loaded, _until(loaded, corrected))
        pendings = await self._store.pending_incidents([one.stream for one in corrected])
        changed = []
        for one, content in zip(corrected, pendings, strict=True):
            entries, pending = one.correction.since_closed(), decode_pending(content)
            if pending is not None and pending.first_n >= int(entries["n"][0]):
                pending = None  # all of it is replayed
            elif pending is not None:
                entries = entries[entries["n"] > pending.last_n]
            running = Running(*latest[one.loaded])
            made = fold(one.rules, one.stream.name, one.layout.model, running.incident, pending, False, entries)
            before = partial(_packed, model, one.correction.start, one.layout, one.seed, one.asked)
            changed.append(_Changed(one.row, one.stream, running, list(made.changed.values()), before))
            _put(writes, one.row, one.stream, made, content, corrected=True)
            last = one.correction.entries[-1:]
            if one.correction.record["status"][0] & KEPT and not made.goes_on(int(last["n"][0])):
                _let_go(model, one.correction.record, last, writes, one.row, one.layout, one.seed)
        return await self._written(changed)

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

    async def _written(self, changed: Sequence[_Changed], applied: Applied | None = None) -> list[IncidentWrite]:
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
        for one in changed:
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
                writes.append(write._replace(told=told, reopened=again, newly_told=newly))
                last = incident
                running = running._replace(incident=incident, written=incident, written_s=now_s)
            if applied is not None and self._write_s:
                applied.running[one.stream] = running
        return writes

    async def _histories(self, model: Model, rows: Sequence[int], loaded: LoadedBatch) -> dict[int, list[Scored]]:
        """The last readings of streams whose incidents begin: their onsets are sought there."""
        found = {}
        for row, kept in (await histories(self._store, model, rows, loaded)).items():
            columns = (kept["n"].tolist(), kept["timestamp_ms"].tolist(), kept["score"].tolist())
            found[row] = [Scored(*one) for one in zip(*columns, strict=True)]
        return found


def _of_rows(rows: Places, entries: Entries) -> dict[int, Entries]:
    """The entries of each row, in their order."""
    listed = rows.tolist()
    if len(set(listed)) == len(listed):
        return {row: entries[at : at + 1] for at, row in enumerate(listed)}
    return {row: entries[rows == row] for row in set(listed)}


def _put(writes: Writes, row: int, stream: StreamKey, made: Fold, pending: bytes, corrected: bool = False) -> None:
    """Put into Writes what is to be told of a stream's incidents and whether one is open, and what is pending."""
    writes.alerts += [(row, encode_alert(stream, n, alert, corrected)) for n, alert in made.alerts]
    (writes.opened if made.is_told else writes.closed).add(stream)
    if (after := encode_pending(made.pending)) != pending:
        writes.pending.append((row, after))


def _until(loaded: LoadedBatch, corrected: Sequence[Begun] | Sequence[Corrected]) -> dict[int, int]:
    """Row of each stream that was loaded to the number of its next reading, as it was before the correction."""
    return {one.loaded: int(loaded.records["readings"][one.loaded]) for one in corrected}


def _let_go(model: Model, record: Records, last: Entries, writes: Writes, row: int, layout: Layout, seed: int) -> None:
    """Have a (1,) record learn again, since nothing came of what it was kept for, and the history say so.

    Args:
        last: (1,) the entry of its last reading.
        row: of the stream in Writes.
    """
    let_go(record)
    last["status"] |= LET_GO
    (writes.records[row],) = state.pack(record, [layout], [seed])
    writes.slots += model.stepper.slots_in([layout], [seed], [row], last)


def _before(model: Model, loaded: LoadedBatch, row: int, packed: bytes | None) -> bytes:
    """What an incident of a stream is proved from: its record before the batch."""
    asked = words(loaded.asked, row)
    if (recovered := loaded.begun.get(row)) is not None:
        return _packed(model, recovered, loaded.layouts[row], loaded.seeds[row], asked)
    return began(packed or b"", asked, model.detector)


def _nothing() -> bytes:
    """Of an incident that goes on: what it is proved from was kept when it began."""
    return b""


def _packed(model: Model, record: Records, layout: Layout, seed: int, asked: Words) -> bytes:
    return began(state.pack(record, [layout], [seed])[0], asked, model.detector)


def _begins(incident: Incident, latest: Incident | None) -> bool:
    """Whether an incident begins, or people are told of it only now."""
    if latest is None or incident.n > latest.n:
        return True
    return incident.n == latest.n and latest.untold is not None and incident.untold is None
