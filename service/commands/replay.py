"""gatewatch replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import read_recordings
from gatewatch.service.cli_support.reading import Announcer, reads_recordings
from gatewatch.service.cli_support.terminal import AsJson, sensors, stopped, tell, tell_json, warn_in_one_line


@reads_recordings
def replay(
    file: Annotated[Path, typer.Argument(help="a recording")],
    url: Annotated[str, typer.Option(help="the service")] = "http://127.0.0.1:8000",
    stream: Annotated[
        str | None, typer.Option(help="stream to post to, for a file of one; default: the recording's name")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV for timestamp, score and status of each reading, and its stream if there are several"),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            help="readings a request; no more than the service's history, so that all can be sent again", min=1
        ),
    ] = 128,
    start_seq: Annotated[
        int | None, typer.Option(help="seq of the first reading; goes on where the stream stands if not given", min=0)
    ] = None,
    as_json: AsJson = False,
    *,
    how: ReadOptions,
) -> None:
    """Post a recording to a running service, every row a reading numbered by `seq`.

    The files of one stream go on after each other; a file sent again gets the answers it had.

    Exit status 1 if a reading was rejected or in conflict with what the service has.
    """
    from gatewatch.service.client.replay import replay_recordings

    recordings = sensors(read_recordings(file, how, Announcer()))
    if stream is not None:
        if len(recordings) > 1:
            raise RecordingError(
                f"{file}: --stream {stream} names one stream, the file holds {len(recordings)}; without --stream each "
                "is posted under its own name"
            )
        recordings = [replace(recordings[0], stream=stream)]
    if out is not None and out.resolve() == file.resolve():
        raise RecordingError(f"{out}: would be written over the recording; name another file")
    try:
        found = replay_recordings(recordings, url, out, batch, start_seq)
    except KeyboardInterrupt:
        stopped("; what was answered is kept. Run the same command again: nothing counts twice, and it goes on")
    if as_json:
        streams = {name: dict(sorted(counts.items())) for name, counts in found.counts.items()}
        tell_json({"streams": streams, "refused": found.refused, "first_refused": found.first or None})
    for name, counts in found.counts.items() if not as_json else ():
        tell(f"{name}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    if found.refused:
        warn_in_one_line(f"{found.refused} readings were rejected or in conflict; the first: {found.first}")
        raise typer.Exit(1)
