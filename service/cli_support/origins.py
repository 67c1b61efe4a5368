"""Where recordings to train on come from, and which of them make one model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.labels import label_columns, without_labels
from gatewatch.models.recordings.options import AS_FOUND, ReadOptions
from gatewatch.models.recordings.recording import Source, read_pieces, recording_files
from gatewatch.models.recordings.review import LeftOut
from gatewatch.service.cli_support.reading import Announcer
from gatewatch.service.cli_support.terminal import say_left_out

GROUPINGS = ("all", "stream", "folder", "channel")
FOLDER_NAME = re.compile(r"[\w-][\w .:-]{0,127}")


@dataclass(frozen=True)
class Origin:
    """Where recordings come from: files, a service or a Prometheus server; see the options of `gatewatch train`."""

    files: Sequence[Path]
    service: str | None
    streams: Sequence[str]
    prometheus: str | None
    queries: Sequence[str]
    start: str | None
    end: str | None
    step_s: float
    stream_label: str
    how: ReadOptions = AS_FOUND

    def gather(self, one_model_per: str) -> dict[str, list[Source]]:
        """Recordings by the name of their model; "" where one is made of all.

        Raises:
            GatewatchError: not exactly one origin, or an option is missing.
            RecordingError: there is nothing there, or it cannot be read; a name that is no name of a folder.
        """
        if one_model_per not in GROUPINGS:
            raise GatewatchError(f"--one-model-per {one_model_per}: expected one of {', '.join(GROUPINGS)}")
        if sum((bool(self.files), self.service is not None, self.prometheus is not None)) != 1:
            raise GatewatchError("expected one of: files, --from-service URL, --from-prometheus URL")
        if self.streams and self.service is None:
            raise GatewatchError("--stream is of --from-service; expected its URL beside it")
        if (self.queries or self.start or self.end) and self.prometheus is None:
            raise GatewatchError("--query, --start and --end are of --from-prometheus; expected its URL beside them")
        if one_model_per == "folder" and not self.files:
            raise GatewatchError("--one-model-per folder is for files")
        found = self._named()
        if one_model_per == "all":
            return {"": [recording for _, recording in found]}
        groups: dict[str, list[Source]] = {}
        for folder, recording in found:
            if one_model_per == "channel":
                named = _channel_by_channel(recording)
            else:
                named = {recording.stream if one_model_per == "stream" else folder: recording}
            for name, source in named.items():
                if not FOLDER_NAME.fullmatch(name):
                    raise RecordingError(
                        f"a model of {name!r} needs a folder of this name: expected letters, digits, spaces, . : _ -"
                    )
                groups.setdefault(name, []).append(source)
        return groups

    def _named(self) -> list[tuple[str, Source]]:
        """The recordings, each with the name of the folder that its file lies in."""
        if self.service is not None:
            return [("", recording) for recording in self._history(self.service)]
        if self.prometheus is not None:
            from gatewatch.service.client.prometheus import prometheus_recordings

            if not (self.queries and self.start and self.end):
                raise GatewatchError("--from-prometheus needs --query, --start and --end")
            found = prometheus_recordings(
                self.prometheus, self.queries, self.start, self.end, self.step_s, self.stream_label
            )
            return [("", recording) for recording in found]
        from gatewatch.models.training.stored import TemporaryRows, store

        rows, say = TemporaryRows(), Announcer()
        return [
            (path.resolve().parent.name, recording)
            for path in recording_files(self.files)
            for recording in store(read_pieces(path, options=self.how, tell=say), rows)
        ]

    def _history(self, url: str) -> list[Source]:
        """What a service keeps, without what was labelled or judged anomalous; standard error says how much that is."""
        from gatewatch.service.client.history import reviewed_histories

        reviewed = reviewed_histories(url, self.streams)
        left_out = LeftOut.of(reviewed)
        say_left_out(left_out, "label these incidents false_alarm, and they are taken")
        kept = [stretch for one in reviewed for stretch in one.stretches()]
        if not kept:
            raise RecordingError(f"{url}: all {left_out.readings} readings were labelled or judged anomalous")
        return kept


def _channel_by_channel(recording: Source) -> dict[str, Source]:
    """Each channel of a recording for itself, by name, with the columns that mark readings beside it."""
    labels = label_columns(recording)
    return {channel: recording.only([channel, *labels]) for channel in without_labels(recording).channels}
