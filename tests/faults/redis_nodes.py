"""Redis past one server under load: failovers by Sentinels; on a Cluster, slots that move and nodes that are killed.

    python -m tests.faults.redis_nodes sentinel --times 10 [--replicas 1]
    python -m tests.faults.redis_nodes cluster --moves 30 --kills 10 [--replicas 1]

Senders give each of their streams one reading after the other, and send it again until it is answered. In the end every
stream must have exactly what was acknowledged. A lost reading is one that was acknowledged and is not there; senders
notice none of it. The longest wait is from the first time that a reading was sent to its answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.storage.keys import BUCKETS, Keys
from tests.support.ports import free_ports
from tests.support.redis_servers import Servers, redis_cluster, redis_with_sentinels

STREAMS, SENDERS = 600, 12
VALUES = {"pressure": 4.0, "flow": 120.0, "vibration": 1.9, "temperature": 40.0, "current": 35.0}


class Load:
    """Senders, and what they were answered."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.acknowledged: Counter[str] = Counter()
        self.replies: Counter[int] = Counter()
        self.statuses: Counter[str] = Counter()
        self.longest_s = 0.0
        self.stopping = threading.Event()
        names = [f"s{number}" for number in range(STREAMS)]
        self._senders = [threading.Thread(target=self._send, args=(names[at::SENDERS],)) for at in range(SENDERS)]

    def __enter__(self) -> Load:
        for sender in self._senders:
            sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for sender in self._senders:
            sender.join()

    def ask(self, connection: HTTPConnection, path: str, body: object = None) -> tuple[int, Any]:
        """The status and the JSON of a reply."""
        sent = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, sent, {"content-type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())

    def _send(self, names: list[str]) -> None:
        """One sender: some of its streams at a time, as they come, and each until it is answered."""
        rng, count = random.Random(names[0]), self.acknowledged
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stopping.is_set():
            readings = [
                {"stream": name, "seq": count[name], "timestamp": 1_700_000_000 + count[name], "values": VALUES}
                for name in rng.sample(names, rng.choice((1, 1, 5, len(names))))
            ]
            began = time.monotonic()
            while not self.stopping.is_set():
                status, results = self.ask(connection, "/v1/readings", readings)
                self.replies[status] += 1
                if status == 200:
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.statuses.update(str(result["status"]) for result in results)
                    for reading in readings:
                        count[str(reading["stream"])] += 1
                    break
                time.sleep(0.05)

    def check(self) -> tuple[int, int]:
        """How many acknowledged readings are lost, and how many were applied beside them."""
        lost = doubled = 0
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        for name, count in self.acknowledged.items():
            _, known = self.ask(connection, f"/v1/streams/{name}")
            lost += max(0, count - known.get("readings", 0))
            doubled += max(0, known.get("readings", 0) - count - 1)  # the last one may have been saved unanswered
        return lost, doubled


def under_load(url: str, replicas: int, harm: Callable[[], None]) -> None:
    """Serve on a store, do harm to it under load, and print what came of it."""
    (port,) = free_ports(1)
    changed = {"REDIS_URL": url, "MODEL": "demo", "PORT": port, "STORE_REPLICAS": replicas, "LOG_LEVEL": "error"}
    service = subprocess.Popen(
        [sys.executable, "-m", "gatewatch", "serve"],
        env={**os.environ, **{f"GATEWATCH_{name}": str(value) for name, value in changed.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        load = Load(port)
        while True:
            with contextlib.suppress(OSError):
                if load.ask(HTTPConnection("127.0.0.1", port, timeout=5), "/readyz")[0] == 200:
                    break
            time.sleep(0.1)
        with load:
            time.sleep(2)
            began = time.monotonic()
            harm()
            took_s = time.monotonic() - began
            time.sleep(3)
        lost, doubled = load.check()
        found = {
            "replicas": replicas,
            "acknowledged": sum(load.acknowledged.values()),
            "lost": lost,
            "doubled": doubled,
            "longest_wait_s": round(load.longest_s, 2),
            "replies": dict(load.replies),
            "statuses": dict(load.statuses),
            "seconds": round(took_s),
        }
        print(json.dumps(found), flush=True)
    finally:
        service.terminate()
        service.wait()


def failovers(servers: Servers, times: int, lag_s: float) -> None:
    """Kill the master, wait for the next one, and give it the old one back as its replica.

    Args:
        lag_s: how long its replica has taken nothing by then, beside what the kernel keeps for it.
    """
    sentinel = servers.client(servers.known[-1])
    for _ in range(times):
        master = int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])
        if lag_s:
            replica = next(port for port in servers.known[:2] if port != master)
            servers.running[replica].send_signal(signal.SIGSTOP)
            time.sleep(lag_s)
            servers.kill(master)
            servers.running[replica].send_signal(signal.SIGCONT)
        else:
            servers.kill(master)

        def next_one(before: int = master) -> bool:
            found = int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])
            return found != before and servers.client(found).info("replication")["role"] == "master"

        servers.wait_for(next_one, "no new master")
        time.sleep(1)
        servers.start(master)
        servers.wait_for(lambda: servers.client(master).info("replication")["role"] == "slave", "it does not follow")  # noqa: B023
        servers.wait_for(
            lambda: servers.client(master).info("replication")["master_link_status"] == "up",  # noqa: B023
            "it does not follow",
        )
        time.sleep(2.5)  # Sentinels wait that long between two failovers


def masters_of(servers: Servers) -> dict[int, str]:
    """Port to id of each node that has slots, as the nodes see it that run."""
    nodes = servers.client(next(iter(servers.running))).execute_command("CLUSTER", "NODES")
    found = {}
    for line in bytes(nodes).decode().splitlines():
        node, address, flags, *_, slots = f"{line} ".split(" ", 8)
        if "master" in flags and "fail" not in flags and slots[:1].isdigit():
            found[int(address.partition("@")[0].rpartition(":")[2])] = node
    return found


def _masters_and_owner(servers: Servers, slot: int) -> tuple[dict[int, str], int]:
    """Port to id of each master, and the port of the one that has a slot; waits until somebody has it."""
    found: list[tuple[dict[int, str], int]] = []

    def look() -> bool:
        ids = masters_of(servers)
        slots = servers.client(next(iter(servers.running))).execute_command("CLUSTER", "SLOTS")
        found.extend((ids, port) for of in slots if of[0] <= slot <= of[1] and (port := int(of[2][1])) in ids)
        return bool(found)

    servers.wait_for(look, f"nobody serves slot {slot}")
    return found[-1]


def moves(servers: Servers, times: int, rng: random.Random) -> None:
    """Move the slots of buckets to other nodes, key by key."""
    keys = Keys("default", BUCKETS)
    buckets = {key_slot(keys[StreamKey("default", f"s{n}")].record) for n in range(STREAMS)}
    for slot in rng.choices(sorted(buckets), k=times):
        ids, source = _masters_and_owner(servers, slot)
        to = rng.choice([port for port in ids if port != source])
        servers.client(to).execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        servers.client(source).execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        while found := servers.client(source).execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            servers.client(source).execute_command("MIGRATE", "127.0.0.1", to, "", 0, 5000, "KEYS", *found)
        for port in (to, *(port for port in ids if port != to)):
            servers.client(port).execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[to])
        time.sleep(0.2)


def kills(servers: Servers, times: int, rng: random.Random) -> None:
    """Kill a master, wait until its replica has taken over, and start it again as a replica."""
    for _ in range(times):
        victim = rng.choice(list(masters_of(servers)))
        servers.kill(victim)
        servers.wait_for(lambda: victim not in masters_of(servers) and len(masters_of(servers)) == 3, "no failover")  # noqa: B023
        time.sleep(1)
        servers.start(victim)
        servers.wait_for(
            lambda: servers.client(victim).info("replication").get("master_link_status") == "up",  # noqa: B023
            "it does not follow",
        )
        time.sleep(1)


def main() -> None:
    """Run and print one line of JSON for each kind of trouble."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sentinel", "cluster"))
    parser.add_argument("--times", type=int, default=10, help="failovers by Sentinels")
    parser.add_argument(
        "--lag", type=float, default=0.0, help="seconds that the replica is behind when its master dies"
    )
    parser.add_argument("--moves", type=int, default=30, help="slots moved")
    parser.add_argument("--kills", type=int, default=10, help="nodes killed")
    parser.add_argument("--replicas", type=int, default=0, help="that must have what is acknowledged")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatewatch-nodes-") as scratch:
        if options.what == "sentinel":
            with redis_with_sentinels(Path(scratch), sentinels=3) as (servers, url):
                print("sentinel", options.times, "failovers", end=" ", flush=True)
                under_load(url, options.replicas, lambda: failovers(servers, options.times, options.lag))
            return
        for name, harm, times in (("moves", moves, options.moves), ("kills", kills, options.kills)):
            if not times:
                continue
            folder = Path(scratch, name)
            folder.mkdir()
            with redis_cluster(folder, replicas=1) as servers:
                url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in servers.running)
                print("cluster", times, name, end=" ", flush=True)
                under_load(url, options.replicas, partial(harm, servers, times, random.Random(times)))


if __name__ == "__main__":
    main()
