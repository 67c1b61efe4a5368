"""Writes streams as the version before record format 4 did, out of what this version keeps of them."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import numpy as np
import redis

from gatewatch.models.detectors.detector import Scanner
from gatewatch.models.detectors.general.detector import GeneralDetector
from gatewatch.service.core.layout import layout_of
from gatewatch.service.core.records import sound
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.keys import BUCKETS, Keys
from tests.support.states import of_version_1

SLOTS = 128


def put_back(database: redis.Redis, tenant: str, stream: str, detector: Scanner) -> None:
    """Replace a stream's record and history by those of format 3."""
    keys, stepper = Keys(tenant, BUCKETS), Stepper(detector, SLOTS)
    named = StreamKey(tenant, stream)
    key, history, seed = keys[named].record, keys[named].history, keys[named].seed
    packed, ring = _bytes(database, key), _bytes(database, history)
    record = sound([packed], stepper.record)
    entries = stepper.read_history(ring, layout_of(detector.channels, detector.channels), seed)
    digest = detector.digest
    if isinstance(detector, GeneralDetector):
        digest = hashlib.sha256(digest + repr(detector.channels).encode()).digest()[:8]
    head = np.zeros(
        1,
        [
            *[
                ("magic", "S2"),
                ("format", "<u2"),
                ("model", "V8"),
                ("tag", "V16"),
                ("hold", "u1"),
                ("reorder_ms", "<u4"),
            ],
            *[("readings", "<u8"), ("last_seq", "<i8"), ("history", "<u4"), ("score", "<f4"), ("status", "u1")],
            *[("earlier", "<u4"), ("earlier_ms", "<i8"), ("detector", detector.state_dtype_1)],
        ],
    )
    for name in ("tag", "hold", "reorder_ms", "readings", "last_seq", "score", "status"):
        head[name] = record[name]
    head["magic"], head["format"], head["model"], head["history"] = b"GW", 3, np.void(digest), SLOTS
    head["detector"] = of_version_1(detector, record["detector"])
    head["detector"]["last_ms"] = record["last_ms"]
    body = head.tobytes()
    database.set(key, body + zlib.crc32(body, seed).to_bytes(4, "little"))
    database.set(keys.part(named, "history"), _ring(entries, detector, digest))
    database.delete(history)


def _ring(entries: Any, detector: Scanner, digest: bytes) -> bytes:
    channels = len(detector.channels)
    dtype = np.dtype(
        [
            *[("checksum", "<u4"), ("n", "<u8"), ("timestamp_ms", "<i8"), ("seq", "<i8"), ("tag", "V16")],
            *[("model", "V8"), ("score", "<f4"), ("status", "u1"), ("reason", "u1"), ("values", "<f4", (channels,))],
            *[("forecast", "<f4", (2 * channels,)), ("attribution", "<f4", (channels,))],
        ]
    )
    ring, seed = np.zeros(SLOTS, dtype), zlib.crc32("\0".join(detector.channels).encode())
    for entry in entries:
        slot = ring[int(entry["n"]) % SLOTS]
        for name in ("n", "timestamp_ms", "seq", "tag", "score", "status", "reason", "values", "attribution"):
            slot[name] = entry[name]
        slot["model"] = np.void(digest)
        slot["forecast"] = np.concatenate([entry["mid"], entry["half"]])
        slot["checksum"] = zlib.crc32(slot.tobytes()[4:], seed)
    return ring[: min(SLOTS, int(entries["n"][-1]) + 1) if len(entries) else 0].tobytes()


def _bytes(database: redis.Redis, key: bytes) -> bytes:
    value = database.get(key)
    assert isinstance(value, bytes)
    return value
