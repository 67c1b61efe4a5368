"""gatewatch windows."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.terminal import tell

app = typer.Typer(
    no_args_is_help=True, help="Maintenance windows: nobody is told of their streams, or nothing learned."
)

Url = Annotated[str, typer.Option("--url", help="the service")]
Name = Annotated[str, typer.Argument(help="of the window: letters, digits, . _ -")]
SERVICE = "http://127.0.0.1:8000"


@app.command()
def show(url: Url = SERVICE) -> None:
    """All windows as JSON, and whether each is going on."""
    from gatewatch.service.client.models import read_document

    _tell(read_document(url, "/v1/windows"))


@app.command("set")
def set_(
    name: Name,
    given: Annotated[
        list[str],
        typer.Argument(
            help="as stream=pump-* start=2026-05-04T08:00:00+02:00 end=2026-05-04T12:00:00+02:00; "
            "or days=sat,sun hours=22:00-06:00 zone=Europe/Berlin; tags.line=3, skip=judging, text=..."
        ),
    ],
    url: Url = SERVICE,
) -> None:
    """Have a window, instead of the one of its name."""
    from gatewatch.service.client.models import put_document

    window: dict[str, Any] = {}
    for text in given:
        field, equals, value = text.partition("=")
        if not equals or not value:
            raise GatewatchError(f"{text!r} says nothing; expected name=value, as hours=22:00-06:00")
        outer, dot, inner = field.partition(".")
        if dot:
            window.setdefault(outer, {})[inner] = value
        else:
            window[field] = value.split(",") if field == "days" else value
    _tell(put_document(url, _path(name), window))


@app.command()
def end(name: Name, url: Url = SERVICE) -> None:
    """End a window, or take it away."""
    from gatewatch.service.client.models import put_document

    _tell(put_document(url, _path(name), None))


def _path(name: str) -> str:
    return f"/v1/windows/{quote(name, safe='')}"


def _tell(answer: Any) -> None:
    tell(json.dumps(answer["windows"], indent=2, ensure_ascii=False))
