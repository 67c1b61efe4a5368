"""Who sends in a round, and the ledger of what was sent, acknowledged and answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tests.faults import load
from tests.faults.concurrency import reading
from tests.support.mutants import ALLOWED, Request, flaw, made
from tests.support.wire import CLOSE, exchange, written

HEDGED: Final = 0.2
MOST: Final = 3000
"""Readings of a stream in a round: all of them fit into its history, from which its state is replayed."""

REFUSALS: Final = frozenset((401, 408, 429, 431, 503))
"""Statuses that trouble, a crowd or a key may give, beside those of a request that is wrong."""

REVOKED_WITHIN_S: Final = 5.0
"""Contract of keys: so long after it was revoked a key is good for nothing on any process."""

ANSWER_S: Final = 60.0
"""After the last fault, until every reading must have its answer."""


@dataclass
class Ledger(load.Ledger):
    """What happened in a round.

    Attributes:
        scores: of each stream, the score of each acknowledged reading, in order.
        applied: how often a reading was answered as one that was applied just now.
        acknowledged: readings.
    """

    scores: dict[str, list[float]] = field(default_factory=dict)
    applied: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def acknowledged(self) -> int:
        return sum(map(len, self.scores.values()))

    def blame(self, what: str) -> None:
        """Note what must not be."""
        self.wrong.append(what)


class Keys:
    """The key that senders show, and those that were revoked, with the time when."""

    def __init__(self, current: str, admin: str) -> None:
        self.current, self.admin = current, admin
        self.since = time.monotonic()
        self.revoked: list[tuple[str, float]] = []

    def replace(self, current: str) -> None:
        """Have senders show another one from now on."""
        self.current, self.since = current, time.monotonic()


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + key.encode()


async def ask(
    port: int, ledger: Ledger, key: str, method: str, path: str, content: Any = None, within_s: float = 5.0
) -> tuple[int, Any]:
    """Status and JSON of a reply, 0 for a broken connection; what is no answer of ours is blamed."""
    body = [] if content is None else [json.dumps(content).encode()]
    request = Request(method, path, b"", [CLOSE, bearer(key), (b"content-type", b"application/json")], body)
    reply = await exchange(port, written(request), within_s=within_s)
    if reply is None:
        return 0, None
    problem = flaw(request, reply, ALLOWED | REFUSALS)
    if problem is None and reply.status in (429, 503) and "retry-after" not in reply.headers:
        problem = f"{reply.status} without Retry-After"
    if problem is not None:
        ledger.blame(f"{method} {path}: {problem}: {reply}")
    return reply.status, json.loads(reply.body)


class Sender:
    """Sends readings of its streams, some at a time, each until it is acknowledged; some to two replicas at once."""

    def __init__(self, names: list[str], seed: str, ports: list[int], keys: Keys, ledger: Ledger) -> None:
        self._rng = random.Random(seed)
        self._ports, self._keys, self._ledger = ports, keys, ledger
        self.tables = {
            name: np.random.default_rng([*seed.encode(), at]).normal(3, 1, (MOST, 2)).astype(np.float32)
            for at, name in enumerate(names)
        }
        ledger.scores |= {name: [] for name in names}

    async def run(self, stopping: asyncio.Event) -> None:
        """Send until told to stop, and then until all that was sent is acknowledged."""
        rng, scores, names = self._rng, self._ledger.scores, list(self.tables)
        while not stopping.is_set():
            await asyncio.sleep(rng.uniform(0.02, 0.1))
            readings = [
                reading(name, seq, self.tables[name][seq])
                for name in rng.sample(names, rng.choice((1, 1, 3, len(names))))
                for seq in range(len(scores[name]), min(MOST, len(scores[name]) + rng.choice((1, 1, 4))))
            ]
            if readings:
                await self._send(readings, stopping)

    async def _send(self, readings: list[dict[str, Any]], stopping: asyncio.Event) -> None:
        ends = None
        while True:
            ports = self._rng.sample(self._ports, 2 if self._rng.random() < HEDGED else 1)
            answers = await asyncio.gather(*(self._post(port, readings) for port in ports))
            found = [results for results in answers if results is not None]
            if found:
                break
            if stopping.is_set():
                ends = ends or time.monotonic() + ANSWER_S
                if time.monotonic() > ends:
                    self._ledger.blame(f"not answered {ANSWER_S:g} s after the last fault: {readings[0]} ...")
                    return
            await asyncio.sleep(0.05)
        for one, *results in zip(readings, *found, strict=True):
            if len({result["score"] for result in results}) > 1:
                self._ledger.blame(f"{one}: two answers {results}")
            self._ledger.scores[one["stream"]].append(results[0]["score"])

    async def _post(self, port: int, readings: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        ledger, key, since = self._ledger, self._keys.current, self._keys.since
        ledger.sent += 1
        status, results = await ask(port, ledger, key, "POST", "/v1/readings", readings)
        ledger.answers[str(status)] += 1
        if status == 401 and key == self._keys.current and time.monotonic() - since > REVOKED_WITHIN_S:
            ledger.blame(f"a good key is refused: {results}")
        if status not in (0, 200, 401, 429, 503):
            ledger.blame(f"HTTP {status}: {results}")
        if status != 200:
            return None
        for one, result in zip(readings, results, strict=True):
            said = {name: result[name] for name in ("stream", "seq", "timestamp")}
            if result["status"] not in load.ANSWERED or said["stream"] != one["stream"] or said["seq"] != one["seq"]:
                ledger.blame(f"{one}: {result}")
            if not result["replayed"]:
                ledger.applied[one["stream"], one["seq"]] += 1
        return list(results)


async def send_mutants(port: int, key: str, ledger: Ledger, rng: random.Random, count: int) -> None:
    """Requests with something wrong in them, on connections of their own; each that is answered is answered well."""
    for _ in range(count):
        request = made(rng)
        sent = written(request, (bearer(key),) if rng.random() < 0.9 else ())
        reply = await exchange(port, sent, eof=True)
        ledger.answers["mutants"] += 1
        if reply is None:
            ledger.answers["mutants without an answer"] += 1
        elif problem := flaw(request, reply, ALLOWED | REFUSALS):
            ledger.blame(f"{problem}: {str(request)[:600]} {str(reply)[:300]}")


async def try_revoked(ports: list[int], keys: Keys, ledger: Ledger) -> None:
    """Show the keys that were revoked to every replica; REVOKED_WITHIN_S later none of them is good."""
    for key, at in keys.revoked:
        for port in ports:
            began = time.monotonic()
            status, _ = await ask(port, ledger, key, "POST", "/v1/readings", [{"stream": "thief", "values": 1}])
            ledger.answers[f"revoked key {status}"] += 1
            if status not in (0, 401, 503) and began - at > REVOKED_WITHIN_S:
                ledger.blame(f"a key revoked {began - at:.1f} s ago is answered with {status}")
