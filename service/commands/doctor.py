"""gatewatch doctor."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gatewatch.models.text import one_line
from gatewatch.service.cli_support.settings import settings_of_environment
from gatewatch.service.cli_support.terminal import tell_json

MARKS = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "bold red")}


def doctor(
    url: Annotated[str | None, typer.Option(help="the service; where the settings have it if not given")] = None,
    prometheus: Annotated[str | None, typer.Option(help="URL of a Prometheus server to look at")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
) -> None:
    """Say what is wrong, in plain words: settings, model, repository, Redis, durability, clock, service, Prometheus.

    Changes nothing. Exit status 1 if something is wrong.
    """
    from gatewatch.service.cli_support.checks import all_checks

    settings = settings_of_environment()
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - where to ask, not to listen
    host = f"[{host}]" if ":" in host else host
    found = []
    console = Console(soft_wrap=True, highlight=False)
    for check in all_checks(settings, os.environ, url or f"http://{host}:{settings.port}", prometheus):
        found.append(check)
        if not as_json:
            mark, style = MARKS[check.verdict]
            console.print(Text.assemble((mark, style), f"  {check.about}: {one_line(check.words)}"))
    if as_json:
        tell_json([asdict(check) for check in found])
    if any(check.verdict == "wrong" for check in found):
        raise typer.Exit(1)
