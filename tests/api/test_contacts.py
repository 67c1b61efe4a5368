"""Nothing is contacted but Redis: not by our code, and not by a library below it, whatever it is written in.

A small library is preloaded into the processes and notes their connections; it needs a C compiler, as the durability
tests do, and no rights. A library that made system calls past libc would not be seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.support.cli import gatewatch, recording
from tests.support.samples import readings
from tests.support.whole_path import serving

LOOPBACK = {"address 127.0.0.1", "address ::1", "name 127.0.0.1", "name localhost"}


class Watch:
    """Environment of a process that is watched, and what it did."""

    def __init__(self, folder: Path, library: Path) -> None:
        self._home, self._contacts = folder / "home", folder / "contacts"
        self._home.mkdir()
        self.environment = {"HOME": str(self._home), "LD_PRELOAD": str(library), "CONTACTS": str(self._contacts)}
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ORT_DISABLE_TELEMETRY"):
            self.environment[name] = ""

    def contacts(self) -> set[str]:
        return set(self._contacts.read_text().splitlines()) if self._contacts.exists() else set()

    def strange(self) -> list[str]:
        """Contacts that are none of ours, and files left in the user's home."""
        return [*sorted(self.contacts() - LOOPBACK), *map(str, self._home.rglob("*"))]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    library = tmp_path / "contacts.so"
    source = Path(__file__).with_name("contacts.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return Watch(tmp_path, library)


def test_whom_a_process_contacts_is_seen(watch: Watch) -> None:
    code = """
import socket
with socket.socket(type=socket.SOCK_DGRAM) as packets:
    packets.sendto(b"", ("192.0.2.2", 9))
    packets.connect(("192.0.2.1", 9))
socket.getaddrinfo("nowhere.invalid", 1)
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | watch.environment, capture_output=True, check=False)
    assert watch.strange()[:3] == ["address 192.0.2.1", "address 192.0.2.2", "name nowhere.invalid"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serving_contacts_nobody(artefact: Path, tmp_path: Path, watch: Watch, workers: str) -> None:
    """The private Redis is at a socket of the file system."""
    with serving(artefact, tmp_path / "data", "--workers", workers, **watch.environment) as (url, _):
        assert httpx2.post(f"{url}/v1/readings", json=readings("s", 40)).status_code == 200
    assert watch.strange() == []
    assert "name 127.0.0.1" in watch.contacts()  # of the port, so the process was watched


def test_scanning_and_training_contact_nobody(tmp_path: Path, watch: Watch) -> None:
    path = recording(tmp_path / "r.csv", 80)
    small = ("--epochs", "1", "--hidden", "3")
    for arguments in (
        ("scan", path, "--out", tmp_path / "general.csv"),
        ("train", path, "--out", tmp_path / "artefact", *small),
        ("scan", path, "--model", tmp_path / "artefact", "--out", tmp_path / "own.csv"),
    ):
        done = gatewatch(*map(str, arguments), **watch.environment)
        assert done.returncode == 0, done.stderr
    assert watch.strange() == []
