"""A real Prometheus and Alertmanager with the files of docker/, faster, and a receiver of what they send."""

from __future__ import annotations

import json
import math
import re
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml

from tests.support.ports import free_port
from tests.support.waiting import until

DOCKER: Final = Path(__file__).parent.parent.parent / "docker"
PROGRAMS: Final = ("prometheus", "prometheus-alertmanager")
BEAT: Final = "250ms"


class Monitoring:
    """What Prometheus knows, and what Alertmanager has sent.

    Attributes:
        notifications: as they came, each with the alerts of one group.
    """

    def __init__(self, url: str) -> None:
        self.notifications: list[dict[str, Any]] = []
        self._url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression now. Fails on an expression that Prometheus does not take."""
        reply = httpx2.get(f"{self._url}/api/v1/query", params={"query": expression}).json()
        assert reply["status"] == "success", (expression, reply)
        samples: list[dict[str, Any]] = reply["data"]["result"]
        return samples

    def sent(self, status: str, **labels: str) -> list[dict[str, Any]]:
        """The notifications with an alert of this status and these labels."""
        return [
            one
            for one in self.notifications
            if any(a["status"] == status and labels.items() <= a["labels"].items() for a in one["alerts"])
        ]


@contextmanager
def monitoring(port: int | Sequence[int], folder: Path, pending: str | None = "500ms") -> Iterator[Monitoring]:
    """Prometheus scraping a service at a port, with our rules, Alertmanager with our routes, and a receiver.

    Args:
        port: or those of several services.
        pending: for how long something has to be so that is not told at once; None for all times as they are shipped.
    """
    here, sender = free_port(), free_port()
    watched = Monitoring(f"http://127.0.0.1:{here}")
    with ExitStack() as stack:
        receiver = ThreadingHTTPServer(("127.0.0.1", 0), _receiver(watched))
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        stack.callback(receiver.server_close)
        stack.callback(receiver.shutdown)
        ports = [port] if isinstance(port, int) else port
        _write_configuration(folder, ports, sender, receiver.server_port, pending)
        for name, url, options in (
            ("prometheus", watched._url, ["--storage.tsdb.path=tsdb", f"--web.listen-address=127.0.0.1:{here}"]),
            (
                "alertmanager",
                f"http://127.0.0.1:{sender}",
                ["--storage.path=alerts", f"--web.listen-address=127.0.0.1:{sender}", "--cluster.listen-address="],
            ),
        ):
            program = next(one for one in PROGRAMS if one.endswith(name))
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [program, f"--config.file={name}.yml", *options], cwd=folder, stdout=log, stderr=log
                )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
            until(partial(_ready, url))
        yield watched


@contextmanager
def prometheus_of_servers(folder: Path) -> Iterator[str]:
    """Prometheus with two days of what a node exporter says of two servers, a sample a minute; its URL."""
    here, now = free_port(), int(time.time())
    metrics = ("node_load1", "node_memory_MemAvailable_bytes", "node_network_receive_bytes_total")
    with (folder / "servers.txt").open("w") as file:
        for metric, (size, rises) in zip(metrics, ((2.0, 0.0), (4e9, 0.0), (1e6, 1e5)), strict=True):
            kind = "counter" if rises else "gauge"
            file.write(f"# HELP {metric} x\n# TYPE {metric.removesuffix('_total')} {kind}\n")
            for server in ("web-1:9100", "web-2:9100"):
                for minute in range(2 * 1440):
                    wave = 1 + 0.3 * math.sin(minute / 1440 * 2 * math.pi) + 0.05 * math.sin(minute * 12.9898)
                    at = now - 60 * (2 * 1440 - minute)
                    file.write(f'{metric}{{device="eth0",instance="{server}"}} {size * wave + rises * minute} {at}\n')
        file.write("# EOF\n")
    (folder / "servers.yml").write_text("")
    made = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "servers.txt", "servers"]
    subprocess.run(made, cwd=folder, check=True, capture_output=True)
    started = ["prometheus", "--config.file=servers.yml", "--storage.tsdb.path=servers"]
    with (folder / "servers.log").open("wb") as log:
        process = subprocess.Popen(
            [*started, f"--web.listen-address=127.0.0.1:{here}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        until(partial(_ready, f"http://127.0.0.1:{here}"))
        yield f"http://127.0.0.1:{here}"
    finally:
        process.terminate()
        process.wait(30)


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/-/ready").status_code == 200
    except httpx2.TransportError:
        return False


def _write_configuration(
    folder: Path, services: Sequence[int], sender: int, receiver: int, pending: str | None
) -> None:
    """Ours, but for addresses, and perhaps with times that a test can wait for."""
    rules = (DOCKER / "alerts.yml").read_text()
    prometheus = yaml.safe_load((DOCKER / "prometheus.yml").read_text())
    alertmanager = yaml.safe_load((DOCKER / "alertmanager.yml").read_text())
    if pending is not None:
        rules = re.sub(r"for: \d+[sm]", f"for: {pending}", rules).replace("[75s]", "[2s]")
        prometheus["global"] = {"scrape_interval": BEAT, "scrape_timeout": BEAT, "evaluation_interval": BEAT}
        alertmanager["route"] |= {"group_wait": "300ms", "group_interval": "500ms"}
    (folder / "alerts.yml").write_text(rules)
    prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{sender}"]
    prometheus["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{one}" for one in services]
    alertmanager["receivers"][0]["webhook_configs"] = [{"url": f"http://127.0.0.1:{receiver}"}]
    for name, content in (("prometheus", prometheus), ("alertmanager", alertmanager)):
        (folder / f"{name}.yml").write_text(yaml.safe_dump(content))


def _receiver(watched: Monitoring) -> type[BaseHTTPRequestHandler]:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            watched.notifications.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    return Receiver
