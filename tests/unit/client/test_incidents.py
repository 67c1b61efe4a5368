"""Incidents as an iterator: each change once, through broken connections, until the client is closed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gatewatch.client import AsyncClient, Client, Incident, Refused
from tests.api.test_incidents import CALM, fault
from tests.support.relay import Relay
from tests.support.waiting import PATIENCE_S
from tests.support.whole_path import serving


@pytest.fixture(scope="module")
def url(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(artefact, tmp_path_factory.mktemp("data")) as (url, _):
        yield url


@pytest.fixture(autouse=True)
def slow_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose connection ended is away long enough for something to happen."""
    monkeypatch.setattr("gatewatch.client.delivery.FIRST_WAIT_S", 3.0)


def break_down(url: str, stream: str) -> None:
    httpx2.post(f"{url}/v1/readings", json=fault(stream), timeout=30).raise_for_status()


def note(url: str, stream: str, text: str) -> None:
    said = httpx2.post(f"{url}/v1/incidents/{CALM}.{stream}/note", json={"text": text})
    said.raise_for_status()


def until(heard: list[Incident], stream: str, note: str | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not any(one.stream == stream and (note is None or note in one.notes) for one in heard):
        assert time.monotonic() < deadline, heard
        time.sleep(0.05)


def test_each_change_is_heard_once_also_those_of_a_break(url: str) -> None:
    heard: list[Incident] = []
    with Relay(url) as relay, Client(relay.url) as client:
        listener = threading.Thread(target=lambda: heard.extend(client.incidents(since=time.time() - 5)))
        listener.start()
        break_down(url, "first")
        until(heard, "first")
        relay.cut()
        break_down(url, "second")
        note(url, "first", "belt")
        until(heard, "second")
        until(heard, "first", "belt")
        relay.cut()
        note(url, "second", "bearing")
        until(heard, "second", "bearing")
        client.close()
        listener.join(5)
        assert not listener.is_alive()
    assert Counter((one.id, one.notes, one.last) for one in heard).most_common(1)[0][1] == 1
    one = next(one for one in heard if one.stream == "first")
    assert (one.id, one.peak_score > 1, one.channels[0].share > 0) == (f"{CALM}.first", True, True)
    assert one.fields["alerts"]


def test_a_listener_from_now_on_hears_what_changes_after_its_connection_broke(url: str) -> None:
    heard: list[Incident] = []
    with Relay(url) as relay, Client(relay.url) as client:
        listener = threading.Thread(target=lambda: heard.extend(client.incidents()))
        listener.start()
        deadline = time.monotonic() + PATIENCE_S
        while not client._connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        relay.cut()
        break_down(url, "third")
        until(heard, "third")
        client.close()
        listener.join(5)
        assert not listener.is_alive()


def test_who_has_heard_enough_breaks_off_and_the_connection_ends(url: str) -> None:
    break_down(url, "fourth")
    with Client(url) as client:
        heard = client.incidents(since=0)
        assert next(heard).id
        heard.close()
        assert not client._connections


def test_a_listener_who_may_not_is_told(url: str) -> None:
    with Client(f"{url}/nowhere") as client, pytest.raises(Refused, match="404"):
        next(client.incidents())


def test_the_asynchronous_client_hears_the_same(url: str) -> None:
    async def run() -> list[Incident]:
        heard: list[Incident] = []

        async def listen(client: AsyncClient) -> None:
            async for incident in client.incidents(since=time.time() - 5):
                heard.append(incident)  # noqa: PERF401 - others look at it meanwhile

        with Relay(url) as relay:
            async with AsyncClient(relay.url) as client:
                listener = asyncio.create_task(listen(client))
                await asyncio.to_thread(break_down, url, "fifth")
                await asyncio.to_thread(until, heard, "fifth")
                relay.cut()
                await asyncio.to_thread(note, url, "fifth", "seal")
                await asyncio.to_thread(until, heard, "fifth", "seal")
                given_up = asyncio.create_task(listen(client))
                await asyncio.sleep(0.2)
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
            await asyncio.wait_for(listener, 5)
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        return heard

    heard = asyncio.run(run())
    assert Counter((one.id, one.notes, one.last) for one in heard).most_common(1)[0][1] <= 2  # two listeners
