"""A site of 10,000 streams in an incident at once, among 100,000: nothing acknowledged is lost, and nobody waits.

    python -m tests.faults.incident_flood --streams 100000 --flood 10000

One service on a Redis of its own. A neighbour sends one reading of its own stream after the other all the time, and
another client asks for `/livez`; what they wait for is shown for each step:

- a pattern that matches all streams: a policy, a maintenance window, a mute, and their end; when they are gone by;
- the flood, while one listener reads all of `/v1/incidents/stream`, and one connects and never reads;
- all incidents listed, page by page, and /metrics scraped;
- more incidents than are kept: those that people have answered stay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import numpy as np
from redis import Redis

from benchmarks.load import cpu_s, resident_mib
from gatewatch.service.storage.private_redis import start_private_redis
from tests.faults.counted import await_ready, incidents
from tests.support.replicas import Replica
from tests.support.samples import make_artefact

AT_ONCE: Final = 1000
CALM: Final = 2
KEPT: Final = 10_000
ANSWERED: Final = 100


class Neighbour:
    """Others, who must not wait: their waits, in s."""

    def __init__(self, port: int) -> None:
        self.waits: dict[str, list[float]] = {"a reading": [], "/livez": []}
        self.statuses: dict[int, int] = {}
        self._url = f"http://127.0.0.1:{port}"
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._ask)]

    def _send(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as client:
            while not self._done.wait(0.02):
                began = time.monotonic()
                reply = client.post(
                    "/v1/readings", json={"stream": "neighbour", "values": {"pressure": 3.0, "flow": 3.0}}
                )
                self.waits["a reading"].append(time.monotonic() - began)
                self.statuses[reply.status_code] = self.statuses.get(reply.status_code, 0) + 1

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60) as client:
            while not self._done.wait(0.02):
                began = time.monotonic()
                client.get("/livez")
                self.waits["/livez"].append(time.monotonic() - began)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def meanwhile(self, what: str, pid: int) -> Iterator[list[str]]:
        """Print what they waited for during the block, and what the block adds."""
        for waits in self.waits.values():
            waits.clear()
        said: list[str] = []
        before, began = cpu_s(pid), time.monotonic()
        yield said
        took = time.monotonic() - began
        time.sleep(0.2)
        shown = "; ".join(
            f"{whose} p50 {1e3 * np.quantile(found, 0.5):.0f}, p99 {1e3 * np.quantile(found, 0.99):.0f}, "
            f"longest {1e3 * max(found):.0f} ms"
            for whose, waits in self.waits.items()
            if (found := list(waits))
        )
        print(
            f"{what}: {took:.1f} s, {cpu_s(pid) - before:.1f} s of CPU; {shown}{''.join('; ' + one for one in said)}",
            flush=True,
        )


class Site:
    """Many streams."""

    def __init__(self, port: int, streams: int) -> None:
        self.names = [f"stream-{number:06d}" for number in range(streams)]
        self._client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        self._now = time.time() - 600
        self._seq = 0

    def send(self, names: Sequence[str], pressure: float) -> dict[str, int]:
        """Post one reading of each; what statuses and gates they got."""
        found: dict[str, int] = {}
        for start in range(0, len(names), AT_ONCE):
            sent = [
                {
                    "stream": name,
                    "seq": self._seq,
                    "timestamp": self._now + self._seq,
                    "values": {"pressure": pressure, "flow": 3.0},
                }
                for name in names[start : start + AT_ONCE]
            ]
            reply = self._client.post("/v1/readings", json=sent)
            while reply.status_code in (429, 503):
                time.sleep(float(reply.headers["retry-after"]))
                reply = self._client.post("/v1/readings", json=sent)
            reply.raise_for_status()
            for one in reply.json():
                word = one.get("gate") or one["status"]
                found[word] = found.get(word, 0) + 1
        self._seq += 1
        return found


def patterns(neighbour: Neighbour, site: Site, url: str, pid: int, wrong: list[str]) -> None:
    """What a pattern that matches all streams costs, and that it counts."""
    client = httpx2.Client(base_url=url, timeout=120)
    some = site.names[:50]
    forever = {"stream": "stream-*", "start": "2020-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z", "skip": "judging"}
    policy = {"tags": {"site": "north"}, "gates": [{"direction": "below"}]}
    asked: list[tuple[str, str, dict[str, Any], str, str]] = [
        ("a maintenance window", "/v1/windows/all", forever, "window", "DELETE"),
        ("a policy with a gate and tags", "/v1/policies", {"policies": [{"pattern": "stream-*", **policy}]},
         "direction", "PUT"),
    ]  # fmt: skip
    for what, path, body, gate, end in asked:
        with neighbour.meanwhile(f"{what} of {len(site.names):,} streams", pid) as said:
            began = time.monotonic()
            client.put(path, json=body).raise_for_status()
            said.append(f"answered in {time.monotonic() - began:.3f} s")
            time.sleep(2)
            found = site.send(some, 900.0)
            said.append(f"then {found}")
        if found != {gate: len(some)}:
            wrong.append(f"{what}: {found}")
        began = time.monotonic()
        client.request(end, path, json={} if end == "PUT" else None).raise_for_status()
        print(f"  taken away in {time.monotonic() - began:.3f} s")
        time.sleep(2)
        for _ in range(2):
            site.send(some, 3.0)
    with neighbour.meanwhile(f"a mute of {len(site.names):,} streams", pid) as said:
        client.put("/v1/policies", json={"policies": [{"pattern": "stream-*", "muted": True}]}).raise_for_status()
        time.sleep(2)
        found = site.send(site.names[50:100], 900.0)
        time.sleep(2.5)
        text = client.get("/metrics").text
        named = sum(
            line.startswith("gatewatch_open_anomaly_score{") and "stream-0000" in line for line in text.splitlines()
        )
        said.append(f"then {found}, by name {named}")
    if named:
        wrong.append(f"{named} muted streams have a name")
    client.put("/v1/policies", json={}).raise_for_status()
    time.sleep(2)


def deaf(port: int) -> socket.socket:
    """Someone who listens to all incidents and never reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(b"GET /v1/incidents/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
    return connection


class Listener:
    """Someone who reads all, and comes back with Last-Event-ID where it breaks."""

    def __init__(self, url: str) -> None:
        self.heard: set[str] = set()
        self.events = self.breaks = 0
        self._url, self._last = url, ""
        self._done = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done:
            headers = {"last-event-id": self._last} if self._last else {}
            with (
                contextlib.suppress(httpx2.HTTPError),
                httpx2.stream("GET", f"{self._url}/v1/incidents/stream", headers=headers, timeout=10) as reply,
            ):
                for line in reply.iter_lines():
                    if line.startswith("id: "):
                        self._last = line[4:]
                    if line.startswith("data: "):
                        self.events += 1
                        self.heard.add(json.loads(line[6:])["id"])
                    if self._done:
                        return
            self.breaks += 1
            time.sleep(0.5)

    def stop(self) -> None:
        self._done = True
        self._thread.join(30)


def flood(neighbour: Neighbour, site: Site, port: int, pid: int, count: int, wrong: list[str]) -> None:
    """All of a part of the streams are strange, again and again."""
    url = f"http://127.0.0.1:{port}"
    client = httpx2.Client(base_url=url, timeout=120)
    names = site.names[1000 : 1000 + count]
    answered = [one["id"] for one in incidents(port)][:ANSWERED]
    for id_ in answered:
        client.post(f"/v1/incidents/{id_}/acknowledge", json={"by": "Ada"}).raise_for_status()
    with neighbour.meanwhile("nothing", pid):
        time.sleep(10)
    before, listener = resident_mib(pid), Listener(url)
    asleep = deaf(port)
    time.sleep(2)
    with neighbour.meanwhile(f"{count:,} incidents begin", pid) as said:
        said.append(str(site.send(names, 900.0)))
    highest = 0.0
    with neighbour.meanwhile("and go on, five readings each", pid) as said:
        for _ in range(5):
            site.send(names, 900.0)
            highest = max(highest, resident_mib(pid))
    with neighbour.meanwhile("nothing comes any more, one listens", pid) as said:
        time.sleep(12)
        highest = max(highest, resident_mib(pid))
        said.append(f"memory {before:.0f} -> {highest:.0f} MiB")
    heard = len({one.partition(".")[2] for one in listener.heard} & set(names))
    print(f"  the listener heard of {heard:,} of {count:,} ({listener.events:,} events, {listener.breaks} breaks)")
    if heard != count:
        wrong.append(f"the listener heard of {heard} of {count}")
    listener.stop()
    asleep.setblocking(False)
    time.sleep(35)
    asleep.close()
    with neighbour.meanwhile("listed page by page", pid) as said:
        listed = list(incidents(port))
        said.append(f"{len(listed):,}")
    with neighbour.meanwhile("/metrics, five times", pid) as said:
        for _ in range(5):
            text = client.get("/metrics").text
            time.sleep(2.2)
        said.append(f"{len(text):,} bytes, {text.count('gatewatch_open_anomaly_score{')} named")
    deadline = time.monotonic() + 150
    with neighbour.meanwhile(f"until at most {KEPT:,} are kept", pid) as said:
        while (left := len(list(incidents(port)))) > KEPT and time.monotonic() < deadline:
            time.sleep(5)
        said.append(f"{left:,} are left")
    gone = [id_ for id_ in answered if client.get(f"/v1/incidents/{id_}").status_code != 200]
    print(f"  of {len(answered)} acknowledged, {len(gone)} are gone")
    if gone or left > KEPT:
        wrong.append(f"{left} are kept, {len(gone)} of those that were acknowledged are gone")


def main() -> None:
    """Print each step; fail where a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--flood", type=int, default=10_000)
    given = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, start_private_redis(Path(scratch) / "redis") as private:
        settings = {
            "GATEWATCH_HISTORY_READINGS": "32", "GATEWATCH_STORE_TIMEOUT_MS": "10000", "GATEWATCH_WAITING_MS": "60000",
            "GATEWATCH_INCIDENTS": str(KEPT), "GATEWATCH_REDIS_URL": private.url, "GATEWATCH_LOG_LEVEL": "error",
            "GATEWATCH_MODEL": str(make_artefact(Path(scratch) / "model", warm_up=1)),
        }  # fmt: skip
        replica = Replica(settings)
        try:
            await_ready(port := replica.port)
            pid = replica.pid
            site = Site(port, given.streams)
            began = time.monotonic()
            for _ in range(CALM):
                site.send(site.names, 3.0)
            print(f"{given.streams:,} streams in {time.monotonic() - began:.0f} s")
            neighbour = Neighbour(port)
            neighbour.start()
            try:
                patterns(neighbour, site, f"http://127.0.0.1:{port}", pid, wrong)
                flood(neighbour, site, port, pid, given.flood, wrong)
            finally:
                neighbour.stop()
            memory = Redis.from_url(private.url).info("memory")["used_memory"] / 2**20
            print(f"service {resident_mib(pid):.0f} MiB, Redis {memory:,.0f} MiB; answers {neighbour.statuses}")
            if set(neighbour.statuses) != {200}:
                wrong.append(f"the neighbour got {neighbour.statuses}")
        finally:
            replica.end()
    print(f"wrong: {len(wrong)}", *wrong, sep="\n  ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
