"""Puts a tenant's streams under the keys that they had before there were buckets."""

from __future__ import annotations

from typing import Any

import redis

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.keys import BUCKETS, PARTS, Keys, encode


def old_key(tenant: str, stream: str, what: str = "state") -> str:
    return f"gatewatch:{{{encode(tenant)}.{encode(stream)}}}:{what}"


def put_back_keys(database: redis.Redis, tenant: str) -> None:
    """As the version before buckets left them, its takeover number among them."""
    keys, old = Keys(tenant, BUCKETS), f"gatewatch:{{{encode(tenant)}}}:"
    client: Any = database  # its types say of ZRANGE that it may give anything
    for sets in keys.sets:
        for name in client.zrange(sets.streams, 0, -1):
            stream = StreamKey(tenant, name.decode())
            for part in PARTS:
                if database.exists(keys.part(stream, part)):
                    database.rename(keys.part(stream, part), old_key(tenant, stream.name, part))
        for kind, key in zip(("streams", "open", "alerts"), sets, strict=True):
            if members := client.zrange(key, 0, -1, withscores=True):
                database.zadd(old + kind, dict(members))
                database.delete(key)
    database.rename(keys.takeover, old + "takeover")
    database.delete(keys.moving)
