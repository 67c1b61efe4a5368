"""What several tests share."""

from __future__ import annotations

import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import httpx2
import pytest

from tests.support.cli import without_settings
from tests.support.forked import Process, start
from tests.support.ports import free_port
from tests.support.samples import KEPT_DAYS, LONG_MS, PATIENT_MS
from tests.support.waiting import PATIENCE_S


@contextmanager
def serving(artefact: Path | None, data: Path, *options: str, **environment: str) -> Iterator[tuple[str, Process]]:
    port = int(environment.get("GATEWATCH_PORT") or free_port())
    kept = without_settings() | {
        **({} if artefact is None else {"GATEWATCH_MODEL": str(artefact)}),
        "GATEWATCH_DATA_DIR": str(data),
        "GATEWATCH_PORT": str(port),
        "GATEWATCH_INCIDENT_DAYS": str(KEPT_DAYS),
        "GATEWATCH_STORE_TIMEOUT_MS": str(PATIENT_MS),
        "GATEWATCH_WAITING_MS": str(LONG_MS),
        **environment,
    }
    process = start(["-m", "gatewatch", "serve", *options], kept, stderr=PIPE)
    trusted = environment.get("GATEWATCH_TLS_CERT")
    url = f"{'https' if trusted else 'http'}://127.0.0.1:{port}"
    verify = ssl.create_default_context(cafile=trusted) if trusted else True
    try:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx2.get(f"{url}/readyz", verify=verify).status_code == 200:
                    break
            except httpx2.TransportError:
                time.sleep(0.02)
        else:
            pytest.fail(f"the service is not ready after {PATIENCE_S:g} s, or ended: {process.poll()}")
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, -signal.SIGKILL), log.decode()  # killed by the test, or told to stop
