"""Replicas behind HAProxy that are renewed one after the other under load: restarted, or with another version.

    python -m tests.faults.rolling --restarts 100
    python -m tests.faults.rolling --before ../gatewatch-before/.venv/bin/gatewatch --turns 3

Senders send one reading after the other, or twenty at once, and never any of them again; HAProxy asks `/readyz`, which
says 503 while a replica drains. In the end each stream must have exactly what was sent, in its order (chain tags). What
is not a scored reading has failed.

With `--before`, the program of an older version: both replicas run it at first. A turn goes forth, replica by replica,
to this tree's version; then a policy of this version (`--policy`) makes it write records that the older one does not
read, and is taken out again; then it goes back. A third of the streams rests from before the policy is taken out until
the older version is there, so that this meets such records. Each step says how many states a replica rebuilt.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis

from gatewatch.service.core.chain import Chain
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.balanced import await_ready, get, haproxy
from tests.support.replicas import SERVE, Replica
from tests.support.samples import make_artefact

SENDERS, STREAMS = 6, 20
"""Streams of each sender."""

EVERY_S = 0.02
DRAIN_S = 5
NOTICED_S = 2.0
"""Until HAProxy has seen that a replica is ready."""

SETTLED_S = 3.0
"""Until every process goes by a policy."""

CHANNELS = ("pressure", "flow")
"""Of the samples' artefact."""

START_MS = 1_700_000_000_000
SCORED = ("warming_up", "normal", "anomalous")


def values_of(stream: str, seq: int) -> tuple[float, float]:
    """What a stream sends: a wave, and now and then something strange."""
    rng = random.Random(f"{stream} {seq}")
    strange = 9.0 if rng.random() < 0.01 else 0.0
    return round(3 + math.sin(seq / 9) + 0.1 * rng.random() + strange, 3), round(5 + rng.random(), 3)


class Senders:
    """Who sends, and what they were answered."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.sent: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.longest_s = 0.0
        self.resting = threading.Event()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(number,)) for number in range(SENDERS)]

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        """One sender: a reading of one of its streams, and of all of them at each tenth time."""
        names = [f"{'rests' if at % 3 == 0 else 'goes-on'}-{number}-{at}" for at in range(STREAMS)]
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        for turn in itertools.count():
            if self._stopping.is_set():
                return
            awake = [name for name in names if not (self.resting.is_set() and name.startswith("rests"))]
            of = awake if turn % 10 == 0 else [awake[turn % len(awake)]]
            self._post(connection, [self._reading(name) for name in of])
            time.sleep(EVERY_S)

    def _reading(self, stream: str) -> dict[str, Any]:
        seq = self.sent[stream]
        values = dict(zip(CHANNELS, values_of(stream, seq), strict=True))
        return {"stream": stream, "seq": seq, "timestamp": START_MS / 1000 + 60 * seq, "values": values}

    def _post(self, connection: HTTPConnection, readings: list[dict[str, Any]]) -> None:
        began = time.monotonic()
        try:
            connection.request("POST", "/v1/readings", json.dumps(readings), {"content-type": "application/json"})
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, HTTPException) as error:
            self.failed[f"{type(error).__name__}: {error}"] += len(readings)
            connection.close()
            return
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        if reply.status != 200:
            own = "json" in (reply.getheader("content-type") or "")  # HAProxy's own answers are HTML
            said = json.loads(content).get("detail", "") if own else "of HAProxy"
            self.failed[f"{reply.status} {said}"] += len(readings)
            return
        for reading, result in zip(readings, json.loads(content), strict=True):
            self.statuses[result["status"]] += 1
            if result["status"] in SCORED and not result["replayed"]:
                self.sent[reading["stream"]] += 1
            else:
                self.failed[f"{result['status']}: {result['error']}"] += 1

    def check(self) -> dict[str, int]:
        """How many readings are lost, how many were applied beside them, and how many streams have another order."""
        lost = doubled = disordered = 0
        chain = Chain(CHANNELS)
        for stream, count in self.sent.items():
            known = json.loads(get(self._port, f"/v1/streams/{stream}")[1])
            lost += max(0, count - known["readings"])
            doubled += max(0, known["readings"] - count)
            tag = np.zeros(1, "V16")
            for seq in range(count):
                values = np.array([values_of(stream, seq)])
                tag = chain.tags(tag, np.array([seq]), np.array([START_MS + 60_000 * seq]), values)
            disordered += known["tag"] != bytes(tag[0]).hex()
        return {"lost": lost, "doubled": doubled, "tags that differ": disordered}


class Roll:
    """Two replicas that are renewed in turn."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = replicas
        self.renewed = 0

    def renew(self, replica: Replica, command: Sequence[str] | None = None) -> None:
        """End a replica as an orchestrator does, and start it again, with another program where one is given."""
        replica.end(within_s=60)
        replica.command = list(command or replica.command)
        replica.start()
        await_ready(replica.port)
        self.renewed += 1
        time.sleep(NOTICED_S)

    def to(self, what: str, command: Sequence[str]) -> None:
        """Renew all of them with a program, and say what they rebuilt."""
        for at, replica in enumerate(self.replicas):
            self.renew(replica, command)
            print(f"  replica {at} is of {what}; {self.rebuilt()}", flush=True)

    def rebuilt(self) -> str:
        """States that each replica has rebuilt since its start, by cause."""
        found = []
        for replica in self.replicas:
            text = get(replica.port, "/metrics")[1]
            counts = re.findall(r'^gatewatch_states_rebuilt_total\{cause="(\w+)"\} ([1-9]\S*)', text, re.MULTILINE)
            found.append(", ".join(f"{cause} {float(count):.0f}" for cause, count in counts) or "none")
        return f"states rebuilt: {' | '.join(found)}"


def put_policies(port: int, policies: list[dict[str, Any]]) -> None:
    """Replace the policies of patterns."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    content = {"policies": policies}
    connection.request("PUT", "/v1/policies", json.dumps(content), {"content-type": "application/json"})
    reply = connection.getresponse()
    answer = reply.read().decode()
    if reply.status != 200:
        raise RuntimeError(f"{reply.status} {answer[:500]}")
    connection.close()


def go(scratch: Path, restarts: int, before: str | None, turns: int, policy: dict[str, Any]) -> bool:
    """Run, print, and say whether nothing failed."""
    own = [sys.executable, *SERVE]
    old = [before, "serve"] if before else own
    with ExitStack() as stack:
        private = stack.enter_context(start_private_redis(scratch / "redis"))
        settings = {
            "GATEWATCH_MODEL": str(make_artefact(scratch / "artefact")),
            "GATEWATCH_REDIS_URL": private.url,
            "GATEWATCH_LOG_LEVEL": "error",
            "GATEWATCH_DRAIN_S": str(DRAIN_S),
            "GATEWATCH_STORE_TIMEOUT_MS": "5000",
            "GATEWATCH_WAITING_MS": "60000",
        }
        replicas = [Replica(settings, log=scratch / "replicas.log", program=old) for _ in range(2)]
        for replica in replicas:
            stack.callback(replica.end)
            await_ready(replica.port)
        port, _ = stack.enter_context(haproxy(scratch, [replica.port for replica in replicas]))
        await_ready(port)
        roll, began = Roll(replicas), time.monotonic()
        with Senders(port) as senders:
            time.sleep(NOTICED_S)
            if before is None:
                for replica in itertools.islice(itertools.cycle(replicas), restarts):
                    roll.renew(replica)
            for turn in range(turns if before else 0):
                print(f"turn {turn}: forth", flush=True)
                roll.to("this version", own)
                put_policies(port, [{"pattern": "*", **policy}])
                time.sleep(SETTLED_S)
                senders.resting.set()
                time.sleep(SETTLED_S)
                put_policies(port, [])
                print(f"turn {turn}: back", flush=True)
                time.sleep(SETTLED_S)
                roll.to("the version before", old)
                senders.resting.clear()
                time.sleep(SETTLED_S)
                print(f"  all streams send again; {roll.rebuilt()}", flush=True)
        took_s = time.monotonic() - began
        found = senders.check()
        with Redis.from_url(private.url) as client:
            keys = client.dbsize()
    print(
        f"{roll.renewed} replicas renewed in {took_s:.0f} s, {keys} keys: {sum(senders.sent.values()):,} readings of "
        f"{len(senders.sent)} streams scored, longest wait {senders.longest_s:.2f} s, "
        f"failed {sum(senders.failed.values())}, " + ", ".join(f"{what} {count}" for what, count in found.items())
    )
    print(f"statuses {dict(senders.statuses)}, failures {dict(senders.failed.most_common(10))}")
    errors = (scratch / "replicas.log").read_text().splitlines()
    print(f"{len(errors)} lines of errors in the logs", *errors[:10], sep="\n  ")
    return not senders.failed and not any(found.values())


def main() -> None:
    """Run, and end with 1 where a reading failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--before", help="program of an older version; rolls forth and back instead of restarts")
    parser.add_argument("--turns", type=int, default=2, help="how often it goes forth and back")
    parser.add_argument(
        "--policy",
        type=json.loads,
        default={"alerts_per_week": 2, "hold_budget": True},
        help="JSON that the older version does not know",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatewatch-rolling-") as scratch:
        whole = go(Path(scratch), options.restarts, options.before, options.turns, options.policy)
    sys.exit(not whole)


if __name__ == "__main__":
    main()
