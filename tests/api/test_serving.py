"""The processes of `gatewatch serve`: how they are renewed, how they end, and what they leave."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gatewatch.service.http.ports import hold
from tests.support.cli import gatewatch, refused
from tests.support.forked import Process
from tests.support.samples import make_artefact, post, readings
from tests.support.waiting import PATIENCE_S
from tests.support.whole_path import serving

NO_TEMPORARY_FOLDER = """
import tempfile
tempfile._candidate_tempdir_list = lambda: []
"""


def counted(url: str) -> float:
    """Readings that were taken, over all processes."""
    text = httpx2.get(f"{url}/metrics").text
    taken = (line for line in text.splitlines() if line.startswith("gatewatch_score_count "))
    return float(next(taken).split()[1])


def until(reached: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := reached()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def workers_of(process: Process) -> set[int]:
    """Of them that serve; one more is Python's own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()}


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz").status_code == 200
    except httpx2.TransportError:
        return False


RENEWED_EARLY = """
import os, signal
times, right = [], signal.signal
def early(number, handler):
    found = right(number, handler)
    if number == signal.SIGTERM and len(times) < 2:
        times.append(number)
        os.kill(os.getpid(), signal.SIGHUP)
    return found
signal.signal = early
"""


def send(url: str, stream: str, count: int) -> None:
    with httpx2.Client(base_url=url) as client:
        post(client, readings(stream, count))  # type: ignore[arg-type]


def test_what_workers_counted_stays_whatever_becomes_of_them(artefact: Path, tmp_path: Path) -> None:
    """Killed, replaced, and with no folder to keep anything in."""
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY_FOLDER)
    environment = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "PROMETHEUS_MULTIPROC_DIR": "/nowhere"}
    with serving(artefact, tmp_path / "data", "--workers", "2", **environment) as (url, process):
        for at in range(8):
            send(url, f"s{at}", 5)
        assert counted(url) == 40
        before = until(lambda: len(workers_of(process)) == 2 and workers_of(process))
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(workers_of(process)) == 2 and workers_of(process) != before and answers(url))
        assert counted(url) == 40
        before = workers_of(process)
        process.send_signal(signal.SIGHUP)
        until(lambda: len(workers_of(process)) == 2 and not workers_of(process) & before and answers(url))
        send(url, "t", 5)
        assert counted(url) == 45


def test_workers_go_on_with_one_model_though_its_folder_changed_when_one_was_lost(tmp_path: Path) -> None:
    """The one started anew has the model of now; the others follow it. A model that is none replaces nobody."""
    folder = make_artefact(tmp_path / "artefact", 0)
    with serving(folder, tmp_path / "data", "--workers", "2") as (url, process):
        send(url, "s", 5)
        log = iter(process.stderr or ())
        for _ in range(2):
            next(line for line in log if b'"started"' in line)
        before = workers_of(process)
        (folder / "manifest.json").rename(tmp_path / "manifest.json")
        process.send_signal(signal.SIGHUP)
        next(line for line in log if b"the workers before go on" in line)
        assert workers_of(process) == before
        shutil.rmtree(folder)
        make_artefact(folder, 1)
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(workers_of(process)) == 2 and not workers_of(process) & before and answers(url))
        send(url, "s", 8)
        seen = {httpx2.get(f"{url}/metrics").text.partition("\ngatewatch_takeover ")[2][:3] for _ in range(20)}
        assert seen == {"2.0"}


def test_workers_end_with_their_parent_and_leave_the_port(artefact: Path, tmp_path: Path) -> None:
    with serving(artefact, tmp_path / "data", "--workers", "2") as (url, process):
        workers = until(lambda: len(workers_of(process)) == 2 and workers_of(process))
        process.kill()
        process.wait()
        until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
        (port,) = hold("127.0.0.1", int(url.rpartition(":")[2]))
        port.close()
        with serving(artefact, tmp_path / "data") as (again, _):  # on the Redis that was left, which is taken over
            assert answers(again)


def test_a_single_process_goes_on_with_the_model_of_now_when_told_to(tmp_path: Path) -> None:
    """Its counts stay, and nobody is refused meanwhile. A model that is none is not taken."""
    folder = make_artefact(tmp_path / "artefact", 0)
    with serving(folder, tmp_path / "data") as (url, process):
        send(url, "s", 5)
        model = httpx2.get(f"{url}/readyz").json()["model"]
        refusals: list[object] = []
        stopped = threading.Event()

        def ask() -> None:
            while not stopped.wait(0.01):
                try:
                    try:
                        httpx2.get(f"{url}/livez").raise_for_status()
                    except httpx2.ReadError:  # it was in the queue of the listener that was closed
                        httpx2.get(f"{url}/livez").raise_for_status()
                except httpx2.HTTPError as error:
                    refusals.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        for seed in (1, 2):
            shutil.rmtree(folder)
            make_artefact(folder, seed)
            process.send_signal(signal.SIGHUP)
            model = until(lambda before=model: (now := httpx2.get(f"{url}/readyz").json()["model"]) != before and now)  # type: ignore[misc]
            infos = [
                line
                for line in httpx2.get(f"{url}/metrics").text.splitlines()
                if line.startswith("gatewatch_model_info{")
            ]
            assert len(infos) == 1
            assert model in infos[0]
        stopped.set()
        asking.join()
        assert refusals == []
        assert counted(url) == 5
        (folder / "manifest.json").write_text("{}")
        process.send_signal(signal.SIGHUP)
        log = iter(process.stderr or ())
        next(line for line in log if b"the server before goes on" in line)
        assert httpx2.get(f"{url}/readyz").json()["model"] == model


def test_who_renews_a_process_that_has_not_begun_to_serve_does_not_end_it(artefact: Path, tmp_path: Path) -> None:
    """An hour of chaos ended one: it got SIGHUP while it loaded the model. Here, then and before its server begins."""
    (tmp_path / "sitecustomize.py").write_text(RENEWED_EARLY)
    path = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    with serving(artefact, tmp_path / "data", **path) as (url, process):
        log = iter(process.stderr or ())
        next(line for line in log if b"a new server takes over" in line)
        next(line for line in log if b'"started"' in line)
        send(url, "s", 5)
        assert process.poll() is None


@pytest.mark.parametrize("long", [False, True])
def test_without_a_folder_for_temporary_files_it_serves_or_says_so(artefact: Path, tmp_path: Path, long: bool) -> None:
    """Only a data folder whose name is too long for a socket needs one."""
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY_FOLDER)
    path = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    data = tmp_path / ("d" * 120 if long else "d")
    if long:
        done = gatewatch("serve", GATEWATCH_MODEL=str(artefact), GATEWATCH_DATA_DIR=str(data), **path)
        assert refused(done, "no folder for temporary files")
    else:
        with serving(artefact, data, **path) as (url, _):
            assert answers(url)


def test_when_its_terminal_is_closed_a_single_process_stops_and_leaves_no_redis(artefact: Path, tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    environment = os.environ | {"GATEWATCH_MODEL": str(artefact), "GATEWATCH_DATA_DIR": str(tmp_path / "data")}
    process = subprocess.Popen(
        [sys.executable, "-m", "gatewatch", "serve", "--port", "0"],
        env=environment, stdin=terminal, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    next(line for line in process.stderr or () if b"startup complete" in line)
    os.close(master)
    process.communicate(timeout=30)
    assert process.returncode == 0
    with socket.socket(socket.AF_UNIX) as redis, pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        redis.connect(str(tmp_path / "data" / "redis.sock"))
