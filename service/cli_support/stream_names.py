"""Names of recordings as names of streams, which a service takes of some characters only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.text import one_line
from gatewatch.service.cli_support.terminal import warn
from gatewatch.service.doors.door import STREAM_NAME

LONGEST: Final = 128

UMLAUTS: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})


def stream_name(name: str) -> str:
    """A name as one of a stream: the same every time; the name itself where it may stay."""
    if STREAM_NAME.fullmatch(name):
        return name
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", name).translate(UMLAUTS))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", "".join(sign for sign in plain if not unicodedata.combining(sign)))
    return plain.strip("-._")[:LONGEST] or "stream"


def as_streams(recordings: Sequence[Recording]) -> list[Recording]:
    """Recordings under names of streams; which one goes under another name is said.

    Raises:
        RecordingError: two of them would have one name.
    """
    names: dict[str, str] = {}
    for name in dict.fromkeys(recording.stream for recording in recordings):
        new = stream_name(name)
        if new in names.values():
            other = next(one for one, taken in names.items() if taken == new)
            raise RecordingError(
                f"{one_line(name)} and {one_line(other)} would both be the stream {new}, since a stream's name has "
                "letters, digits, '.', '_' and '-' only: rename one"
            )
        names[name] = new
        if new != name:
            warn(f"{one_line(name)} is posted as {new}: a stream's name has letters, digits, '.', '_' and '-' only")
    return [replace(recording, stream=names[recording.stream]) for recording in recordings]
