"""Every key in Redis, and the bucket whose Cluster slot it lies in.

    gatewatch:layout                                 the number of buckets
    gatewatch:{tenant}:epoch|model|moving|rules|policies   of a tenant
    gatewatch:{tenant}:shadow:MODEL                  figures of a model's shadow
    gatewatch:{bucket}:barrier                       what is written to wait for replicas
    gatewatch:{bucket}:tenant:due|watched            of the streams of a bucket, whosever they are: when each is to be
                                                     looked at, and what was seen then; see silence_store.py. The tenant
                                                     is that of the service
    gatewatch:{bucket}:tenant:SET                    of a tenant, the part that belongs to the streams of a bucket; see
                                                     Sets
    gatewatch:{bucket}:tenant.stream:WHAT            of a stream; WHAT is one of PARTS

Tenants and streams are written as base64url without padding, so that no name can look like another key. What stands
between braces is what Redis Cluster makes the slot of: all keys of a bucket lie in one slot, so that what a reading
causes is saved in one transaction, and streams of one bucket together.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Final, NamedTuple

from gatewatch.service.core import records
from gatewatch.service.core.stream_key import StreamKey

CACHED_STREAMS: Final = 65_536
"""Streams whose keys are kept; of more, all are written anew: a stream's take 4 µs."""

BUCKETS: Final = 64
"""Of a Redis that has none yet; see docs/decisions/0007-slot-buckets.md."""

PARTS: Final = (
    "state", "readings", "history", "earlier:0", "earlier:1", "settings", "quarantine", "incidents", "incident-words",
    "snapshots",
)  # fmt: skip
"""What there may be of a stream, each under a key of its own. `history` is that of versions before record format 4."""

INCIDENT_PARTS: Final = ("before", "after", "state")
"""What there may be of an incident under keys of its own, see incident_store.py."""

LATEST, NUMBER, PENDING = b"latest", b"number", b"pending"
"""Fields of a stream's `incidents`: its latest one, the number of that, and what may become one."""

LAYOUT: Final = b"gatewatch:layout"


class Sets(NamedTuple):
    """The sorted sets of a tenant's streams in one bucket.

    Attributes:
        streams: all of them.
        open: those with an open anomaly.
        alerts: alerts to be told.
        incidents: by the time of their beginning.
        changes: incidents by the time of their last change.
        silent: open incidents of streams that send no more, by the time when that was found.
    """

    streams: bytes
    open: bytes
    alerts: bytes
    incidents: bytes
    changes: bytes
    silent: bytes


class StreamKeys(NamedTuple):
    """What is made once of a stream's name.

    Attributes:
        record, history: the keys of its record and of its history ring.
        seed: where the checksum of its record starts, see records.seed. It goes with the name, not with the bucket.
        sets: of its tenant and bucket.
        member: what stands for it in them.
        written: the record's key as an argument of a command, up to the end of the line before the next.
        set_slot: the beginning of a SETRANGE of its history, up to the offset's length.
    """

    record: bytes
    history: bytes
    seed: int
    sets: Sets
    member: bytes
    written: bytes
    set_slot: bytes


class Keys(dict[StreamKey, StreamKeys]):
    """The keys of streams, each made when it is first asked for, and of the service's own tenant.

    Attributes:
        buckets: how many there are.
        epoch, takeover, moving, rules: keys of the tenant: a word that stays until Redis loses everything; which model
            the streams belong to; that streams of the layout before are being moved, see old_keys.py; which stream has
            which model of the repository.
        sets: of the own tenant and of each other one whose streams were asked for, one each bucket.
    """

    def __init__(self, tenant: str, buckets: int) -> None:
        self.buckets = buckets
        encoded = encode(tenant)
        self._own = encoded.encode()
        self.epoch, self.takeover, self.moving, self.rules = (
            f"gatewatch:{{{encoded}}}:{what}".encode() for what in ("epoch", "model", "moving", "rules")
        )
        self._shadow = f"gatewatch:{{{encoded}}}:shadow:"
        self._of_tenant: dict[str, list[Sets]] = {}
        self.sets: list[Sets] = []
        self.sets_of(tenant)

    def __missing__(self, stream: StreamKey) -> StreamKeys:
        name = identity(stream)
        bucket = bucket_of(name, self.buckets)
        record, history = (b"gatewatch:{%d}:%b:%b" % (bucket, name, what) for what in (b"state", b"readings"))
        made = StreamKeys(
            record,
            history,
            seed_of(name),
            self.sets_of(stream.tenant)[bucket],
            stream.name.encode(),
            b"\r\n$%d\r\n%b" % (len(record), record),
            b"\r\n*4\r\n$8\r\nSETRANGE\r\n$%d\r\n%b" % (len(history), history),
        )
        if len(self) >= CACHED_STREAMS:
            self.clear()
        self[stream] = made
        return made

    def shadow(self, model: str) -> bytes:
        """The key of the figures of a model's shadow."""
        return f"{self._shadow}{model}".encode()

    def of(self, streams: Iterable[StreamKey]) -> list[StreamKeys]:
        """The keys of streams."""
        return list(map(self.__getitem__, streams))

    def record(self, stream: StreamKey) -> bytes:
        """The key of a stream's record, without keeping what else is made of its name: for looks at all streams."""
        name = identity(stream)
        return b"gatewatch:{%d}:%b:state" % (bucket_of(name, self.buckets), name)

    def part(self, stream: StreamKey, what: str) -> bytes:
        """The key of one of PARTS of a stream."""
        return self[stream].record.removesuffix(b"state") + what.encode()

    def incident(self, stream: StreamKey, n: int, what: str) -> bytes:
        """The key of the history `before` or `after` an incident, or of the `state` that it is proved from."""
        return self.part(stream, f"incident:{n}:{what}")

    def channels(self, sets: Sets) -> bytes:
        """The key of how many channels the streams of a bucket have, see channel_counts.py."""
        return sets.streams.removesuffix(b"streams") + b"channels"

    def bounds(self, sets: Sets) -> bytes:
        """The key of the streams of a bucket whose budget loop is at a bound: a sorted set, by their last batch."""
        return sets.streams.removesuffix(b"streams") + b"bounds"

    def unused(self, sets: Sets) -> bytes:
        """The key of since when the streams of a bucket have not moved, see unused_streams.py."""
        return sets.streams.removesuffix(b"streams") + b"unused"

    def policies(self, tenant: str) -> bytes:
        """The key of what is asked of a tenant's streams."""
        return f"gatewatch:{{{encode(tenant)}}}:policies".encode()

    @property
    def tenants(self) -> list[str]:
        """The own tenant, and each other one whose streams were asked for."""
        return list(self._of_tenant)

    def due(self, tag: bytes) -> bytes:
        """The key of what is to be looked at in a bucket, by the hash tag of that."""
        return b"gatewatch:{%b}:%b:due" % (tag, self._own)

    def outbox(self, tag: bytes) -> bytes:
        """The key of what is to be told of a bucket, by the hash tag of that."""
        return b"gatewatch:{%b}:%b:outbox" % (tag, self._own)

    def watched(self, tag: bytes) -> bytes:
        """The key of what was seen in a bucket, by the hash tag of that."""
        return b"gatewatch:{%b}:%b:watched" % (tag, self._own)

    def sets_of(self, tenant: str) -> list[Sets]:
        """The sets of a tenant, one each bucket; from now on they are among `sets`."""
        if tenant not in self._of_tenant:
            kinds = [f":{encode(tenant)}:{what}" for what in Sets._fields]
            self._of_tenant[tenant] = [
                Sets(*(f"gatewatch:{{{bucket}}}{kind}".encode() for kind in kinds)) for bucket in range(self.buckets)
            ]
            self.sets += self._of_tenant[tenant]
        return self._of_tenant[tenant]


def identity(stream: StreamKey) -> bytes:
    """A stream's tenant and name as they stand in its keys."""
    return f"{encode(stream.tenant)}.{encode(stream.name)}".encode()


def stream_of(identity: bytes) -> StreamKey:
    """The stream whose `identity` this is."""
    tenant, _, name = identity.partition(b".")
    return StreamKey(_decoded(tenant), _decoded(name))


def identity_in(key: bytes) -> bytes:
    """The identity of the stream whose record or other part lies under a key."""
    return key.split(b":", 3)[2]


def bucket_of(identity: bytes, buckets: int) -> int:
    """The bucket of a stream, by CRC-16: the same on every machine, and for ever."""
    return binascii.crc_hqx(identity, 0) % buckets


def tag_of(key: bytes) -> bytes:
    """What stands between the braces of a key."""
    return key[key.index(b"{") + 1 : key.index(b"}")] if b"{" in key else key


def barrier_of(key: bytes) -> bytes:
    """The key in a key's bucket that is written so that replicas can be waited for."""
    return b"gatewatch:{%b}:barrier" % tag_of(key)


def seed_of(identity: bytes) -> int:
    """Where the checksum of a stream's record starts: that of the record's key before there were buckets."""
    return records.seed(b"gatewatch:{%b}:state" % identity)


def _decoded(encoded: bytes) -> str:
    return base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)).decode()


def encode(name: str) -> str:
    """A name as base64url without padding."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
