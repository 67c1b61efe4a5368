"""Many clients, several service processes, one Redis: is every reading applied exactly once, in its order?

    python -m tests.faults.concurrency --readings 1000000

Eight clients send to four processes; a part of the requests goes to two of them at the same moment. First 1,000
streams, each client with readings of its own; then one stream that all eight write, each taking the next piece of it,
so that pieces overtake each other: the stream waits at gaps (`on_gap: hold`). In the end every chain tag must be that
of a sequential replay, and every score the detector's alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.scan import scan_together
from gatewatch.service.core.chain import Chain
from gatewatch.service.storage.private_redis import start_private_redis
from tests.faults.load import services

CHANNELS = ("pressure", "flow")
START_S = 1_700_000_000
CLIENTS, PROCESSES = 8, 4
HEDGED = 0.2
"""Share of the requests that go to two processes at once."""

APPLIED = ("warming_up", "normal", "anomalous")


@dataclass
class Ledger:
    """What was answered, and what was wrong."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Client:
    """A sender with a connection to each process."""

    def __init__(self, ports: list[int], seed: int, ledger: Ledger) -> None:
        self._ports = ports
        self._rng = random.Random(seed)
        self._ledger = ledger
        self._connections: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    @property
    def wrong(self) -> bool:
        """Whether any answer to anyone was wrong, so that nothing is worth to be sent again."""
        return bool(self._ledger.wrong)

    async def send(self, readings: list[dict[str, Any]]) -> list[float | None]:
        """The score of each reading that was applied, by this request or before; None for one that has to wait."""
        hedged = self._rng.random() < HEDGED
        ports = self._rng.sample(self._ports, 2 if hedged else 1)
        body = json.dumps(readings).encode()
        both = await asyncio.gather(*(self._post(port, body) for port in ports))
        scores: list[float | None] = []
        for reading, *results in zip(readings, *both, strict=True):
            found = set()
            for result in results:
                status = result["status"]
                self._ledger.answers["replayed" if result["replayed"] else status] += 1
                if status in APPLIED:
                    found.add(result["score"])
                elif status != "rejected" or "waits at gaps" not in result["error"]:
                    self._ledger.wrong.append(f"{reading}: {result}")
            if len(found) > 1:
                self._ledger.wrong.append(f"{reading}: two answers {found}")
            scores.append(found.pop() if found else None)
        return scores

    async def _post(self, port: int, body: bytes) -> list[dict[str, Any]]:
        head = f"POST /v1/readings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        while True:
            if port not in self._connections:
                self._connections[port] = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = self._connections[port]
            try:
                writer.write(head + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                content = json.loads(await reader.readexactly(length))
            except (OSError, asyncio.IncompleteReadError):  # idle for longer than the service keeps it
                self._ledger.answers["connection closed"] += 1
                self._connections.pop(port)[1].close()
                continue
            status = int(answer[9:12])
            if status == 200:
                return list(content)
            self._ledger.answers[str(status)] += 1
            if status not in (429, 503):
                self._ledger.wrong.append(f"HTTP {status}: {content}")
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._connections.values():
            writer.close()


def reading(stream: str, seq: int, values: NDArray[np.float32]) -> dict[str, Any]:
    """As a sender writes it."""
    named = dict(zip(CHANNELS, values.tolist(), strict=True))
    return {"stream": stream, "seq": seq, "timestamp": START_S + 60 * seq, "values": named}


async def many_streams(clients: list[Client], table: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each client sends its own streams, some readings of each at a time; (S, N) scores."""
    streams, count, _ = table.shape
    scores = np.full((streams, count), np.nan)

    async def send(number: int, client: Client) -> None:
        mine = range(number, streams, len(clients))
        for start in range(0, count, 4):
            places = [(row, seq) for row in mine for seq in range(start, min(start + 4, count))]
            client._rng.shuffle(places)
            answered = await client.send([reading(f"many-{row}", seq, table[row, seq]) for row, seq in places])
            for (row, seq), score in zip(places, answered, strict=True):
                scores[row, seq] = np.nan if score is None else score

    await asyncio.gather(*(send(number, client) for number, client in enumerate(clients)))
    return scores


async def one_stream(clients: list[Client], table: NDArray[np.float32], piece: int = 16) -> NDArray[np.float64]:
    """All clients write one stream, each the next piece, until all of it is answered; (1, N) scores.

    The first piece goes alone, for a stream begins with whatever `seq` comes first.
    """
    (values,) = table
    scores = np.full(len(values), np.nan)
    pieces = iter(range(0, len(values), piece))

    async def send(client: Client, pieces: Iterable[int]) -> None:
        for start in pieces:
            places = list(range(start, min(start + piece, len(values))))
            while places and not client.wrong:
                answered = await client.send([reading("one", seq, values[seq]) for seq in places])
                for seq, score in zip(places, answered, strict=True):
                    scores[seq] = np.nan if score is None else score
                places = [seq for seq, score in zip(places, answered, strict=True) if score is None]
                if places:
                    await asyncio.sleep(0.002)

    await send(clients[0], [next(pieces)])
    await asyncio.gather(*(send(client, pieces) for client in clients))
    return scores[None]


def check(
    names: list[str],
    table: NDArray[np.float32],
    scores: NDArray[np.float64] | None,
    found: list[Any],
    detector: TrainedDetector,
) -> list[str]:
    """What differs from a sequential replay: readings, chain tags, and scores where they are given."""
    wrong = []
    order = [CHANNELS.index(channel) for channel in detector.channels]
    table = table[:, :, order]
    times_ms = 1000 * (START_S + 60 * np.arange(table.shape[1]))
    tags, chain = np.zeros(len(names), "V16"), Chain(detector.channels)
    for seq, time_ms in enumerate(times_ms):
        tags = chain.tags(tags, np.full(len(names), seq), np.full(len(names), time_ms), table[:, seq])  # type: ignore[arg-type]
    recordings = [Recording(name, detector.channels, times_ms, table[row]) for row, name in enumerate(names)]
    for row, known in enumerate(found):
        if known["readings"] != len(times_ms) or known["tag"] != bytes(tags[row]).hex():
            wrong.append(f"{names[row]}: {known}, expected {len(times_ms)} readings, tag {bytes(tags[row]).hex()}")
    if scores is not None:
        for name, alone, own in zip(names, scan_together(detector, recordings), scores, strict=True):
            differing = int((alone.score.astype(np.float64) != own).sum())
            if differing:
                wrong.append(f"{name}: {differing} scores differ from the detector's alone")
    return wrong


async def _get(port: int, path: str) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    _, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return json.loads(content)


async def _put(port: int, path: str, content: Any) -> None:
    body = json.dumps(content)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
    answer = await reader.read()
    assert b" 200 " in answer[:20], answer
    writer.close()


async def run(artefact: Path, readings: int, streams: int, seed: int) -> Ledger:
    """Nine tenths of the readings over many streams, the rest on one; what is wrong is in the ledger."""
    ledger = Ledger()
    rng = np.random.default_rng(seed)
    many = rng.normal(3, 1, (streams, max(1, readings * 9 // 10 // streams), 2)).astype(np.float32)
    one = rng.normal(3, 1, (1, readings // 10, 2)).astype(np.float32)
    detector = TrainedDetector.load(artefact)
    with (
        tempfile.TemporaryDirectory(prefix="gatewatch-concurrency-") as scratch,
        start_private_redis(Path(scratch) / "redis") as private,
        services(artefact, private.url, PROCESSES) as ports,
    ):
        clients = [Client(ports, seed + number, ledger) for number in range(CLIENTS)]
        await _put(ports[0], "/v1/streams/one", {"on_gap": "hold"})
        for names, phase, table in (
            ([f"many-{n}" for n in range(streams)], many_streams, many),
            (["one"], one_stream, one),
        ):
            began = time.monotonic()
            scores = await phase(clients, table)
            rate = scores.size / (time.monotonic() - began)
            print(f"{len(names)} streams: {scores.size} readings, {rate:,.0f} a second")
            known = [await _get(ports[0], f"/v1/streams/{name}") for name in names]
            ledger.wrong += check(names, table, scores, known, detector)
        for client in clients:
            client.close()
    return ledger


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readings", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from tests.support.samples import make_artefact

    with tempfile.TemporaryDirectory() as scratch:
        artefact = make_artefact(Path(scratch) / "tiny")
        ledger = asyncio.run(run(artefact, options.readings, options.streams, options.seed))
    print(f"answers {dict(ledger.answers)}")
    print(f"wrong: {len(ledger.wrong)}", *ledger.wrong[:20], sep="\n")
    sys.exit(bool(ledger.wrong))


if __name__ == "__main__":
    main()
