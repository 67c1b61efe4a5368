"""gatewatch replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.options import ReadOptions
from gatewatch.models.recordings.recording import read_recordings
from gatewatch.models.text import listed
from gatewatch.service.cli_support.progress import scan_progress
from gatewatch.service.cli_support.reading import Announcer, reads_recordings
from gatewatch.service.cli_support.stream_names import as_streams
from gatewatch.service.cli_support.terminal import AsJson, sensors, stopped, tell, tell_json, warn_in_one_line
from gatewatch.service.doors.door import STREAM_NAME

if TYPE_CHECKING:
    from gatewatch.models.recordings.recording import Recording
    from gatewatch.service.client.replay import Replayed


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
        int | None,
        typer.Option(
            help="readings a request, 128 if not given; no more than the service's history, so that all can be sent "
            "again. With --warm-up 2000",
            min=1,
        ),
    ] = None,
    start_seq: Annotated[
        int | None, typer.Option(help="seq of the first reading; goes on where the stream stands if not given", min=0)
    ] = None,
    as_json: AsJson = False,
    warm_up: Annotated[
        bool,
        typer.Option(
            "--warm-up",
            help="as the past of the stream: at bulk speed, without alerts and incidents; rows are known by their "
            "times, or by seq where the stream has numbers or --start-seq is given",
        ),
    ] = False,
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
        if not STREAM_NAME.fullmatch(stream):
            raise RecordingError(
                f"--stream {stream!r}: expected 1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit"
            )
        recordings = [replace(recordings[0], stream=stream)]
    recordings = as_streams(recordings)
    if out is not None and out.resolve() == file.resolve():
        raise RecordingError(f"{out}: would be written over the recording; name another file")
    if warm_up and out is not None:
        raise RecordingError("--out is for scores, and --warm-up has none; leave one of them out")
    try:
        if warm_up:
            found = _as_past(recordings, url, batch, start_seq)
        else:
            found = replay_recordings(recordings, url, out, batch or 128, start_seq)
    except KeyboardInterrupt:
        stopped("; what was answered is kept. Run the same command again: nothing counts twice, and it goes on")
    if as_json:
        streams = {name: dict(sorted(counts.items())) for name, counts in found.counts.items()}
        told = {"streams": streams, "refused": found.refused, "first_refused": found.first or None}
        tell_json({**told, "unknown": sorted(found.unknown)} if warm_up else told)
    for name, counts in found.counts.items() if not as_json else ():
        tell(f"{name}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    if found.unknown:
        warn_in_one_line(f"taken without what the model of the stream does not know: {listed(sorted(found.unknown))}")
    if found.refused:
        warn_in_one_line(f"{found.refused} readings were rejected or in conflict; the first: {found.first}")
        raise typer.Exit(1)


def _as_past(recordings: Sequence[Recording], url: str, batch: int | None, start_seq: int | None) -> Replayed:
    from gatewatch.service.client.warm_up import ROWS, warm_up_with

    with scan_progress("warm up") as progress:
        for recording in recordings:
            progress.expect(len(recording))
        return warm_up_with(recordings, url, batch or ROWS, start_seq, progress.count)
