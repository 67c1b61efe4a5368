"""A tiny detector, a real Redis, a client."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx2._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings as hypothesis_settings
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import load_artefact
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.samples import KEPT_DAYS, LONG_MS, PATIENT_MS, make_artefact
from tests.support.waiting import PATIENCE_S

for phase in ("connect", "read", "write", "pool"):  # of each request that asks nothing else: 5 s are few if it is busy
    setattr(DEFAULT_TIMEOUT_CONFIG, phase, PATIENCE_S)

_tenants = itertools.count()

hypothesis_settings.register_profile("gatewatch", deadline=None)  # no test is timed; the machine may be busy
hypothesis_settings.load_profile("gatewatch")


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_artefact(tmp_path_factory.mktemp("artefact") / "tiny")


@pytest.fixture
def detector(artefact: Path) -> TrainedDetector:
    return TrainedDetector(load_artefact(artefact))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with start_private_redis(tmp_path_factory.mktemp("redis")) as private:
        yield private.url


@pytest.fixture
def tenant() -> str:
    """A tenant nobody else uses: an empty corner of the shared Redis."""
    return f"test-{next(_tenants)}-{time.time_ns()}"


@pytest.fixture
def settings(artefact: Path, redis_url: str, tenant: str) -> Callable[..., Settings]:
    def make(**changes: Any) -> Settings:
        given: dict[str, Any] = {
            "model": str(artefact),
            "redis_url": redis_url,
            "tenant": tenant,
            "store_timeout_ms": PATIENT_MS,
            "waiting_ms": LONG_MS,
            "incident_days": KEPT_DAYS,
        }
        return Settings(**given | changes)

    return make


@pytest.fixture
def client(settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(settings())) as client:
        yield client
