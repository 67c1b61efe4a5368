"""Store and UnitOfWork: all that the core asks of whatever keeps streams; and Writes, what it hands over to be saved.

A store keeps bytes and compares fences; what is in a record, only the core knows. service/storage is the store in
Redis; the simulation has one that is a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import StoreUnavailable


class IncidentWrite(NamedTuple):
    """An incident that readings changed, to be saved with them.

    Attributes:
        row: of its stream in Writes.
        n: its number; below 0 that of a silence, see incident.py.
        start_ms: when it began.
        incident: as it is kept.
        before: the number and content of the incident that was the stream's latest until this one began.
        began, ended: with these readings; the stream's history is kept as it is then.
        state: of one that began, what it is proved from, see incidents/began.py.
        told: people are told of it.
        reopened: it had ended, and goes on.
        newly_told: it had begun, and people are told only now.
        latest: it is the stream's latest one, or a silence, which stands beside that.
    """

    row: int
    n: int
    start_ms: int
    incident: bytes
    before: tuple[int, bytes] | None
    began: bool
    ended: bool
    state: bytes = b""
    told: bool = True
    reopened: bool = False
    newly_told: bool = False
    latest: bool = True


class IncidentsLeft(NamedTuple):
    """What a stream keeps of its incidents when it goes on from another state, to be saved with that.

    Attributes:
        row: of the stream in Writes.
        forgotten: numbers of those that began with readings the stream does not have any more.
        changed: number and content of silences that end with this.
        latest: number and content of the stream's latest one from now on; None where none is left.
        ended: numbers of those that end with this and of which somebody waits for the end.
    """

    row: int
    forgotten: list[int]
    changed: dict[int, bytes]
    latest: tuple[int, bytes] | None
    ended: list[int]


@dataclass
class Writes:
    """What is to be saved of several streams, in columns.

    Attributes:
        streams: their keys, each once.
        fences: what the record must still begin with, see records.FENCE; b"" where there was none.
        records: the new records.
        slots: row in the columns above, offset and bytes of each new piece of history.
        anew: rows whose history is begun anew.
        earlier: row and slot (0 or 1) to an earlier record that is kept.
        opened, closed: streams that are in an incident; streams whose incident ended.
        alerts: row and text of each alert that is to be told once it is saved, see bookkeeping.py.
        incidents: those that the readings changed, in the order of the changes.
        pending: row and content of anomalies that may become incidents, as they are kept; b"" where there is none.
        incidents_left: of streams that go on from another state.
        bounds: row to whether the factor of its budget loop is at a bound; of those that are, or were.
        channels: row to how many channels more, or fewer, the stream has from now on.
        settings: row to the settings that are kept beside the record.
        at: when that was, in Unix seconds: the score of what is put into sorted sets.
        unlisted: rows of streams to be put into the list of all streams; the store fills them in.
        tells: whether there is somebody who tells of incidents elsewhere; the store fills it in.
        unwatched: rows of streams to be looked at from now on, whether they fall silent; the store fills them in.
    """

    at: float
    streams: list[StreamKey] = field(default_factory=list)
    fences: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    slots: list[tuple[int, int, bytes]] = field(default_factory=list)
    anew: list[int] = field(default_factory=list)
    earlier: dict[tuple[int, int], bytes] = field(default_factory=dict)
    opened: set[StreamKey] = field(default_factory=set)
    closed: set[StreamKey] = field(default_factory=set)
    alerts: list[tuple[int, bytes]] = field(default_factory=list)
    incidents: list[IncidentWrite] = field(default_factory=list)
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    incidents_left: list[IncidentsLeft] = field(default_factory=list)
    bounds: dict[int, bool] = field(default_factory=dict)
    channels: dict[int, int] = field(default_factory=dict)
    settings: dict[int, bytes] = field(default_factory=dict)
    unlisted: list[int] = field(default_factory=list)
    unwatched: list[int] = field(default_factory=list)
    tells: bool = False


class UnitOfWork(Protocol):
    """The records of some streams from their load to their save. Nothing is locked: a save compares fences."""

    @property
    def packed(self) -> Sequence[bytes | None]:
        """The records as bytes, None for a stream without one."""

    @property
    def from_cache(self) -> bool:
        """Whether they are what this process saved last, and the store was not asked yet."""

    @property
    def unsure(self) -> bool:
        """Whether what was sent may have been saved though `saved` says that it was not."""

    @property
    def failed(self) -> Mapping[StreamKey, StoreUnavailable]:
        """After `saved`: streams whose save failed though that of others did not, and why."""

    async def confirmed(self, compared: bool) -> bool:
        """Whether the records are what they were taken for, before anything is done that follows from them.

        Where they are not, they are forgotten: the next unit of work loads them.

        Args:
            compared: everything is to be saved, so that a save that compares will find out.
        """

    async def send(self, writes: Writes) -> None:
        """Send what is to be saved; `saved` waits for the answer, and meanwhile there is time for other things."""

    async def saved(self) -> list[bool]:
        """Which of the streams sent were saved: all, unless another process wrote one of them since the load."""


class Store(Protocol):
    """Keeps streams: record, history, settings, earlier records, alerts to be told. Each method is one round trip.

    Each raises StoreUnavailable when the store does not answer, PartlyUnavailable when that concerns some streams only,
    ForeignValue where somebody else's value is in the way.
    """

    def begin(self, streams: Sequence[StreamKey], cached: bool = False) -> AbstractAsyncContextManager[UnitOfWork]:
        """Load the records of streams, each named once; with `cached` not those that this process saved last."""

    def seeds(self, streams: Sequence[StreamKey]) -> list[int]:
        """Where the checksums of the streams' records start."""

    async def ping(self) -> bool:
        """Whether the store answers at once."""

    async def load(self, streams: Sequence[StreamKey]) -> list[bytes | None]:
        """The streams' records as bytes, None for a stream without one."""

    async def load_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The streams' history rings, empty for a stream without one."""

    async def history_numbers(
        self, streams: Sequence[StreamKey], places: Sequence[tuple[int, int]]
    ) -> list[int | None]:
        """The number that stands at a place (first and last byte) of each stream's history, None where nothing does."""

    async def load_old_histories(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The histories that versions before record format 4 kept, empty where there is none."""

    async def drop_old_histories(self, streams: Sequence[StreamKey]) -> None:
        """Forget the histories of versions before record format 4."""

    async def load_settings(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """What was saved as the streams' settings, empty for a stream without any."""

    async def save_settings(self, stream: StreamKey, settings: bytes) -> None:
        """Keep a stream's settings, for the day its record is lost."""

    async def load_earlier(self, streams: Sequence[StreamKey]) -> list[list[bytes]]:
        """The two earlier records of streams with a reorder window, empty where there is none."""

    async def quarantine(self, stream: StreamKey, record: bytes) -> None:
        """Keep a copy of a record that cannot be read, for a look later; the last one of a stream stays."""

    async def count_streams(self, tenant: str) -> int:
        """How many streams a tenant has."""

    async def count_channels(self, tenant: str) -> int:
        """How many channels all streams of a tenant have."""

    async def latest_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """The latest incident of each stream as it is kept, b"" where it has none."""

    async def pending_incidents(self, streams: Sequence[StreamKey]) -> list[bytes]:
        """What may become an incident of each stream, as it is kept; b"" where nothing may."""

    async def incidents_of(self, incidents: Sequence[tuple[StreamKey, int]]) -> list[bytes]:
        """Incidents by stream and number, as they are kept; b"" where there is none."""

    async def untold(self) -> list[tuple[bytes, float]]:
        """Alerts that were saved and not yet taken off as told, oldest first, and the time that stands beside each."""

    async def claim(self, alerts: Sequence[tuple[bytes, float]]) -> list[bytes]:
        """Those of some alerts that nobody else took over meanwhile; the caller tells them. They have a new time."""

    async def told(self, alerts: Sequence[bytes]) -> None:
        """Take alerts off: they were told."""

    async def claim_takeover(self, service: str, model: str) -> tuple[int, int, str]:
        """The number of a service with a model, the highest number, and its model; see takeover.py."""

    async def takeover(self, service: str, number: int, model: str) -> tuple[int, str, str]:
        """The highest number, its model, and who took it; at least this one: the store may have forgotten it."""
