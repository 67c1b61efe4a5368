"""A Python that begins at once: forked off one that has imported what the commands and the service need.

`python -m gatewatch` takes 0.7 s of CPU until it does anything, and 4 s before it trains; a fork takes 0.06 s. What
runs is a process of its own all the same, with its own arguments, environment, folder, standard streams, signals and
exit status. Where the start itself is tested, or what is imported, start Python itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

IMPORTED: Final = (
    "gatewatch.service.cli",
    "gatewatch.service.app",
    "gatewatch.service.storage.private_redis",
    "gatewatch.models.detectors.general.detector",
    "gatewatch.models.training.report",
    "gatewatch.models.training.stored",
    "gatewatch.models.training.trained.train",
    "polars",
    "torch._dynamo",
    "uvicorn",
)
_LARGEST: Final = 2**20
"""Bytes of a request: arguments and environment."""


_READ_AT_START: Final = ("LD_", "PYTHON")
"""Variables with these beginnings are read by Python or the loader as a process begins: a fork would not see them."""


class Forked:
    """A process that was forked. It is used as a `subprocess.Popen`."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, stdout: int, stderr: int
    ) -> None:
        self.returncode: int | None = None
        self.stderr: IO[bytes] | None = None
        if stderr == subprocess.PIPE:
            end, stderr = os.pipe()
            self.stderr = os.fdopen(end, "rb")
        request = {"arguments": arguments, "environment": dict(environment), "folder": str(folder)}
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.connect(_address())
        with open(os.devnull) as nothing:
            socket.send_fds(self._server, [json.dumps(request).encode()], [nothing.fileno(), stdout, stderr])
        if self.stderr is not None:
            os.close(stderr)
        self.pid = int(self._server.recv(64))

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; the exit status, or the number of the signal that killed it, negative."""
        if self.returncode is None:
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._server, selectors.EVENT_READ)
                if not waiting.select(timeout):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._server.recv(64))
            self._server.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[None, bytes]:
        """Wait until it has ended; nothing, and what it still says on standard error, which must be a pipe."""
        assert self.stderr is not None
        with self.stderr, ThreadPoolExecutor(1) as reader:
            said = reader.submit(self.stderr.read)
            self.wait(timeout)
            return None, said.result(timeout)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has, and its status is on the way
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


Process: TypeAlias = Forked | subprocess.Popen[bytes]


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None = None,
    stdout: int = 1,
    stderr: int = 2,
) -> Process:
    """Start `python *arguments`.

    Args:
        arguments: `-m MODULE`, `-c CODE` or a file, and its own arguments.
        environment: all variables. Where one is among them that is read as a process begins, Python itself is started.
        folder: to work in; else this one.
        stdout: descriptor of an open file. Likewise stderr, which may be `subprocess.PIPE`.
    """
    if any(name.startswith(_READ_AT_START) and os.environ.get(name) != environment[name] for name in environment):
        return subprocess.Popen([sys.executable, *arguments], env=environment, cwd=folder, stdout=stdout, stderr=stderr)
    return Forked(arguments, environment, folder or Path.cwd(), stdout, stderr)


def run(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path | None = None, within_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run `python *arguments` to its end, as `start` does; what it said."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = start(arguments, environment, folder, stdout.fileno(), stderr.fileno())
        try:
            status = process.wait(within_s)
        except BaseException:
            process.kill()
            raise
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess([*arguments], status, stdout.read(), stderr.read())


def write_program(path: Path, arguments: Sequence[str]) -> None:
    """Write a program that does what `python *arguments` does with its own arguments after these."""
    path.write_text(_PROGRAM.format(python=sys.executable, address=_address(), arguments=[*arguments]))
    path.chmod(0o755)


_PROGRAM: Final = """#!{python} -IS
import json, os, signal, socket, sys
request = {{"arguments": {arguments} + sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    pid = int(server.recv(64))
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(pid, number))
    sys.exit(int(server.recv(64)) % 256)
"""


@functools.cache
def _address() -> str:
    """Of the process that forks; started when it is first needed, it ends with this one."""
    folder = tempfile.mkdtemp(prefix="forked-")
    command = [sys.executable, "-m", "tests.support.forked", folder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    atexit.register(process.communicate)  # closes the pipe by which it knows that this one is there, and waits
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return f"{folder}/socket"


def _forks(folder: str) -> list[str]:
    """Fork whenever asked, and tell how it ended. Return, in each fork, with what it is to run."""
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    listener, waiting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), selectors.DefaultSelector()
    listener.bind(f"{folder}/socket")
    listener.listen(64)
    print("ready", flush=True)
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(0, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of a process's end
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                asking, _ = listener.accept()
                said, files, _, _ = socket.recv_fds(asking, _LARGEST, 3)
                pid = os.fork()
                if pid == 0:
                    waiting.close()
                    for other in (listener, asking, *(other for _, other in running.values())):
                        other.close()
                    for end in running:
                        os.close(end)
                    return _become(json.loads(said), files)
                for file in files:
                    os.close(file)
                end = os.pidfd_open(pid)
                running[end] = pid, asking
                waiting.register(end, selectors.EVENT_READ)
                asking.send(str(pid).encode())
            elif key.fd in running:
                pid, asking = running.pop(key.fd)
                waiting.unregister(key.fd)
                os.close(key.fd)
                with asking, contextlib.suppress(BrokenPipeError):
                    asking.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
            else:  # whoever started this has ended
                shutil.rmtree(folder)
                sys.exit()


def _become(request: dict[str, Any], files: list[int]) -> list[str]:
    """Make this process what was asked for; return its arguments."""
    for at, file in enumerate(files):
        os.dup2(file, at)
        os.close(file)
    sys.stdin, sys.stdout = open(0), open(1, "w", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    arguments: list[str] = request["arguments"]
    return arguments


def _run(arguments: list[str]) -> None:
    """Do as `python *arguments` does."""
    kind, *rest = arguments
    if kind == "-m":
        sys.path[0], sys.argv = os.getcwd(), rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
    else:
        sys.path[0], sys.argv = str(Path(kind).parent), arguments
        runpy.run_path(kind, run_name="__main__")


def _status(arguments: list[str]) -> int:
    """Run to the end; the exit status that Python would have."""
    try:
        _run(arguments)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    status = _status(_forks(sys.argv[1]))
    threading._shutdown()  # type: ignore[attr-defined]  # as Python does at its end, but for taking all modules apart
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)
