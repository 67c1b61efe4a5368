"""Ask another server for JSON: bounded in bytes and in time, whatever it is; what it does wrong is told in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import httpx2

from gatewatch.models.errors import ChangedMeanwhile, GatewatchError
from gatewatch.service.settings import COMMANDS_KEY

OUTDATED: Final = 412
LARGEST_ANSWER = 256 * 2**20
MOST_SAID = 4096
"""Bytes of an error that are read."""

LONGEST_S = 120.0
"""From the request to the last byte of its answer."""


def key() -> str | None:
    """The API key that commands show: from the environment, since a command line is for everybody to read."""
    return os.environ.get(COMMANDS_KEY) or None


def credentials() -> dict[str, str]:
    """The header with the key, if there is one."""
    shown = key()
    return {} if shown is None else {"authorization": f"Bearer {shown}"}


@contextmanager
def connected(url: str, *, show_key: bool = True) -> Iterator[httpx2.Client]:
    """A client of one server. Raises GatewatchError for what is no URL, and where the server does not answer.

    Args:
        show_key: the server is a Gatewatch; no other is shown the key.
    """
    try:
        with httpx2.Client(base_url=url, timeout=60, headers=credentials() if show_key else {}) as client:
            yield client
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise GatewatchError(f"{url}: {error}; expected http://host:port") from error
    except httpx2.HTTPError as error:
        raise GatewatchError(f"{url} does not answer: {error}") from error


def exchange(
    client: httpx2.Client, method: str, path: str, params: Mapping[str, str] | None = None, **body: Any
) -> tuple[int, bytes]:
    """Status and content of an answer.

    Args:
        body: `json` or `content` of the request, and its `headers`, as httpx2 takes them.

    Raises:
        GatewatchError: the answer is too large, or takes too long.
        httpx2.HTTPError: there is none.
    """
    began, found = time.monotonic(), bytearray()
    with client.stream(method, path, params=params, **body) as reply:
        for chunk in reply.iter_bytes():
            found += chunk
            if len(found) > LARGEST_ANSWER or time.monotonic() - began > LONGEST_S:
                raise GatewatchError(
                    f"{client.base_url} answered {path} with more than {LARGEST_ANSWER} bytes, or for longer than "
                    f"{LONGEST_S:g} s"
                )
    return reply.status_code, bytes(found)


def ask(
    client: httpx2.Client, method: str, path: str, params: Mapping[str, str] | None = None, body: Any = None
) -> tuple[int, Any]:
    """Status and JSON of an answer; of another status than 200, its text.

    Raises:
        GatewatchError: the answer is too large, takes too long, or is no JSON.
        httpx2.HTTPError: there is none.
    """
    status, found = exchange(client, method, path, params, json=body)
    if status != 200:
        return status, found[:MOST_SAID].decode(errors="replace")
    try:
        return 200, json.loads(found)
    except (ValueError, RecursionError) as error:
        raise GatewatchError(f"{client.base_url} answered {path} with what is no JSON: {found[:100]!r}") from error


def answered(
    client: httpx2.Client, method: str, path: str, body: Any = None, params: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON object that a service answers. Raises ChangedMeanwhile, or GatewatchError with what it says instead."""
    status, answer = ask(client, method, path, params, body)
    if status == 200:
        found: dict[str, Any] = answer
        return found
    raise refused(client, status, answer)


def refused(client: httpx2.Client, status: int, answer: str) -> GatewatchError:
    """What a service says instead of what was asked for."""
    try:
        detail = json.loads(answer)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer
    kind = ChangedMeanwhile if status == OUTDATED else GatewatchError
    return kind(f"{client.base_url}: {detail} ({status})")
