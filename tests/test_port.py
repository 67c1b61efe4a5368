"""The port of several processes."""

from __future__ import annotations

import contextlib
import pickle
import socket
from pathlib import Path

import pytest

from service.http.port import Port
from tests.test_whole_path import gatewatch, refused

CONNECTIONS = 64


def of_another_process(port: Port) -> Port:
    return pickle.loads(pickle.dumps(port))  # noqa: S301 - as multiprocessing sends it


def waiting(listener: socket.socket) -> int:
    listener.setblocking(False)
    taken = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            taken += 1
    return taken


def test_each_process_is_dealt_a_share_of_the_connections() -> None:
    with Port.first("127.0.0.1", 0) as port, of_another_process(port) as one, of_another_process(port) as other:
        one.listen(CONNECTIONS)
        other.listen(CONNECTIONS)
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS):
                stack.enter_context(socket.create_connection(port.getsockname()))
            shares = waiting(one), waiting(other)
    assert sum(shares) == CONNECTIONS
    assert min(shares) > CONNECTIONS / 8


def test_a_port_on_which_another_service_listens_is_not_shared_with_it() -> None:
    with Port.first("127.0.0.1", 0) as port, of_another_process(port) as listening:
        listening.listen()
        with pytest.raises(OSError, match="in use"):
            Port.first(*port.getsockname())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_one_line(artefact: Path, tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_DATA_DIR": str(tmp_path / "data")}
        done = gatewatch("serve", "--port", port, "--workers", workers, **settings)
    assert refused(done, f"cannot listen on 127.0.0.1, port {port}: Address already in use")
