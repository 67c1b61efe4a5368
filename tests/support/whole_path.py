"""What several tests share."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.ports import free_port
from tests.support.samples import KEPT_DAYS

READY_S = 90.0
"""A service is ready in 2 s; on a machine with a load of 35, two tests waited 30 s in vain."""


@contextmanager
def serving(
    artefact: Path | None, data: Path, *options: str, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = int(environment.get("GATEWATCH_PORT") or free_port())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWATCH_")}
    kept |= {
        **({} if artefact is None else {"GATEWATCH_MODEL": str(artefact)}),
        "GATEWATCH_DATA_DIR": str(data),
        "GATEWATCH_PORT": str(port),
        "GATEWATCH_INCIDENT_DAYS": str(KEPT_DAYS),
        **environment,
    }
    process = subprocess.Popen([sys.executable, "-m", "gatewatch", "serve", *options], env=kept, stderr=subprocess.PIPE)
    trusted = environment.get("GATEWATCH_TLS_CERT")
    url = f"{'https' if trusted else 'http'}://127.0.0.1:{port}"
    verify = ssl.create_default_context(cafile=trusted) if trusted else True
    try:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx2.get(f"{url}/readyz", verify=verify).status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.05)
        else:
            pytest.fail(f"the service is not ready after {READY_S:g} s, or ended: {process.poll()}")
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode in (0, -signal.SIGKILL), log.decode()  # killed by the test, or told to stop
