"""What a request asks for may be large: it is parsed, looked through and written where no reading waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.incidents import conditions
from gatewatch.service.policies import policies
from gatewatch.service.policies.policy import Policies, PolicyFinder
from gatewatch.service.serving import shared_document
from gatewatch.service.settings import Settings
from tests.support.samples import post, readings

LARGE = {f"stream-{at}": {"tags": {"site": "north"}, "sensitivity": 2.0} for at in range(400)}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """On which threads what was done."""
    threads: dict[str, set[str]] = {}

    def told(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def telling(*given: Any) -> Any:
            threads.setdefault(name, set()).add(threading.current_thread().name.partition("_")[0])
            return work(*given)

        return telling

    monkeypatch.setattr(conditions, "of_history", told("conditions", conditions.of_history))
    monkeypatch.setattr(policies, "PolicyFinder", told("finder", PolicyFinder))
    monkeypatch.setattr(Policies, "written", told("written", Policies.written))
    monkeypatch.setattr(Policies, "model_validate_json", told("parsed", Policies.model_validate_json))
    return threads


def test_large_requests_are_worked_on_aside_and_small_ones_in_place(
    settings: Callable[..., Settings], seen: dict[str, set[str]]
) -> None:
    with TestClient(create_app(settings())) as client, TestClient(create_app(settings())) as other:
        post(client, readings("s", 40))
        assert client.get("/v1/conditions").status_code == 200
        client.put("/v1/policies", json={"streams": LARGE}).raise_for_status()
        assert client.get("/v1/policies").json()["streams"] == LARGE
        assert other.get("/v1/policies").json()["streams"] == LARGE  # read from Redis, also aside
        assert seen.pop("parsed") == {"aside"}
        assert seen.pop("conditions") == seen.pop("written") == {"aside"}
        assert "aside" in seen.pop("finder")
        client.put("/v1/policies", json={"streams": {"s": {"sensitivity": 2.0}}}).raise_for_status()
        assert "aside" not in seen["parsed"]


def test_the_windows_of_a_tenant_leave_room_for_its_policies(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of a window is long; one that says less than before is taken."""
    monkeypatch.setattr(policies, "MOST_WINDOW_BYTES", 5000)
    hours: dict[str, Any] = {"hours": "06:00-22:00"}
    long: dict[str, dict[str, Any]] = {
        "text": {"text": "x" * 900},
        "name": {"tags": {"x" * 900: "y"}},
        "value": {"tags": {"y": "x" * 900}},
    }
    with TestClient(create_app(settings())) as client:
        for kind, one in long.items():
            statuses = [client.put(f"/v1/windows/{kind}-{at}", json={**hours, **one}).status_code for at in range(6)]
            assert statuses == [200] * 4 + [413] * 2, kind
            assert client.put("/v1/policies", json={"streams": LARGE}).status_code == 200
            monkeypatch.setattr(policies, "MOST_WINDOW_BYTES", 2000)  # as if they were there before there was a bound
            assert client.put(f"/v1/windows/{kind}-0", json={**hours, "text": "x" * 500}).status_code == 200
            assert client.put(f"/v1/windows/{kind}-0", json={**hours, "text": "x" * 501}).status_code == 413
            assert [client.delete(f"/v1/windows/{kind}-{at}").status_code for at in range(4)] == [200] * 4
            monkeypatch.setattr(policies, "MOST_WINDOW_BYTES", 5000)


def test_what_a_tenant_asks_of_its_streams_is_bounded_in_bytes_however_it_is_asked(
    settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_document, "MOST_BYTES", 2000)
    with TestClient(create_app(settings())) as client:
        refused = client.put("/v1/policies", json={"streams": LARGE})
        assert refused.status_code == 413
        assert "2000 are kept of a tenant" in refused.json()["detail"]
        assert client.get("/v1/policies").json()["streams"] == {}
        statuses = [
            client.put(f"/v1/streams/a-{at}/policy", json={"ignore": ["x" * 200]}).status_code for at in range(12)
        ]
        assert statuses == [200] * statuses.count(200) + [413] * statuses.count(413)
        assert 0 < statuses.count(413) < 12
        assert client.put("/v1/windows/w", json={"hours": "06:00-22:00", "text": "x" * 900}).status_code == 413
        monkeypatch.setattr(shared_document, "MOST_BYTES", 500)  # as if it was written before there was a bound
        assert client.put("/v1/streams/a-0/policy", json={}).status_code == 200
        assert client.put("/v1/streams/a-0/policy", json={"ignore": ["x" * 200]}).status_code == 413
