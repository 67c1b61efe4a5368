"""gatewatch policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.terminal import tell

app = typer.Typer(no_args_is_help=True, help="What is asked of streams: tags, sensitivity and more, by pattern.")

Url = Annotated[str, typer.Option("--url", help="the service")]
One = Annotated[bool, typer.Option("--stream", help="PATTERN is the name of one stream, whose own policy counts most")]
SERVICE = "http://127.0.0.1:8000"


@app.command()
def show(
    stream: Annotated[str | None, typer.Argument(help="one stream, and what is asked of it in all")] = None,
    url: Url = SERVICE,
) -> None:
    """All policies as JSON, as `put` takes them; or what they come to for one stream."""
    from gatewatch.service.client.models import POLICIES, read_document

    path, names = POLICIES
    if stream is not None:
        tell(_as_json(read_document(url, f"/v1/streams/{quote(stream, safe='')}/policy")["policy"]))
        return
    known = read_document(url, path)
    tell(_as_json({name: known[name] for name in names}))


@app.command()
def put(
    file: Annotated[Path, typer.Argument(help="JSON as `show` prints it", exists=True, dir_okay=False)],
    url: Url = SERVICE,
) -> None:
    """Replace all policies of a running service by those of a file."""
    from gatewatch.service.client.models import POLICIES, change_document

    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GatewatchError(f"{file} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise GatewatchError(f"{file} is not policies; expected an object with policies and streams")

    def replaced(known: dict[str, Any]) -> None:
        known.clear()
        known.update(given)

    known = change_document(url, POLICIES, replaced)
    have = f"{len(known['policies'])} patterns and {len(known['streams'])} streams"
    tell(f"{have} have policies (number {known['number']})")


@app.command("set")
def set_(
    pattern: Annotated[str, typer.Argument(help="which streams: * is anything, ? one character, [ab] one of these")],
    given: Annotated[
        list[str], typer.Argument(help="as sensitivity=0.5, or tags.site=north; nothing behind = takes it away")
    ],
    one: One = False,
    url: Url = SERVICE,
) -> None:
    """Have a running service ask something of streams. What the pattern asks already stays, but for what is named."""
    from gatewatch.service.client.models import POLICIES, change_document

    said = [_said(text) for text in given]

    def changed(known: dict[str, Any]) -> None:
        if one:
            policy = known["streams"].setdefault(pattern, {})
        else:
            policy = next((entry for entry in known["policies"] if entry["pattern"] == pattern), None)
            if policy is None:
                policy = {"pattern": pattern}
                known["policies"].append(policy)
        for names, value in said:
            _put_in(policy, names, value)
        if not policy.keys() - {"pattern"}:
            if one:
                del known["streams"][pattern]
            else:
                known["policies"].remove(policy)

    known = change_document(url, POLICIES, changed)
    entry = (
        known["streams"].get(pattern)
        if one
        else next((entry for entry in known["policies"] if entry["pattern"] == pattern), None)
    )
    tell(_as_json(entry) if entry else f"nothing is asked of {pattern} any more")


def _said(text: str) -> tuple[list[str], Any]:
    """What `name.name=value` says; a value that is JSON is taken as such, else as text, None where there is none."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise GatewatchError(f"{text!r} says nothing; expected name=value, as sensitivity=0.5")
    try:
        return name.split("."), json.loads(value) if value else None
    except ValueError:
        return name.split("."), value


def _put_in(policy: dict[str, Any], names: list[str], value: Any) -> None:
    *outer, last = names
    inside = policy
    for name in outer:
        inside = inside.setdefault(name, {})
        if not isinstance(inside, dict):
            raise GatewatchError(f"{'.'.join(names)}: there is nothing inside {name}")
    if names in (["quiet"], ["faults"]) and value is None:  # what is not said of them stays
        inside[last] = []
    elif value is None:
        inside.pop(last, None)
        if outer and not inside:
            _put_in(policy, outer, None)
    else:
        inside[last] = str(value) if outer[:1] == ["tags"] else value


def _as_json(what: Any) -> str:
    return json.dumps(what, indent=2, ensure_ascii=False)
