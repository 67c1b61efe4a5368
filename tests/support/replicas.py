"""Replica: a service in a process of its own, that may die, hang, and begin again on the same port."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.cli import without_settings
from tests.support.forked import Process, start
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE_S

SERVE = ("-m", "gatewatch", "serve")


class Replica:
    """A process of `gatewatch serve`, started at once.

    Attributes:
        port: the same after each start.
        command: what is started next.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        command: Sequence[str] = SERVE,
        log: Path = Path(os.devnull),
        program: Sequence[str] | None = None,
    ) -> None:
        """Start it.

        Args:
            settings: environment variables; no other setting of this process is handed on.
            command: what this Python runs.
            log: to be added to.
            program: another one than this Python, with its arguments, in place of `command`.
        """
        self._environment = without_settings() | dict(settings)
        self.command = list(program or (sys.executable, *command))
        self._log = log
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start the process; it does not answer yet."""
        command = [*self.command, "--port", str(self.port)]
        with self._log.open("ab") as log:
            if command[0] == sys.executable:
                self._process: Process = start(command[1:], self._environment, stderr=log.fileno())
            else:
                self._process = subprocess.Popen(command, env=self._environment, stderr=log)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit status of a process that has ended."""
        return self._process.poll()

    def tell(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, within_s: float = PATIENCE_S) -> None:
        """Send the process a signal that ends it, and wait; kill it where it does not end in time."""
        self.tell(number)
        try:
            self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def await_listening(self, within_s: float = PATIENCE_S) -> None:
        """Wait until the port is open."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with socket.socket() as probe, contextlib.suppress(OSError):
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
