"""gatewatch watch."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from gatewatch.service.cli_support.terminal import tell_json


def watch(
    url: Annotated[str, typer.Option(help="the service")] = "http://127.0.0.1:8000",
    every_s: Annotated[float, typer.Option(help="seconds between looks", min=0.2)] = 2.0,
    streams: Annotated[int, typer.Option(help="most streams shown, the anomalous first", min=1, max=1000)] = 20,
    once: Annotated[bool, typer.Option("--once", help="look once and end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="look once and print it as JSON")] = False,
) -> None:
    """Show the streams and open incidents of a running service, live in the terminal. Ctrl-C ends it."""
    from gatewatch.service.cli_support.watching import drawn, look, look_again
    from gatewatch.service.client.remote import connected

    console = Console()
    with connected(url) as client:
        found = look(client, streams)
        if as_json:
            tell_json(asdict(found))
            return
        if once or not console.is_terminal:
            console.print(drawn(found, url))
            return
        with Live(drawn(found, url), console=console, auto_refresh=False, screen=True) as live:
            try:
                while True:
                    time.sleep(every_s)
                    live.update(drawn(look_again(client, found, streams), url), refresh=True)
            except KeyboardInterrupt:
                return
