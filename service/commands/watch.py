"""gatewatch watch."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gatewatch.models.errors import GatewatchError
from gatewatch.models.text import one_line
from gatewatch.service.cli_support.terminal import tell
from gatewatch.service.client.remote import ask, connected

MOST_ASKED = 1000
"""Names of streams asked for at once."""

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


def watch(
    url: Annotated[str, typer.Option(help="the service")] = "http://127.0.0.1:8000",
    every_s: Annotated[float, typer.Option(help="seconds between looks", min=0.2)] = 2.0,
    streams: Annotated[int, typer.Option(help="most streams shown, the anomalous first", min=1, max=MOST_ASKED)] = 20,
    once: Annotated[bool, typer.Option("--once", help="look once and end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="look once and print it as JSON")] = False,
) -> None:
    """Show the streams and open incidents of a running service, live in the terminal. Ctrl-C ends it."""
    console = Console()
    with connected(url) as client:
        found = look(client, streams)
        if as_json:
            tell(json.dumps(asdict(found), indent=1, ensure_ascii=False))
            return
        if once or not console.is_terminal:
            console.print(_drawn(found, url))
            return
        with Live(_drawn(found, url), console=console, auto_refresh=False, screen=True) as live:
            try:
                while True:
                    time.sleep(every_s)
                    live.update(_drawn(_look_again(client, found, streams), url), refresh=True)
            except KeyboardInterrupt:
                return


def look(client: httpx2.Client, most: int) -> Shown:
    """Ask a service for its streams and open incidents.

    Raises:
        GatewatchError: it does not answer, or not as Gatewatch does.
    """
    page = _answer(client, "/v1/streams", {"details": "true", "limit": str(MOST_ASKED)})
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


def _look_again(client: httpx2.Client, before: Shown, most: int) -> Shown:
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
        raise GatewatchError(f"{client.base_url} answered {path} with {status}: {one_line(str(found))[:200]}")
    return found


def _drawn(found: Shown, url: str) -> Group:
    anomalous = sum(one.get("status") == "anomalous" for one in found.shown)
    head = Text(f"{url}: {found.streams:,} streams, {anomalous} anomalous", style="bold")
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
