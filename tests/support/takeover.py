"""What several tests share."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from tests.support.samples import CHANNELS

GENERAL: dict[str, Any] = {"model": "general", "channels": CHANNELS}


def known(client: TestClient, stream: str) -> dict[str, Any]:
    return dict(client.get(f"/v1/streams/{stream}").json())
