"""The port of several processes."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gatewatch.service.http.ports import Port, hold
from tests.support.cli import gatewatch, refused
from tests.support.whole_path import serving

CONNECTIONS = 64


def of_another_process(port: Port) -> Port:
    copy: Port = pickle.loads(pickle.dumps(port))  # noqa: S301 - as multiprocessing sends it
    return copy


def waiting(listener: socket.socket) -> int:
    listener.setblocking(False)
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            taken += 1
    return taken


LOCAL = "127.0.0.1"


def test_each_process_is_dealt_a_share_of_the_connections() -> None:
    (held,) = hold(LOCAL, 0)
    with held as port, of_another_process(port) as one, of_another_process(port) as other:
        one.listen(CONNECTIONS)
        other.listen(CONNECTIONS)
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection(port.getsockname()))
            shares = waiting(one), waiting(other)
    assert sum(shares) == CONNECTIONS
    assert min(shares) > CONNECTIONS / 8


@pytest.mark.parametrize("host", [LOCAL, "0.0.0.0"])
@pytest.mark.parametrize("processes", ["none yet", "starting", "listening"])
def test_a_port_that_another_service_holds_is_not_shared_with_it(host: str, processes: str) -> None:
    """Neither before its processes listen: of two services started together each would get half of the readings."""
    with contextlib.ExitStack() as stack:
        (port,) = map(stack.enter_context, hold(LOCAL, 0))
        if processes != "none yet":
            process = stack.enter_context(of_another_process(port))
            if processes == "listening":
                process.listen()
        with pytest.raises(OSError, match="in use"):
            hold(host, port.getsockname()[1])


class Overtaken(Port):
    """As soon as it is bound, another service has taken its address."""

    def bind(self, address: Any) -> None:
        super().bind(address)
        self.other = Port.held(self.family, address)

    def close(self) -> None:
        self.other.close()
        super().close()


def test_of_two_services_that_take_a_port_at_once_one_gets_it() -> None:
    with pytest.raises(OSError, match="in use"):
        Overtaken.held(socket.AF_INET, (LOCAL, 0))


def test_a_port_can_be_held_again_as_soon_as_its_service_has_ended() -> None:
    (held,) = hold(LOCAL, 0)
    with held as port, port.another() as listener:
        address = port.getsockname()
        listener.listen()
        with socket.create_connection(address) as caller, listener.accept()[0] as accepted:
            accepted.close()  # first, so that its end of the connection lingers
            assert caller.recv(1) == b""
    (held,) = hold(*address)
    held.close()


def test_every_address_of_a_name_is_held_with_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_name(name: bytes, port: int, **_: Any) -> list[Any]:
        assert name == b"localhost"
        both = ((socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, (LOCAL, port)))
        return [(family, socket.SOCK_STREAM, 0, "", address) for family, address in both]

    monkeypatch.setattr(socket, "getaddrinfo", of_name)
    ports = hold("localhost", 0)
    numbers = {port.getsockname()[1] for port in ports}
    for port in ports:
        port.close()
    assert len(numbers) == 1
    assert len(ports) == (2 if has_ipv6() else 1)


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_line(artefact: Path, tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_DATA_DIR": str(tmp_path / "data")}
        done = gatewatch("serve", "--port", port, "--workers", workers, **settings)
    assert refused(done, f"cannot listen on 127.0.0.1, port {port}: Address already in use")


SLOW_START = """
import os, pathlib, sys, time
if "--multiprocessing-fork" in sys.orig_argv:
    (pathlib.Path(__file__).parent / f"started-{os.getpid()}").touch()
    time.sleep(7)
"""


def test_worker_processes_that_start_slowly_are_waited_for(artefact: Path, tmp_path: Path) -> None:
    """uvicorn kills those that say nothing for 5 s: on a busy machine none ever came up."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    with serving(artefact, tmp_path / "data", "--workers", "2", PYTHONPATH=f"{tmp_path}:{Path.cwd()}"):
        assert len(list(tmp_path.glob("started-*"))) == 2


def test_the_log_says_where_the_service_listens(artefact: Path, tmp_path: Path) -> None:
    environment = os.environ | {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-m", "gatewatch", "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = map(json.loads, process.stderr or ())
            (address,) = next(line for line in lines if line["event"] == "listening")["addresses"]
            next(line for line in lines if line["event"] == "Application startup complete.")
            assert httpx2.get(f"http://{address}/livez").status_code == 200
        finally:
            process.terminate()
