"""The look at a running service that `gatewatch watch` shows: its streams and open incidents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gatewatch.models.errors import GatewatchError
from gatewatch.models.text import one_line
from gatewatch.service.client.remote import ask, refused

MOST_ASKED = 1000
"""Streams that a service lists at once."""

COLOURS = {"anomalous": "bold red", "warming_up": "yellow"}


@dataclass(frozen=True)
class Shown:
    """What a service says at one time.

    Attributes:
        streams: in all; `shown` are those looked at, the anomalous first.
        incidents: the open ones, newest first; None where the service tells none.
        trouble: why readings are not scored now, empty if they are.
    """

    streams: int
    shown: list[dict[str, Any]]
    incidents: list[dict[str, Any]] | None
    trouble: str = ""


def look(client: httpx2.Client, most: int) -> Shown:
    """Ask a service for its streams and open incidents.

    Raises:
        GatewatchError: it does not answer, or not as Gatewatch does.
    """
    asked = {"details": "true", "limit": str(min(most, MOST_ASKED))}
    sorts, page = ask(client, "GET", "/v1/streams", {**asked, "sort": "status"})
    if sorts == 422 or (sorts == 200 and "as_of" not in page):  # too many to be put in order, or an older service
        page = _answer(client, "/v1/streams", {**asked, "limit": str(MOST_ASKED)})
    elif sorts != 200:
        raise refused(client, sorts, page)
    try:
        details = [_stream(client, one) for one in page["streams"][:MOST_ASKED]]
        total = int(page["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise GatewatchError(f"{client.base_url} answered /v1/streams otherwise than Gatewatch does") from error
    known = [one for one in details if one is not None]
    known.sort(key=lambda one: (one.get("status") != "anomalous", -(one.get("score") or 0.0), str(one.get("stream"))))
    status, incidents = ask(client, "GET", "/v1/incidents", {"state": "open", "limit": "20"})
    ready, _ = ask(client, "GET", "/readyz")
    return Shown(total, known[:most], incidents["incidents"] if status == 200 else None,
                 "" if ready == 200 else f"not ready ({ready}); `gatewatch doctor` says why")  # fmt: skip


def look_again(client: httpx2.Client, before: Shown, most: int) -> Shown:
    try:
        return look(client, most)
    except (GatewatchError, httpx2.HTTPError) as error:
        return Shown(before.streams, before.shown, before.incidents, f"no answer: {one_line(str(error))[:120]}")


def _stream(client: httpx2.Client, one: object) -> dict[str, Any] | None:
    """A stream of the list: described in it, or asked for by its name; None of one that went meanwhile."""
    if isinstance(one, dict):
        return one
    status, found = ask(client, "GET", f"/v1/streams/{quote(str(one), safe='')}")
    return found if status == 200 else None


def _answer(client: httpx2.Client, path: str, params: Mapping[str, str]) -> Any:
    status, found = ask(client, "GET", path, params)
    if status != 200:
        raise refused(client, status, found)
    return found


def drawn(found: Shown, url: str) -> Group:
    anomalous = sum(one.get("status") == "anomalous" for one in found.shown)
    more = " or more" if anomalous == len(found.shown) < found.streams else ""
    streams = f"{found.streams:,} stream{'s' * (found.streams != 1)}"
    head = Text(f"{url}: {streams}, {anomalous}{more} anomalous", style="bold")
    parts: list[Any] = [head]
    if found.trouble:
        parts.append(Text(found.trouble, style="bold red"))
    table = Table("stream", "status", "score", "readings", "last reading", box=None, pad_edge=False)
    for one in found.shown:
        status = str(one.get("status"))
        table.add_row(
            Text(one_line(str(one.get("stream")))), Text(status.replace("_", " "), style=COLOURS.get(status, "")),
            f"{one['score']:.3g}" if one.get("score") is not None else "-", f"{one.get('readings', 0):,}",
            Text(one_line(str(one.get("last_timestamp") or "-"))),
        )  # fmt: skip
    parts.append(table if found.shown else Text("No stream yet: the first reading posted begins one."))
    if found.incidents is not None:
        parts.append(Text(""))
        parts.append(_incidents(found.incidents))
    return Group(*parts)


def _incidents(incidents: list[dict[str, Any]]) -> Table | Text:
    if not incidents:
        return Text("No open incident.")
    table = Table("open since", "stream", "channel", "highest score", box=None, pad_edge=False)
    for one in incidents:
        channels = [str(channel.get("channel")) for channel in one.get("channels") or [] if isinstance(channel, dict)]
        score = one.get("peak_score")
        table.add_row(
            Text(one_line(str(one.get("start")))), Text(one_line(str(one.get("stream"))), style=COLOURS["anomalous"]),
            Text(one_line(", ".join(channels[:3]))), f"{score:.3g}" if isinstance(score, int | float) else "-",
        )  # fmt: skip
    return table
