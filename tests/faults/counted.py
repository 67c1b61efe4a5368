"""Faults in many streams, sent to several processes: Prometheus counts as many as there were.

    python -m tests.faults.counted --streams 400 --processes 4

Each stream has faults of several kinds, at times of its own. Requests go to any process; a part of them goes to two at
the same time, as a sender does that gives up waiting. A real Prometheus scrapes all processes, with the rules of
docker/. Then what it counts, what each process says is open, and what `/v1/incidents` lists are held against what was
injected: exactly. First with services on one Redis, each a target; then with one service of as many processes.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import numpy as np

from gatewatch.models.detectors.incidents import JOIN_READINGS, OPEN_READINGS
from gatewatch.service.storage.private_redis import start_private_redis
from tests.faults.load import ANSWERED, services
from tests.support.monitoring import Monitoring, monitoring
from tests.support.samples import make_artefact

TOGETHER: Final = 8
"""Readings of each stream in a request."""

BETWEEN: Final = JOIN_READINGS + OPEN_READINGS + 10
"""Normal readings between two faults: the second one is another incident."""

TWICE: Final = 0.2
"""Share of the requests that go to two processes."""

JOINS_AFTER: Final = OPEN_READINGS + 10


class Fault(NamedTuple):
    """What becomes of a stream's readings for a while.

    Attributes:
        alerts: the reason of each alert that it raises, in order.
        change: of the values, from the reading's place in the fault.
    """

    length: int
    alerts: tuple[str, ...]
    change: Callable[[dict[str, float | None], int], None]


def _jump(values: dict[str, float | None], _: int) -> None:
    values["pressure"] = 900.0


def _jump_of_both(values: dict[str, float | None], _: int) -> None:
    values |= {"pressure": 900.0, "flow": -900.0}


def _spreads(values: dict[str, float | None], at: int) -> None:
    values |= {"pressure": 900.0} | ({"flow": 900.0} if at >= JOINS_AFTER else {})


def _stands_still(values: dict[str, float | None], _: int) -> None:
    values["pressure"] = 3.25


def _stays_away(values: dict[str, float | None], _: int) -> None:
    values["flow"] = None


JUMPS: Final = (
    Fault(1, ("event",), _jump),
    Fault(20, ("event",), _jump),
    Fault(3, ("event",), _jump_of_both),
    Fault(2 * JOINS_AFTER, ("event", "event"), _spreads),
)
RESTS: Final = (Fault(120, ("still",), _stands_still), Fault(60, ("absent",), _stays_away))
"""A stream has each of these once at most, before its jumps: a channel that has rested may do so longer."""


def readings_of(stream: str, faults: Sequence[Fault], open_: bool, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A stream's readings: normal ones, its faults between them, and a last one that is left open if asked."""
    parts: list[Fault | None] = [None] * 40
    for each in faults:
        parts += [*[each] * each.length, *[None] * BETWEEN]
    parts += [JUMPS[0]] if open_ else []
    parts += [None] * (-len(parts) % TOGETHER if not open_ else 0)
    values = rng.normal(3, 0.3, (len(parts), 2))
    began, found, at = time.time() - 60 * len(parts), list[dict[str, Any]](), 0
    for seq, fault in enumerate(parts):
        at = at + 1 if seq and fault is not None and parts[seq - 1] is fault else 0
        own: dict[str, float | None] = dict(zip(("pressure", "flow"), values[seq].tolist(), strict=True))
        if fault is not None:
            fault.change(own, at)
        found.append({"stream": stream, "seq": seq, "timestamp": round(began + 60 * seq, 3), "values": own})
    return found


@dataclass
class Outcome:
    """What was injected, and what came of it.

    Attributes:
        injected, counted: alerts by reason.
        wrong: what must not be.
    """

    readings: int = 0
    twice: int = 0
    incidents: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    counted: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def send(sent: Mapping[str, list[dict[str, Any]]], ports: Sequence[int], seed: int, outcome: Outcome) -> None:
    """Post some streams' readings in their order, a part of the requests to two processes at once."""
    rng = random.Random(seed)
    longest = max(map(len, sent.values()))
    with httpx2.Client(timeout=60) as client, ThreadPoolExecutor(2) as pool:

        def post(port: int, body: list[dict[str, Any]]) -> None:
            reply = client.post(f"http://127.0.0.1:{port}/v1/readings", json=body)
            if reply.status_code != 200:
                outcome.wrong.append(f"HTTP {reply.status_code}: {reply.text[:200]}")
                return
            outcome.wrong += [f"{one['stream']} {one}" for one in reply.json() if one["status"] not in ANSWERED]

        for start in range(0, longest, TOGETHER):
            body = [one for own in sent.values() for one in own[start : start + TOGETHER]]
            targets = rng.sample(ports, 2) if len(ports) > 1 and rng.random() < TWICE else [rng.choice(ports)]
            if len(ports) == 1 and rng.random() < TWICE:
                targets *= 2  # two connections: whichever processes take them
            list(pool.map(post, targets, [body] * len(targets)))
            outcome.twice += len(body) * (len(targets) - 1)
            outcome.readings += len(body)


def run(watched: Monitoring, ports: Sequence[int], streams: int, each: int, left_open: int, seed: int) -> Outcome:
    """Inject, and hold what is counted against it.

    Args:
        each: faults of a stream.
        left_open: streams that end with an anomaly.
    """
    outcome, rng = Outcome(), random.Random(seed)
    sent: dict[str, list[dict[str, Any]]] = {}
    for number in range(streams):
        faults = rng.sample(RESTS, rng.randint(0, min(2, each)))
        faults += rng.choices(JUMPS, k=each - len(faults))
        open_ = number < left_open
        name = f"s-{number:04d}"
        sent[name] = readings_of(name, faults, open_, np.random.default_rng([seed, number]))
        outcome.injected.update(reason for fault in faults for reason in fault.alerts)
        outcome.injected["event"] += open_
        outcome.incidents += each + open_
    shares = [dict(list(sent.items())[at::4]) for at in range(4)]
    threads = [threading.Thread(target=send, args=(own, ports, at, outcome)) for at, own in enumerate(shares) if own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(watched, ports, left_open, outcome)
    return outcome


def check(watched: Monitoring, ports: Sequence[int], left_open: int, outcome: Outcome) -> None:
    """What Prometheus counts, what each process says is open, and what is listed."""
    deadline = time.monotonic() + 30
    while True:  # a scrape later, or two
        samples = watched.query("sum by (reason) (gatewatch_alerts_total)")
        outcome.counted = {one["metric"]["reason"]: int(float(one["value"][1])) for one in samples}
        found = {reason: count for reason, count in outcome.counted.items() if count}
        if found == dict(outcome.injected) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    time.sleep(3)  # in which an alert that is told twice would come
    samples = watched.query("sum by (reason) (gatewatch_alerts_total)")
    outcome.counted = {one["metric"]["reason"]: int(float(one["value"][1])) for one in samples}
    found = {reason: count for reason, count in outcome.counted.items() if count}
    if found != dict(outcome.injected):
        outcome.wrong.append(f"Prometheus counts {found}, injected {dict(outcome.injected)}")
    for what in ("gatewatch_open_anomalies", "count by (instance) (gatewatch_open_anomaly_score)"):
        said = {one["metric"]["instance"]: int(float(one["value"][1])) for one in watched.query(what)}
        if sorted(said.values()) != [left_open] * len(ports):
            outcome.wrong.append(f"{what} is {said}, {left_open} were left open")
    for port in ports:
        listed = list(incidents(port))
        states = Counter(one["state"] for one in listed)
        if dict(states) != {"ended": outcome.incidents - left_open, "open": left_open}:
            outcome.wrong.append(f"/v1/incidents lists {dict(states)}, injected {outcome.incidents}")
        alerts = Counter(alert["reason"] for one in listed for alert in one["alerts"])
        if alerts != outcome.injected:
            outcome.wrong.append(f"/v1/incidents has the alerts {dict(alerts)}, injected {dict(outcome.injected)}")


def incidents(port: int) -> Iterator[dict[str, Any]]:
    """All that a service lists, page by page."""
    after: str | None = ""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        while after is not None:
            reply = client.get("/v1/incidents", params={"limit": 500, "after": after})
            reply.raise_for_status()
            page = reply.json()
            yield from page["incidents"]
            after = page["next"]


@contextmanager
def several(folder: Path, processes: int, workers: bool) -> Iterator[list[int]]:
    """Services on one Redis, or one service of several processes; their ports."""
    artefact = make_artefact(folder / "artefact")
    settings = {
        "GATEWATCH_INCIDENTS": "1000000", "GATEWATCH_OPEN_SERIES": "10000", "GATEWATCH_HISTORY_READINGS": "128",
        "GATEWATCH_STORE_TIMEOUT_MS": "10000", "GATEWATCH_WAITING_MS": "60000",
    }  # fmt: skip
    if workers:
        settings |= {"GATEWATCH_WORKERS": str(processes)}
    with (
        start_private_redis(folder / "redis") as private,
        services(artefact, private.url, 1 if workers else processes, **settings) as ports,
    ):
        for port in ports:
            await_ready(port)
        yield ports


def await_ready(port: int, within_s: float = 300) -> None:
    """Wait until a service is ready, however busy the machine is."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing is ready at {port}")


def main() -> None:
    """Print what was injected and counted; fail where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=400)
    parser.add_argument("--each", type=int, default=3, help="faults of a stream")
    parser.add_argument("--left-open", type=int, default=40, help="streams that end with one more")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("services", "processes"), help="one of the two forms")
    given = parser.parse_args()
    wrong = 0
    for what, workers in ((f"{given.processes} services", False), (f"a service of {given.processes} processes", True)):
        if given.only and workers != (given.only == "processes"):
            continue
        with tempfile.TemporaryDirectory() as scratch, several(Path(scratch), given.processes, workers) as ports:
            (folder := Path(scratch) / "monitoring").mkdir()
            with monitoring(ports, folder) as watched:
                outcome = run(watched, ports, given.streams, given.each, given.left_open, given.seed)
        print(
            f"{what}: {given.streams} streams, {outcome.readings:,} readings, {outcome.twice:,} of them sent to two at "
            f"once; {outcome.incidents} incidents with {outcome.injected.total()} alerts injected"
        )
        print(f"  injected            {dict(sorted(outcome.injected.items()))}")
        print(f"  Prometheus counts   {dict(sorted((k, n) for k, n in outcome.counted.items() if n))}")
        print(f"  wrong: {len(outcome.wrong)}", *outcome.wrong[:20], sep="\n    ")
        wrong += len(outcome.wrong)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
