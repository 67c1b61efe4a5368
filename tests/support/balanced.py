"""HAProxy in front of replicas, and what is asked of either."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.support.ports import free_port

START_S = 180.0

CONFIGURATION = """\
global
  maxconn 2000
defaults
  mode {mode}
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option redispatch
  retries 3
frontend in
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance leastconn
  option httpchk GET /readyz
  timeout check 5s
  default-server check inter 1s fall 3 rise 1
"""


@contextmanager
def haproxy(folder: Path, ports: list[int], sticky: bool = False) -> Iterator[tuple[int, int]]:
    """HAProxy before some replicas; its port and pid.

    Args:
        sticky: a connection stays with the replica that it got; else each request goes to the one that has fewest.
    """
    port = free_port()
    servers = [f"  server replica{at} 127.0.0.1:{own}\n" for at, own in enumerate(ports)]
    (folder / "haproxy.cfg").write_text(
        CONFIGURATION.format(port=port, mode="tcp" if sticky else "http") + "".join(servers)
    )
    process = subprocess.Popen(["haproxy", "-db", "-f", folder / "haproxy.cfg"], stderr=subprocess.DEVNULL)
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def await_ready(port: int) -> None:
    """Wait until whatever answers at a port is ready. Raises RuntimeError after START_S."""
    deadline, found = time.monotonic() + START_S, "nothing"
    while time.monotonic() < deadline:
        try:
            status, found = get(port, "/readyz")
            if status == 200:
                return
        except (OSError, HTTPException) as error:
            found = repr(error)
        time.sleep(0.1)
    raise RuntimeError(f"nothing is ready at {port}: {found[:500]}")


def get(port: int, path: str) -> tuple[int, str]:
    """Status and text of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()
