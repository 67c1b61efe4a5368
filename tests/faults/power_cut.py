"""A site of 500 streams loses its power: one notification that names the first stream, by Alertmanager and by webhook.

    python -m tests.faults.power_cut --streams 500 --processes 3

Several services on one Redis, a real Prometheus and Alertmanager with the files of docker/ and their times, a receiver
of notifications, and one of webhooks. All streams of the site are strange within a second of their own time. They are
sent in one message; one by one, in the order of their times; and shuffled, so that the first is not the first to come;
each to any of the services, with `--pause-ms` between. At last they send nothing more at all. A stream of another site
is strange at the same time, and told by itself. Then all streams are as ever, and the end is told once.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx2

from gatewatch.models.detectors.incidents import OPEN_READINGS
from gatewatch.service.storage.private_redis import start_private_redis
from tests.faults.counted import await_ready
from tests.faults.load import services
from tests.support.monitoring import Monitoring, monitoring
from tests.support.receiver import SECRET, Receiver, receiving
from tests.support.samples import make_artefact

QUIET: Final = 40
SENT: Final = ("in one message", "one by one, in order", "one by one, shuffled", "not at all")
AT_ONCE: Final = 100
SLOW_S: Final = 10.0
LISTENED: Final = 30
"""Readings, SLOW_S apart, of streams of which it is to be noticed that they send no more."""


JOIN_S: Final = 20
"""In which a group's streams join before it is told, see docker/alerts.yml."""


class Site:
    """Its streams, and how they send.

    Attributes:
        names: of the streams; the first one is the first to be strange.
    """

    def __init__(self, ports: Sequence[int], name: str, streams: int, seed: int, every_s: float) -> None:
        self.names = [f"{name}-{number:03d}" for number in range(streams)]
        self.alone = f"alone-{name}"
        self._ports = ports
        self._rng = random.Random(seed)
        self._every_s = every_s
        self._began = time.time() - QUIET * every_s
        self._sent = 0
        self._client = httpx2.Client(timeout=60)

    def send(self, names: Sequence[str], readings: int, pressure: float | None = None) -> None:
        """Post so many readings of each stream, as far apart by their times as the streams send, to any services."""
        for start in range(0, len(names), AT_ONCE):
            self._post(
                [self._reading(name, at, pressure) for name in names[start : start + AT_ONCE] for at in range(readings)]
            )
        self._sent += readings

    def lose_power(self, how: str, pause_s: float) -> float:
        """One strange reading of each stream, or nothing; how long it took to send them."""
        order = [self._reading(name, 0, 900.0, at * 0.001) for at, name in enumerate(self.names)]
        if how == "one by one, shuffled":
            first, *others = order
            self._rng.shuffle(others)
            order = [*others[: len(others) // 2], first, *others[len(others) // 2 :]]
        began = time.monotonic()
        if how == "in one message":
            self._post(order)
        elif how != "not at all":
            for one in order:
                self._post([one])
                time.sleep(pause_s)
        self._sent += 1
        return time.monotonic() - began

    def _post(self, sent: list[dict[str, Any]]) -> None:
        port = self._rng.choice(self._ports)
        reply = self._client.post(f"http://127.0.0.1:{port}/v1/readings", json=sent)
        reply.raise_for_status()
        assert not any(one["error"] for one in reply.json()), reply.text[:500]

    def _reading(self, name: str, at: int, pressure: float | None, later_s: float = 0.0) -> dict[str, Any]:
        seq = self._sent + at
        values = {
            "pressure": 3 + self._rng.gauss(0, 0.3) if pressure is None else pressure,
            "flow": self._rng.gauss(3, 0.3),
        }
        return {
            "stream": name,
            "seq": seq,
            "timestamp": round(self._began + seq * self._every_s + later_s, 3),
            "values": values,
        }


def run(
    watched: Monitoring, receiver: Receiver, ports: Sequence[int], how: str, streams: int, pause_s: float
) -> list[str]:
    """Cut the power of a new site in a way, print what came of it, and say what is wrong."""
    name, wrong = f"s{SENT.index(how)}", list[str]()
    site = Site(ports, name, streams, SENT.index(how), 1.0 if how != "not at all" else SLOW_S)
    notified, posted = len(watched.notifications), len(receiver.deliveries)
    site.send([*site.names, site.alone], QUIET)
    for _ in range(LISTENED if how == "not at all" else 0):  # until they are known to be sending
        time.sleep(SLOW_S)
        site.send(site.names, 1)
    began = time.monotonic()
    sending_s = site.lose_power(how, pause_s)
    if how != "not at all":
        site.send([site.alone], 1, 900.0)

    def told() -> list[dict[str, Any]]:
        return [one for one in watched.notifications[notified:] if one["commonLabels"]["alertname"] == "GatewatchGroup"]

    def posts(of: str) -> list[dict[str, Any]]:
        bodies = [one.body for one in receiver.deliveries[posted:] if 200 <= one.answered < 300]
        return [one for one in bodies if one["type"] == of and one["data"]["stream"].startswith(f"{name}-")]

    limit_s = 400.0
    while not told() and time.monotonic() - began < limit_s:
        time.sleep(0.5)
    told_s = time.monotonic() - began
    time.sleep(90)  # in which what is told again would come, by group_interval
    found = told()
    firing = [one for one in found if one["status"] == "firing"]
    summaries = [one["alerts"][0]["annotations"]["summary"] for one in firing]
    singles = {
        one["commonLabels"].get("stream")
        for one in watched.notifications[notified:]
        if one["commonLabels"]["alertname"] == "GatewatchAnomaly"
    }
    members: list[dict[str, Any]] = []
    if firing:
        group = firing[0]["commonLabels"]["group"]
        query = {"group": group, "limit": 500}
        members = httpx2.get(f"http://127.0.0.1:{ports[0]}/v1/incidents", params=query, timeout=60).json()["incidents"]
    opened = posts("incident.opened")
    print(
        f"{how}: sent in {sending_s:.1f} s; notifications {len(firing)}, after {told_s:.0f} s: {summaries}; "
        f"group of {len(members)}, first {members[0]['stream'] if members else None}; "
        f"by themselves {sorted(map(str, singles))}; "
        f"webhook posts {[(one['data']['group_first'], one['data']['group_incidents']) for one in opened]}"
    )
    if len(firing) != 1 or len(opened) != 1:
        wrong.append(f"{how}: {len(firing)} notifications, {len(opened)} posts")
    if len(members) != min(streams, 500) or (members[0]["stream"] != site.names[0] and how != "not at all"):
        wrong.append(f"{how}: the group has {len(members)} of {streams}, its first is {members[:1]}")
    late = sending_s > JOIN_S  # what came behind the notification, it cannot have known
    if (
        how != "not at all"
        and not late
        and not all(f": {streams} streams, first {site.names[0]}" in one for one in summaries)
    ):
        wrong.append(f"{how}: told {summaries}")
    firsts = [one["data"]["group_first"]["stream"] for one in opened]
    if how != "not at all" and not late and firsts != site.names[:1]:
        wrong.append(f"{how}: the webhook names {firsts}")
    if singles - {site.alone}:
        wrong.append(f"{how}: told by themselves: {sorted(map(str, singles))}")
    site.send([*site.names, site.alone], 1 if how == "not at all" else OPEN_READINGS + 10)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (
        any(one["status"] == "resolved" for one in told()) and posts("incident.ended")
    ):
        time.sleep(0.5)
    time.sleep(20)
    resolved, ended = [one for one in told() if one["status"] == "resolved"], posts("incident.ended")
    print(f"  as ever again: resolved {len(resolved)}, webhook posts of the end {len(ended)}", flush=True)
    if len(resolved) != 1 or len(ended) != 1:
        wrong.append(f"{how}: {len(resolved)} resolved, {len(ended)} posts of the end")
    return wrong


def main() -> None:
    """Print what each way came to; fail where it is not one notification."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--pause-ms", type=float, default=20.0)
    parser.add_argument("--only", choices=SENT)
    given = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, receiving() as receiver:
        folder = Path(scratch)
        (folder / "secret").write_bytes(SECRET)
        (folder / "monitoring").mkdir()
        settings = {
            "GATEWATCH_GROUP_BY": "site", "GATEWATCH_EXTERNAL_URL": "https://gw", "GATEWATCH_STORE_TIMEOUT_MS": "10000",
            "GATEWATCH_WEBHOOK_URL": receiver.url, "GATEWATCH_WEBHOOK_SECRET_FILE": str(folder / "secret"),
            "GATEWATCH_WEBHOOK_NETWORKS": "127.0.0.0/8",
        }  # fmt: skip
        with (
            start_private_redis(folder / "redis") as private,
            services(make_artefact(folder / "model"), private.url, given.processes, **settings) as ports,
        ):
            for port in ports:
                await_ready(port)
            policies = [{"pattern": f"s{number}-*", "tags": {"site": f"s{number}"}} for number in range(len(SENT))]
            asked = httpx2.put(f"http://127.0.0.1:{ports[0]}/v1/policies", json={"policies": policies}, timeout=60)
            asked.raise_for_status()
            time.sleep(3)
            with monitoring(ports, folder / "monitoring", None) as watched:
                for how in SENT if given.only is None else (given.only,):
                    wrong += run(watched, receiver, ports, how, given.streams, given.pause_ms / 1000)
    print(f"wrong: {len(wrong)}", *wrong, sep="\n  ")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
