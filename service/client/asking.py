"""Ask a server for readings: what it does wrong is a RecordingError in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2
import numpy as np

from gatewatch.models.errors import GatewatchError, RecordingError
from gatewatch.models.recordings.recording import LONGEST_NAME, MOST_CHANNELS
from gatewatch.models.recordings.values import LATEST_S
from gatewatch.service.client.remote import ask, connected


class NothingThere(RecordingError):
    """The server answered 404."""


def unix_ms(moment: str) -> int:
    """Unix milliseconds of RFC 3339 or Unix seconds. Raises RecordingError."""
    try:
        seconds = float(moment)
    except ValueError:
        try:
            at = datetime.fromisoformat(moment)
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = np.nan
    if not 0 <= seconds < LATEST_S:
        raise RecordingError(f"{moment!r:.80} is not a time after 1970; expected RFC 3339 or Unix seconds")
    return round(seconds * 1000)


def check_channels(client: httpx2.Client, channels: Sequence[str]) -> None:
    """Raise RecordingError where there are more channels than are read, or one with too long a name."""
    if len(channels) > MOST_CHANNELS or any(len(channel) > LONGEST_NAME for channel in channels):
        raise RecordingError(
            f"{client.base_url}: {len(channels)} channels, with names of up to {max(map(len, channels))} characters; "
            f"at most {MOST_CHANNELS} of at most {LONGEST_NAME} are read"
        )


@contextmanager
def client_of(url: str, *, show_key: bool = True) -> Iterator[httpx2.Client]:
    """A client of one server; `show_key` as in `connected`.

    Raises:
        RecordingError: it is no URL, or the server does not answer.
    """
    try:
        with connected(url, show_key=show_key) as client:
            yield client
    except RecordingError:
        raise
    except GatewatchError as error:
        raise RecordingError(str(error)) from error


@contextmanager
def understood(client: httpx2.Client, what: str) -> Iterator[None]:
    """Take an answer apart; RecordingError where it is of another form."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(
            f"{client.base_url} answered for {what} with what is none ({type(error).__name__}: {error!s:.200})"
        ) from error


def answer(client: httpx2.Client, path: str, parameters: Mapping[str, str] | None = None) -> Any:
    """The JSON that a server answers a GET with. Raises RecordingError, NothingThere for 404."""
    status, told = ask(client, "GET", path, parameters)
    if status != 200:
        kind = NothingThere if status == 404 else RecordingError
        raise kind(f"{client.base_url} answered {status} to {path}: {told}")
    return told
