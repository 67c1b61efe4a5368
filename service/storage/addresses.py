"""Addresses: what a URL says of where Redis is: one server, Sentinels that know it, or nodes of a Cluster.

    redis://[user:password@]host:port/db            rediss:// with TLS, unix://path
    redis+sentinel://[...]host:port,host:port/name  of the master; rediss+sentinel://
    redis+cluster://[...]host:port,host:port        rediss+cluster://

Options of redis-py may follow `?`; for Sentinels also db, sentinel_username and sentinel_password.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode

from redis.asyncio import Connection, Redis, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

PORTS: Final = {"sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True)
class Address:
    """What a URL says.

    Attributes:
        hosts: of Sentinels or of nodes, with their ports.
        master: the name that Sentinels know it by.
        options: of a connection, as redis-py calls them, without host and port.
        sentinel_options: of a connection to a Sentinel.
    """

    kind: Literal["server", "sentinel", "cluster"]
    hosts: tuple[tuple[str, int], ...]
    master: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def address_of(url: str) -> Address:
    """Raises ValueError where a URL is not one of the forms above."""
    scheme, _, rest = url.partition("://")
    plain, _, kind = scheme.lower().partition("+")
    if not kind:
        return Address("server", (), "", dict(parse_url(url)), {})
    if kind not in ("sentinel", "cluster") or plain not in ("redis", "rediss"):
        raise ValueError("expected redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
    rest, _, query = rest.partition("?")
    places, _, master = rest.partition("/")
    user, _, places = places.rpartition("@")
    hosts = tuple(_host(place, PORTS[kind]) for place in places.split(","))
    if kind == "sentinel" and not master:
        raise ValueError("expected the name of the master behind the hosts, as redis+sentinel://host:port/mymaster")
    if kind == "cluster" and master not in ("", "0"):
        raise ValueError("a Redis Cluster has database 0 only: expected nothing behind the hosts")
    given = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    for_sentinel = {
        name.removeprefix("sentinel_"): given.pop(name) for name in list(given) if name.startswith("sentinel_")
    }
    login = f"{user}@" if user else ""
    options: dict[str, Any] = dict(parse_url(f"{plain}://{login}host?{urlencode(given)}"))
    options.pop("host", None)
    if kind == "sentinel":
        return Address("sentinel", hosts, master, options, for_sentinel)
    return Address("cluster", hosts, "", options, {})


def _host(place: str, port: int) -> tuple[str, int]:
    host, colon, number = place.rpartition(":")
    if not colon or number.endswith("]"):
        host, number = place, str(port)
    if not host or not number.isdigit() or not 0 < int(number) < 65_536:
        raise ValueError("expected hosts as host:port, with commas between")
    return host.removeprefix("[").removesuffix("]"), int(number)


def connecting(timeout_s: float) -> dict[str, Any]:
    """What every connection has.

    Protocol 2 is understood by every server and proxy, and nothing here needs 3; a URL may ask for it. redis-py's
    time-out costs a task a command; ours is one for all that is sent at once.
    """
    retry = Retry(NoBackoff(), 0)
    return {
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": timeout_s,
        "retry": retry,
        "health_check_interval": 0,
    }


def connections_of(url: str, timeout_s: float) -> Callable[[], Connection]:
    """Makes connections to a URL's server, to whichever the Sentinels call master now, or to a node of a Cluster.

    Raises ValueError where the URL cannot be used; nothing is connected.
    """
    address = address_of(url)
    if address.kind == "server":
        return Redis.from_url(url, **connecting(timeout_s)).connection_pool.make_connection
    options = connecting(timeout_s) | address.options
    if address.kind == "cluster":
        node = ClusterNode(*address.hosts[0], **options)
        return lambda: node.connection_class(**node.connection_kwargs)
    tls = options.pop("connection_class", None) is SSLConnection
    asking = {"socket_timeout": timeout_s / 2, "socket_connect_timeout": timeout_s / 2} | address.sentinel_options
    if tls:
        options["ssl"] = asking["ssl"] = True
    sentinel = Sentinel(list(address.hosts), sentinel_kwargs=asking, **options)
    make: Callable[[], Connection] = sentinel.master_for(address.master).connection_pool.make_connection
    return make
