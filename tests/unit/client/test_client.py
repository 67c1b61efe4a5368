"""The client: whatever happens to its requests, the service applies each of its readings once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pandas
import polars
import pytest

from gatewatch.client import (
    AsyncClient,
    Client,
    ClientError,
    QueueFull,
    Reading,
    Refused,
    Result,
    Unavailable,
    readings_of,
)
from gatewatch.client.spool import Spool
from tests.support.relay import Relay
from tests.support.samples import CHANNELS
from tests.support.whole_path import serving

BEGAN = 1_700_000_000
_streams = itertools.count()


@pytest.fixture(scope="module")
def url(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(artefact, tmp_path_factory.mktemp("data"), GATEWATCH_HISTORY_READINGS="4096") as (url, _):
        yield url


@pytest.fixture
def stream() -> str:
    return f"pump-{next(_streams)}"


def values(n: int) -> dict[str, float | None]:
    return {channel: math.sin(n / 10 + at) for at, channel in enumerate(CHANNELS)}


def readings(stream: str, count: int) -> list[Reading]:
    return [Reading.of(stream, values(n), BEGAN + n) for n in range(count)]


def applied(url: str, stream: str) -> list[float]:
    """The times of the readings that the service has of a stream, in seconds since BEGAN."""
    found = httpx2.get(f"{url}/v1/streams/{stream}/history").json()
    times = [datetime.fromisoformat(one["result"]["timestamp"]).timestamp() - BEGAN for one in found]
    assert httpx2.get(f"{url}/v1/streams/{stream}").json()["readings"] == len(times)
    return times


def test_readings_are_numbered_scored_and_told_in_order(url: str, stream: str) -> None:
    told: list[tuple[int | None, str]] = []
    with Client(url, on_result=lambda reading, result: told.append((reading.seq, result.status))) as client:
        for n in range(250):
            client.send(stream, values(n), BEGAN + n)
        client.flush()
        last = client.post([Reading.of(stream, values(250), BEGAN + 250)])
    assert [seq for seq, _ in told] == list(range(251))
    assert {status for _, status in told} <= {"warming_up", "normal", "anomalous"}
    assert last[0].seq == 250
    assert last[0].score is not None
    assert applied(url, stream) == list(range(251))


def test_a_lost_answer_costs_no_reading_and_doubles_none(url: str, stream: str) -> None:
    with Relay(url) as relay, Client(relay.url, batch_readings=10, linger_s=0.01) as client:
        for start in range(0, 100, 10):
            relay.lose, relay.after = b"POST", start % 20 == 0
            results = client.post(readings(stream, 100)[start : start + 10])
            assert [result.status for result in results if result.error] == []
            assert relay.lose == b""
    assert applied(url, stream) == list(range(100))


def test_readings_wait_in_the_spool_while_the_service_is_away(url: str, stream: str, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    away = Client("http://127.0.0.1:9", spool=spool)
    away.send_many(readings(stream, 300))
    with pytest.raises(Unavailable, match="refused"):
        away.flush(0.5)
    away.close(0)
    with Client(url, spool=spool) as client:
        assert client.waiting > 0
        client.flush()
        assert client.waiting == 0
    assert applied(url, stream) == list(range(300))


def test_a_killed_sender_loses_nothing_that_its_spool_has(url: str, stream: str, tmp_path: Path) -> None:
    program = """
import itertools, sys
from gatewatch.client import Client, Reading
client = Client(sys.argv[1], spool=sys.argv[2], batch_readings=20, linger_s=0.001)
for n in itertools.count(int(sys.argv[4])):
    client.send(sys.argv[3], {name: n % 7 for name in sys.argv[5:]}, 1_700_000_000 + n, seq=n)
    print(n, flush=True)
"""
    sent = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, url, str(tmp_path / "spool"), stream, str(sent), *CHANNELS],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in itertools.islice(process.stdout, 200):
            sent = int(line) + 1
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split()
        sent = int(rest[-1]) + 1 if rest else sent
    with Client(url, spool=tmp_path / "spool") as client:
        client.flush()
    times = applied(url, stream)
    assert sorted(set(times)) == sorted(times)
    assert set(range(sent)) <= set(times) <= set(range(sent + 1))  # the last may be taken and not yet printed


def test_a_reading_that_the_service_rejects_leaves_its_neighbours_alone(url: str, stream: str) -> None:
    with Client(url) as client:
        good, bad = readings(stream, 2), Reading.of("", 1.0, BEGAN)
        results = client.post([good[0], bad, good[1]])
    assert [result.status == "rejected" for result in results] == [False, True, False]
    assert applied(url, stream) == [0, 1]


def test_a_number_that_is_none_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="flow: inf is infinite"):
        Reading.of("pump", {"flow": math.inf})
    with pytest.raises(TypeError, match="flow: '1' is not a number"):
        Reading.of("pump", {"flow": "1"})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="has no zone"):
        Reading.of("pump", 1.0, datetime(2026, 1, 1))
    assert Reading.of("pump", {"flow": math.nan}).values == {"flow": None}


def test_a_service_that_refuses_is_named_and_the_readings_stay(url: str, stream: str) -> None:
    with Client(f"{url}/elsewhere", numbered=False) as client:
        with pytest.raises(Refused, match="404"):
            client.post(readings(stream, 1))
        assert client.waiting == 1
        with pytest.raises(Unavailable, match="1 readings were not acknowledged and are lost"):
            client.close(0)
        client._outbox.queue.done(0)


def test_who_sends_too_much_waits_or_hears_of_it(url: str, stream: str) -> None:
    away = Client("http://127.0.0.1:9", waiting_readings=3)
    away.send_many(readings(stream, 3))
    with pytest.raises(QueueFull, match="3 readings wait"):
        away.try_send(readings(stream, 1))
    with ThreadPoolExecutor() as pool:
        blocked = pool.submit(away.send, stream, values(3))
        assert not wait([blocked], 0.2).done
        with pytest.raises(Unavailable):
            away.close(0)
        with pytest.raises(ClientError, match="closed"):
            blocked.result(5)


def test_a_spool_has_one_sender_and_a_full_disk_is_told(stream: str, tmp_path: Path) -> None:
    first = Client("http://127.0.0.1:9", spool=tmp_path / "spool")
    first.send_many(readings(stream, 5))
    with pytest.raises(ClientError, match="another process has it open"):
        Client("http://127.0.0.1:9", spool=tmp_path / "spool")
    first._outbox.queue._database.execute("PRAGMA max_page_count=1")  # type: ignore[attr-defined]
    with pytest.raises(ClientError, match="full"):
        first.send_many(readings(stream, 10_000))
    kept = first.waiting
    first.close(0)
    with pytest.raises(ClientError, match="cannot be the spool"):
        Client("http://127.0.0.1:9", spool=tmp_path)
    assert kept >= 5


def test_what_waits_on_a_full_disk_is_numbered_and_taken_out_all_the_same(stream: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        away = Client("http://127.0.0.1:9", spool=disk / "spool", batch_readings=200)
        with pytest.raises(ClientError, match="full"):
            away.send_many(readings(stream, 20_000))
        taken = away.waiting
        away.close(0)
        with (disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
            other.write(bytes(4_000_000))  # and somebody else takes the rest
        spool, gone = Spool(disk / "spool"), 0
        while found := spool.first(200):
            spool.number([(number, one) for number, one in found], {stream: gone})
            spool.done(found[-1][0])
            gone += len(found)
        spool.close()
        assert gone == taken > 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_error_in_on_result_does_not_end_the_client(url: str, stream: str) -> None:
    def fail(reading: Reading, result: Result) -> None:
        raise RuntimeError("mine")

    with Client(url, on_result=fail) as client:
        client.send_many(readings(stream, 3))
        client.flush()
    assert applied(url, stream) == [0, 1, 2]


def test_many_threads_may_send_and_each_stream_keeps_its_order(url: str, stream: str) -> None:
    names = [f"{stream}-{thread}" for thread in range(8)]
    with Client(url, batch_readings=64) as client:
        threads = [threading.Thread(target=client.send_many, args=(readings(name, 150),)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        client.flush()
    for name in names:
        assert applied(url, name) == list(range(150))


def test_frames_of_pandas_and_polars_are_readings(url: str, stream: str) -> None:
    moments = [datetime.fromtimestamp(BEGAN + n, UTC) for n in range(4)]
    columns = {"timestamp": moments, "unit": [stream] * 4} | {name: [1.0, None, 2.0, 3.0] for name in CHANNELS}
    of_pandas = list(readings_of(pandas.DataFrame(columns), stream_column="unit"))
    of_polars = list(readings_of(polars.DataFrame(columns), stream_column="unit"))
    of_rows = list(
        readings_of(
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], stream_column="unit"
        )
    )
    assert of_pandas == of_polars == of_rows
    assert of_pandas[1].values == dict.fromkeys(CHANNELS)
    with Client(url) as client:
        assert [result.error for result in client.post(of_pandas)] == [None] * 4
    with pytest.raises(ValueError, match="either stream or stream_column"):
        next(readings_of(columns))


def test_the_asynchronous_client_does_the_same(url: str, stream: str, tmp_path: Path) -> None:
    async def run() -> Counter[str]:
        told: Counter[str] = Counter()
        with Relay(url) as relay:
            async with AsyncClient(
                relay.url,
                spool=tmp_path / "spool",
                batch_readings=20,
                on_result=lambda one, _: told.update([one.stream]),
            ) as client:
                await client.send(stream, values(0), BEGAN)
                relay.lose = b"POST"
                results = await client.post(readings(stream, 100)[1:])
                assert [result.seq for result in results] == list(range(1, 100))
                relay.cut()
                await client.send_many(readings(f"{stream}-b", 50))
                await client.flush()
                assert client.waiting == 0
        return told

    assert asyncio.run(run()) == {stream: 100, f"{stream}-b": 50}
    assert applied(url, stream) == list(range(100))


def test_a_client_without_a_spool_says_what_is_lost_at_its_end(stream: str) -> None:
    async def run() -> None:
        client = AsyncClient("http://127.0.0.1:9")
        await client.__aenter__()
        await client.send(stream, 1.0)
        await client.close(0.2)

    with pytest.raises(Unavailable, match="1 readings were not acknowledged and are lost"):
        asyncio.run(run())


def test_the_client_needs_neither_numpy_nor_the_service(tmp_path: Path) -> None:
    program = (
        "import sys; import gatewatch.client; "
        "heavy = {'numpy', 'onnxruntime', 'fastapi', 'redis', 'torch', 'gatewatch.service'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dead_service_is_asked_less_and_less_often(stream: str) -> None:
    from gatewatch.client.delivery import LONGEST_WAIT_S, Reply, Wait, deliver

    steps = deliver(readings(stream, 1))
    steps.send(None)
    waits = []
    for _ in range(12):
        step = steps.send(Reply(503, b"", 0.5))
        assert isinstance(step, Wait)
        waits.append(step.seconds)
        steps.send(None)
    assert min(waits) >= 0.5  # as it asked
    assert LONGEST_WAIT_S / 2 <= waits[-1] <= LONGEST_WAIT_S
