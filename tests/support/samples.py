"""A tiny artefact, and readings for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, cast

import httpx2
import numpy as np
import torch
from redis import Redis
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import FORMAT_VERSION, Manifest, save_artefact
from gatewatch.models.detectors.trained.scaling import Scaling
from gatewatch.models.training.architectures import build
from gatewatch.models.training.architectures.cells import CellForecaster
from gatewatch.models.training.config import Architecture, TrainConfig
from gatewatch.models.training.export import export_step, export_whole, weights
from gatewatch.models.training.trained.calibration import neutral

CHANNELS = ("pressure", "flow")
START_MS = 1_700_000_000_000
KEPT_DAYS = 100_000.0
"""Of incidents, for tests that are not about it: these readings are years old, and within a minute forgotten else."""

PATIENT_MS = 10_000
"""A store time-out for tests that are not about it: on a busy machine Redis may take its time."""

LONG_MS = 60_000
"""Likewise how long readings may wait: on a busy machine a batch takes its time, too."""


def make_artefact(
    folder: Path,
    seed: int = 0,
    channels: tuple[str, ...] = CHANNELS,
    architecture: Architecture = "lstm",
    **calibration: Any,
) -> Path:
    """An untrained network of H = 3 with thresholds of 4: forecasts of nothing much, deterministic all the same."""
    torch.manual_seed(seed)
    config = TrainConfig(architecture=architecture, layers=2, hidden=3, memory=5)
    network = build(config, len(channels)).eval()
    scaling = Scaling(np.full(len(channels), 3.0), np.full(len(channels), 1.0), 60.0)
    described, neutral_calibration = neutral(scaling, channels, ["bar"] * len(channels))
    settings = {"event_threshold": 4.0, "level_threshold": 4.0, "warm_up": 4, **calibration}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        kind=network.kind,
        architecture=architecture,
        architecture_settings=config.model_dump(mode="json"),
        state={name: list(shape) for name, shape in network.state_shapes().items() if network.kind == "live"},
        channels=[channel.model_copy(update={"still_limit": 50.0, "absent_limit": 20.0}) for channel in described],
        interval_s=60.0,
        calibration=neutral_calibration.model_copy(update=settings),
        training={},
        files={},
    )
    graph = export_step(cast(CellForecaster, network)) if network.kind == "live" else export_whole(network)
    save_artefact(folder, manifest, graph, weights(network), "# Model card\n")
    return folder


CROWDED: dict[str, Any] = {"batch_readings": 1, "waiting_readings": 1, "store_timeout_ms": LONG_MS}
"""Settings with which `crowded` works."""


@contextmanager
def crowded(client: httpx2.Client, redis_url: str) -> Iterator[None]:
    """Inside, Redis hangs: two batches of one reading are under way, as many wait as may. All are answered."""
    with Redis.from_url(redis_url) as database:
        pid = int(database.info("server")["process_id"])
    statuses: list[int] = []

    def send(stream: str) -> None:
        while (status := client.post("/v1/readings", json=readings(stream, 1)).status_code) == 429:
            time.sleep(0.02)  # the ones before are not yet being scored
        statuses.append(status)

    assert client.get("/v1/streams").is_success  # Redis was asked whether there are keys
    os.kill(pid, signal.SIGSTOP)
    try:
        threads = [Thread(target=send, args=(f"crowd-{number}",)) for number in range(3)]
        for thread in threads:
            thread.start()
        refused, deadline = 0, time.monotonic() + LONG_MS / 2000
        while refused < 3:  # once may have been before the others were being scored
            refused = refused + 1 if client.post("/v1/readings", content=b"").status_code == 429 else 0
            assert time.monotonic() < deadline, "no crowd"
            time.sleep(0.03)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        for thread in threads:
            thread.join(LONG_MS / 1000)
    assert statuses == [200] * 3


def readings(stream: str, count: int, seed: int = 0, start: int = 0) -> list[dict[str, Any]]:
    """`count` readings of a stream, one a minute, numbered from `start`, some values missing."""
    rng = np.random.default_rng(seed)
    values = rng.normal(3, 1, (count, len(CHANNELS))).round(3)
    missing = rng.random(values.shape) < 0.1
    return [
        {
            "stream": stream,
            "timestamp": START_MS / 1000 + 60 * (start + row),
            "seq": start + row,
            "values": {c: None if missing[row, at] else values[row, at] for at, c in enumerate(CHANNELS)},
        }
        for row in range(count)
    ]


def post(client: TestClient, sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    reply = client.post("/v1/readings", json=sent)
    assert reply.status_code == 200, reply.text
    results: list[dict[str, Any]] = reply.json()
    return results
