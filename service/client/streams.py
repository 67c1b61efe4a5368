"""Have a running service give out, take in, keep or begin anew what a stream stands at, as an operator would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gatewatch.service.client.remote import MOST_SAID, answered, connected, exchange, refused


def export_state(url: str, stream: str) -> bytes:
    """The file of a stream's state. Raises GatewatchError."""
    with connected(url) as client:
        status, content = exchange(client, "GET", _path(stream, "state"))
        if status != 200:
            raise refused(client, status, content[:MOST_SAID].decode(errors="replace"))
    return content


def import_state(url: str, stream: str, content: bytes, *, as_new: bool) -> dict[str, Any]:
    """Have a stream go on from the state in a file; what is known of it since. Raises GatewatchError."""
    with connected(url) as client:
        headers = {"content-type": "application/octet-stream"}
        params = {"as": "new"} if as_new else None
        status, said = exchange(client, "PUT", _path(stream, "state"), params, content=content, headers=headers)
        if status != 200:
            raise refused(client, status, said[:MOST_SAID].decode(errors="replace"))
        return answered(client, "GET", _path(stream))


def change(
    url: str, stream: str, *what: str, params: Mapping[str, str] | None = None, body: Any = None
) -> dict[str, Any]:
    """What a service answers to a POST below a stream's path. Raises GatewatchError."""
    with connected(url) as client:
        return answered(client, "POST", _path(stream, *what), body, params)


def snapshots_of(url: str, stream: str) -> list[dict[str, Any]]:
    """What is listed of a stream's snapshots. Raises GatewatchError."""
    with connected(url) as client:
        found: Any = answered(client, "GET", _path(stream, "snapshots"))
    listed: list[dict[str, Any]] = found
    return listed


def delete_snapshot(url: str, stream: str, name: str) -> None:
    """Forget a snapshot. Raises GatewatchError."""
    with connected(url) as client:
        status, said = exchange(client, "DELETE", _path(stream, "snapshots", name))
        if status != 204:
            raise refused(client, status, said[:MOST_SAID].decode(errors="replace"))


def remove_channel(url: str, stream: str, channel: str) -> dict[str, Any]:
    """Take a channel out of a stream; what is known of it since. Raises GatewatchError."""
    with connected(url) as client:
        status, said = exchange(client, "DELETE", _path(stream, "channels"), {"channel": channel})
        if status != 200:
            raise refused(client, status, said[:MOST_SAID].decode(errors="replace"))
    known: dict[str, Any] = json.loads(said)
    return known


def _path(stream: str, *what: str) -> str:
    return "/".join(("/v1/streams", *(quote(part, safe="") for part in (stream, *what))))
