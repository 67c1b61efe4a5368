"""gatewatch incidents."""

from __future__ import annotations

import csv
import getpass
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

import typer

from gatewatch.service.cli_support.terminal import AsJson, tell, tell_columns, tell_json

app = typer.Typer(no_args_is_help=True, help="What is anomalous, and what people say of it.")

Url = Annotated[str, typer.Option("--url", help="the service")]
Id = Annotated[str, typer.Argument(help="its id, as `list` shows it")]
By = Annotated[str | None, typer.Option("--by", help="who says it; the user of this machine if not given")]
SERVICE = "http://127.0.0.1:8000"


@app.command("list")
def list_incidents(
    state: Annotated[Literal["open", "ended"] | None, typer.Option(help="both if not given")] = None,
    stream: Annotated[str, typer.Option(help="a pattern of names, * for anything")] = "",
    tag: Annotated[str, typer.Option(help="as site=north, of its stream when it began")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: AsJson = False,
    url: Url = SERVICE,
) -> None:
    """Incidents, those that began last first."""
    searched = {"state": state, "stream": stream, "tag": tag}
    asked = {"limit": str(limit), **{name: value for name, value in searched.items() if value}}
    found = _answer(url, "GET", f"/v1/incidents?{urlencode(asked)}")["incidents"]
    if as_json:
        tell_json({"incidents": found})
        return
    heads = ("id", "stream", "state", "start", "reason", "peak score", "channel", "label", "acknowledged by")
    tell_columns(heads, [_row(one) for one in found])


@app.command()
def faults(
    stream: Annotated[str, typer.Option(help="a pattern of names, * for anything")] = "",
    url: Url = SERVICE,
) -> None:
    """What was labelled true, as evaluate and retrain take it with --labels: stream,start,end, from onset to last.

    Silences are left out: they have no readings.
    """
    from gatewatch.service.incidents.incident import SILENT_REASON

    found: dict[str, list[tuple[str, str]]] = {}
    for one in _every(url, {"stream": stream} if stream else {}):
        if one["label"] == "true" and one["reason"] != SILENT_REASON:
            found.setdefault(one["stream"], []).append((one["onset"], one["last"]))
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("stream", "start", "end"))
    for name, spans in sorted(found.items()):
        rows.writerows((name, *span) for span in _apart(spans))


@app.command()
def show(incident: Id, url: Url = SERVICE) -> None:
    """All that is kept of an incident, as JSON."""
    tell_json(_answer(url, "GET", _path(incident)))


@app.command()
def acknowledge(incident: Id, by: By = None, url: Url = SERVICE) -> None:
    """Say that somebody has seen it."""
    said = _answer(url, "POST", f"{_path(incident)}/acknowledge", {"by": by or _user()})["acknowledged"]
    tell(f"{incident}: acknowledged by {said['by']} at {said['at']}")


@app.command()
def close(incident: Id, by: By = None, url: Url = SERVICE) -> None:
    """End it: an incident of a stream whose policy says hold stays open until then, and nothing is learned."""
    said = _answer(url, "POST", f"{_path(incident)}/close", {"by": by or _user()})
    tell(f"{incident}: {said['state']}" + (f", closed by {said['closed']['by']}" if said["closed"] else ""))


@app.command()
def label(
    incident: Id,
    value: Annotated[Literal["true", "false_alarm", "expected"], typer.Argument(metavar="LABEL")],
    by: By = None,
    url: Url = SERVICE,
) -> None:
    """Say what it turned out to be: true, false_alarm or expected. The like of a false alarm is quiet from now on."""
    said = _answer(url, "POST", f"{_path(incident)}/label", {"label": value, "by": by or _user()})
    tell(f"{incident}: {said['label']}")
    rows = [
        (one["channel"], one["direction"] or "still or absent", f"{one['deviation']:.6g}", f"{one['score']:.3g}")
        for one in said["quiet"]
        if one["incident"] == incident
    ]
    if rows:
        tell_columns(("quiet: channel", "direction", "off by at most", "part of the score at most"), rows)


@app.command()
def note(
    incident: Id, text: Annotated[str, typer.Argument(help="up to 1000 characters")], by: By = None, url: Url = SERVICE
) -> None:
    """Write a remark."""
    said = _answer(url, "POST", f"{_path(incident)}/note", {"text": text, "by": by or _user()})
    tell(f"{incident}: {len(said['notes'])} notes")


def _every(url: str, searched: dict[str, str]) -> Iterator[dict[str, Any]]:
    """All incidents of a service, page by page."""
    from gatewatch.service.client.remote import answered, connected

    with connected(url) as client:
        asked, after = {"limit": "500", **searched}, ""
        while after is not None:
            page = answered(client, "GET", f"/v1/incidents?{urlencode(asked | ({'after': after} if after else {}))}")
            yield from page["incidents"]
            after = page["next"]


def _apart(spans: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Spans in their order; those that overlap, as one."""
    apart: list[tuple[str, str]] = []
    for start, end in sorted(spans, key=lambda one: datetime.fromisoformat(one[0])):
        if apart and datetime.fromisoformat(start) <= datetime.fromisoformat(apart[-1][1]):
            start, before = apart.pop()
            end = max(before, end, key=datetime.fromisoformat)
        apart.append((start, end))
    return apart


def _path(incident: str) -> str:
    return f"/v1/incidents/{quote(incident, safe='')}"


def _answer(url: str, method: str, path: str, body: Any = None) -> Any:
    from gatewatch.service.client.remote import answered, connected

    with connected(url) as client:
        return answered(client, method, path, body)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    channel = one["channels"][0]["channel"] if one["channels"] else ""
    by = one["acknowledged"]["by"] if one["acknowledged"] else ""
    score = f"{one['peak_score']:.3g}"
    return one["id"], one["stream"], one["state"], one["start"], one["reason"], score, channel, one["label"] or "", by
