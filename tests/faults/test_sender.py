"""A short form of `python -m tests.faults.sender`."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.faults.sender import run


def test_the_client_loses_nothing_while_service_and_redis_are_killed(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    came_to = run(tmp_path / "data", port, 20_000, 100, 2, tmp_path / "spool", seed=1)
    assert came_to.kills == 2
    assert came_to.wrong == 0, came_to
