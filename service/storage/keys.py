"""Every key in Redis, and the bucket whose Cluster slot it lies in.

    gatewatch:layout                                 the number of buckets
    gatewatch:{tenant}:epoch|model|moving|rules      of a tenant
    gatewatch:{bucket}:tenant:streams|open|alerts    of a tenant, the part that belongs to the streams of a bucket
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

PARTS: Final = ("state", "readings", "history", "earlier:0", "earlier:1", "settings", "quarantine")
"""What there may be of a stream, each under a key of its own. `history` is that of versions before record format 4."""

LAYOUT: Final = b"gatewatch:layout"


class Sets(NamedTuple):
    """The sorted sets of a tenant's streams in one bucket: all, those with an open anomaly, alerts to be told."""

    streams: bytes
    open: bytes
    alerts: bytes


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
    """The keys of streams, each made when it is first asked for, and of one tenant.

    Attributes:
        buckets: how many there are.
        epoch, takeover, moving, rules: keys of the tenant: a word that stays until Redis loses everything; which model
            the streams belong to; that streams of the layout before are being moved, see old_keys.py; which stream has
            which model of the repository.
        sets: of the tenant, one each bucket.
    """

    def __init__(self, tenant: str, buckets: int) -> None:
        self.buckets = buckets
        encoded = encode(tenant)
        self.epoch, self.takeover, self.moving, self.rules = (
            f"gatewatch:{{{encoded}}}:{what}".encode() for what in ("epoch", "model", "moving", "rules")
        )
        self._sets: dict[tuple[str, int], Sets] = {}
        self.sets = [self._sets_of(encoded, bucket) for bucket in range(buckets)]

    def __missing__(self, stream: StreamKey) -> StreamKeys:
        name = identity(stream)
        bucket = bucket_of(name, self.buckets)
        record, history = (b"gatewatch:{%d}:%b:%b" % (bucket, name, what) for what in (b"state", b"readings"))
        made = StreamKeys(
            record,
            history,
            seed_of(name),
            self._sets_of(encode(stream.tenant), bucket),
            stream.name.encode(),
            b"\r\n$%d\r\n%b" % (len(record), record),
            b"\r\n*4\r\n$8\r\nSETRANGE\r\n$%d\r\n%b" % (len(history), history),
        )
        if len(self) >= CACHED_STREAMS:
            self.clear()
        self[stream] = made
        return made

    def of(self, streams: Iterable[StreamKey]) -> list[StreamKeys]:
        """The keys of streams."""
        return list(map(self.__getitem__, streams))

    def part(self, stream: StreamKey, what: str) -> bytes:
        """The key of one of PARTS of a stream."""
        return self[stream].record.removesuffix(b"state") + what.encode()

    def earlier(self, stream: StreamKey) -> tuple[bytes, bytes]:
        """The keys of the two earlier records of a stream with a reorder window."""
        return self.part(stream, "earlier:0"), self.part(stream, "earlier:1")

    def _sets_of(self, tenant: str, bucket: int) -> Sets:
        if (tenant, bucket) not in self._sets:
            streams, open_, alerts = (
                f"gatewatch:{{{bucket}}}:{tenant}:{what}".encode() for what in ("streams", "open", "alerts")
            )
            self._sets[tenant, bucket] = Sets(streams, open_, alerts)
        return self._sets[tenant, bucket]


def identity(stream: StreamKey) -> bytes:
    """A stream's tenant and name as they stand in its keys."""
    return f"{encode(stream.tenant)}.{encode(stream.name)}".encode()


def bucket_of(identity: bytes, buckets: int) -> int:
    """The bucket of a stream, by CRC-16: the same on every machine, and for ever."""
    return binascii.crc_hqx(identity, 0) % buckets


def tag_of(key: bytes) -> bytes:
    """What stands between the braces of a key."""
    return key[key.index(b"{") + 1 : key.index(b"}")] if b"{" in key else key


def seed_of(identity: bytes) -> int:
    """Where the checksum of a stream's record starts: that of the record's key before there were buckets."""
    return records.seed(b"gatewatch:{%b}:state" % identity)


def encode(name: str) -> str:
    """A name as base64url without padding."""
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
