"""gatewatch streams."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.terminal import tell, tell_columns

app = typer.Typer(no_args_is_help=True, help="What streams stand at: out of a service, into one, back, and copied.")

Url = Annotated[str, typer.Option("--url", help="the service")]
Stream = Annotated[str, typer.Argument(help="the stream's name")]
Snapshot = Annotated[str, typer.Argument(help="the snapshot's name")]
SERVICE = "http://127.0.0.1:8000"


@app.command("export")
def export_stream(
    stream: Stream,
    out: Annotated[Path | None, typer.Option(help="the file; default: the stream's name and .state")] = None,
    url: Url = SERVICE,
) -> None:
    """Write all that a stream stands at into one file: record, history, settings, and the model's digest."""
    from gatewatch.service.client.streams import export_state

    path = out or Path(f"{stream}.state")
    content = export_state(url, stream)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise GatewatchError(f"{path}: the state cannot be written: {error.strerror}") from error
    tell(f"{path}: {len(content)} bytes")


@app.command("import")
def import_stream(
    file: Annotated[Path, typer.Argument(help="as `export` wrote it")],
    stream: Annotated[str, typer.Argument(help="the stream that goes on from it")],
    as_new: Annotated[
        bool, typer.Option("--as-new", help="it begins this stream, which is new; it may be of another one")
    ] = False,
    url: Url = SERVICE,
) -> None:
    """Have a stream go on from an exported state, whatever it stood at."""
    from gatewatch.service.client.streams import import_state

    try:
        content = file.read_bytes()
    except OSError as error:
        raise GatewatchError(f"{file}: {error.strerror}") from error
    _tell(import_state(url, stream, content, as_new=as_new))


@app.command()
def snapshot(stream: Stream, name: Snapshot, url: Url = SERVICE) -> None:
    """Keep what a stream stands at within the service, under a name."""
    from gatewatch.service.client.streams import change

    kept = change(url, stream, "snapshots", body={"name": name})
    tell(f"{kept['name']}: {stream} at {kept['readings']} readings, {kept['bytes']} bytes")


@app.command()
def snapshots(stream: Stream, url: Url = SERVICE) -> None:
    """List a stream's snapshots."""
    from gatewatch.service.client.streams import snapshots_of

    names = ("name", "taken_at", "readings", "last_timestamp", "model", "bytes")
    rows = [[str(one[name]) for name in names] for one in snapshots_of(url, stream)]
    tell_columns(("name", "taken", "readings", "last reading", "model", "bytes"), rows)


@app.command()
def rollback(stream: Stream, name: Snapshot, url: Url = SERVICE) -> None:
    """Have a stream go on from a snapshot; what was applied since is undone, with its incidents."""
    from gatewatch.service.client.streams import change

    _tell(change(url, stream, "snapshots", name, "rollback"))


@app.command()
def forget(stream: Stream, name: Snapshot, url: Url = SERVICE) -> None:
    """Delete a snapshot."""
    from gatewatch.service.client.streams import delete_snapshot

    delete_snapshot(url, stream, name)


@app.command()
def reset(
    stream: Stream,
    sequence: Annotated[bool, typer.Option("--sequence", help="only the count: the next seq is new")] = False,
    url: Url = SERVICE,
) -> None:
    """Begin a stream anew: state, history and incidents are gone, settings and snapshots stay."""
    from gatewatch.service.client.streams import change

    _tell(change(url, stream, "reset", params={"what": "sequence" if sequence else "state"}))


@app.command("remove-channel")
def remove(
    stream: Stream, channel: Annotated[str, typer.Argument(help="the channel's name")], url: Url = SERVICE
) -> None:
    """Take a channel out of a stream's state and history; the other channels' stay as they are."""
    from gatewatch.service.client.streams import remove_channel

    _tell(remove_channel(url, stream, channel))


@app.command()
def fork(
    stream: Stream,
    to: Annotated[str, typer.Argument(help="the copy's name")],
    model: Annotated[str | None, typer.Option(help="pin the copy to this model, as pumps@3")] = None,
    url: Url = SERVICE,
) -> None:
    """Copy a stream under another name, to try another model on it."""
    from gatewatch.service.client.streams import change

    _tell(change(url, stream, "fork", params={"to": to, **({} if model is None else {"model": model})}))


def _tell(known: dict[str, Any]) -> None:
    last = f", the last of {known['last_timestamp']}" if known["readings"] else ""
    tell(f"{known['stream']}: {known['readings']} readings{last}; {known['status']}, model {known['model']}")
