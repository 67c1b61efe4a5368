"""Every error that the OpenAPI document names, on every route: each is a problem document."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from starlette.testclient import TestClient

from gatewatch.service.access.scopes import ROUTES
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.samples import CROWDED, crowded, readings

JSON = {"content-type": "application/json"}
STREAM = "/v1/streams/{stream}"
POSTS = ("post /v1/readings", f"post {STREAM}/readings")
OF_A_STREAM = (f"get {STREAM}", f"put {STREAM}", f"delete {STREAM}", f"get {STREAM}/history", f"get {STREAM}/forecast")
RESET = "post /v1/streams/{stream}/reset"
BOUNDS: dict[str, Any] = {"request_bytes": 1024, "request_readings": 5, "waiting_readings": 3}
AWAY = {"redis_url": "redis://127.0.0.1:1/0"}

BODY_OF: dict[str, Any] = {
    "readings": readings("s", 1), "label": {"label": "true"}, "note": {"text": "seen"}, "promote": {"version": 1},
    "warm-up": readings("s", 1), "snapshots": {"name": "a"},
}  # fmt: skip

Way = tuple[dict[str, Any], dict[str, Any]]
"""Settings of the service, and what to change in a request that would be fine."""

WAYS: dict[tuple[str, int], Way] = {
    **{(route, 400): ({}, {"content": b"{"}) for route in (*POSTS, f"put {STREAM}")},
    **{(route, 413): (BOUNDS, {"content": b" " * 2000}) for route in (*POSTS, f"put {STREAM}")},
    **{(route, 415): ({}, {"headers": {"content-type": "text/xml"}}) for route in (*POSTS, f"put {STREAM}")},
    **{(route, 429): (CROWDED, {}) for route in POSTS},
    **{(route, 404): ({}, {"stream": "unknown"}) for route in OF_A_STREAM if not route.startswith("put")},
    **{(route, 422): ({}, {"stream": "%00"}) for route in OF_A_STREAM},
    **{(route, 422): ({"all_rejected_is_422": True}, {"content": b'{"values": true}'}) for route in POSTS},
    **{(route, 503): (AWAY, {}) for route in (*POSTS, *OF_A_STREAM, "get /v1/streams", "get /readyz")},
    **{
        (route, 405): ({}, {"method": "PATCH"})
        for route in (*POSTS, *OF_A_STREAM, "get /v1/streams", "get /livez", "get /readyz", "get /metrics")
    },
    ("get /v1/streams", 422): ({}, {"params": {"limit": "many"}}),
    **{(RESET, status): way for status, way in ((404, ({}, {"stream": "unknown"})), (405, ({}, {"method": "PATCH"})))},  # type: ignore[var-annotated]
    **{(RESET, status): way for status, way in ((422, ({}, {"params": {"what": "all"}})), (503, (AWAY, {})))},
}
INCIDENT = "/v1/incidents/{incident}"
MODEL = "/v1/models/{model}"
TO_INCIDENTS = tuple(f"post {INCIDENT}/{what}" for what in ("acknowledge", "close", "label", "note"))
TO_MODELS = tuple(f"post {MODEL}/{what}" for what in ("promote", "rollback"))
OF_INCIDENTS = (f"get {INCIDENT}", f"get {INCIDENT}/proof", *TO_INCIDENTS)
OF_MODELS = (f"get {MODEL}", f"get {MODEL}/history", f"get {MODEL}/versions", *TO_MODELS)
LISTS = (
    "get /v1/audit",
    "get /v1/conditions",
    "get /v1/dead-letters",
    "get /v1/incidents",
    "get /v1/models",
    "get /v1/policies",
    "get /v1/rules",
)
POLICY = "/v1/streams/{stream}/policy"
WINDOW = "/v1/windows/{window}"
OF_WINDOWS = ("get /v1/windows", f"put {WINDOW}", f"delete {WINDOW}")
BODIES = (f"put {WINDOW}", *TO_INCIDENTS, *TO_MODELS, "put /v1/rules", "put /v1/policies", f"put {POLICY}")
PUT_SHADOW = f"put {MODEL}/shadow"
OF_MODELS += (f"get {MODEL}/shadow", PUT_SHADOW, f"delete {MODEL}/shadow")
BODIES += (PUT_SHADOW,)
LISTENING = "get /v1/incidents/stream"
MANY = {"params": {"limit": "many"}}
STALE = {"headers": {**JSON, "if-match": '"99"'}}

WAYS |= {
    **{(route, 400): ({}, {"content": b"{"}) for route in BODIES},
    **{(route, 413): (BOUNDS, {"content": b" " * 20_000}) for route in BODIES},
    **{(route, 415): ({}, {"headers": {"content-type": "text/xml"}}) for route in BODIES},
    **{(route, 422): ({}, {"content": b'{"color": 1}'}) for route in BODIES},
    **{(route, 404): ({}, {}) for route in (*OF_INCIDENTS, *OF_MODELS)},
    **{(route, 503): (AWAY, {}) for route in (*OF_INCIDENTS, *LISTS)},
    **{(route, 405): ({}, {"method": "PATCH"}) for route in (*OF_INCIDENTS, *OF_MODELS, *LISTS, LISTENING)},
    **{
        (route, 422): ({}, MANY)
        for route in ("get /v1/audit", "get /v1/conditions", "get /v1/dead-letters", "get /v1/incidents")
    },
    **{(route, 422): ({}, {"incident": "nonsense"}) for route in (f"get {INCIDENT}", f"get {INCIDENT}/proof")},
    **{(route, 422): ({}, {"model": "%00"}) for route in OF_MODELS if route.startswith(("get", "delete"))},
    (LISTENING, 422): ({}, {"headers": {"last-event-id": "now"}}),
    ("put /v1/rules", 404): ({}, {"content": b'{"rules": [{"pattern": "*", "model": "nobody@champion"}]}'}),
    **{(route, 405): ({}, {"method": "PATCH"}) for route in (f"get {POLICY}", f"put {POLICY}", "put /v1/policies")},
    **{(route, 503): (AWAY, {}) for route in (f"get {POLICY}", f"put {POLICY}", "put /v1/policies")},
    (f"get {POLICY}", 422): ({}, {"stream": "%00"}),
    **{(route, 405): ({}, {"method": "PATCH"}) for route in OF_WINDOWS},
    **{(route, 503): (AWAY, {"content": b'{"days": ["mon"]}'}) for route in OF_WINDOWS},
    (f"delete {WINDOW}", 422): ({}, {"window": "%00"}),
    ("put /v1/policies", 412): ({}, {"content": b'{"policies": [{"pattern": "*"}]}', **STALE}),
    ("put /v1/rules", 405): ({}, {"method": "PATCH"}),
    ("put /v1/rules", 412): ({}, {"content": b'{"rules": [{"pattern": "*", "model": "default"}]}', **STALE}),
    ("put /v1/rules", 503): (AWAY, {"content": b'{"rules": []}'}),
}
STATE, SNAPSHOTS, SNAPSHOT = f"{STREAM}/state", f"{STREAM}/snapshots", f"{STREAM}/snapshots/{{snapshot}}"
WARM_UP, FORK, ROLLBACK = f"post {STREAM}/warm-up", f"post {STREAM}/fork", f"post {SNAPSHOT}/rollback"
OF_STATES = (f"get {STATE}", f"put {STATE}", f"get {SNAPSHOTS}", f"post {SNAPSHOTS}", WARM_UP, FORK)
OF_SNAPSHOTS = (f"delete {SNAPSHOT}", ROLLBACK)
WAYS |= {
    **{(route, 405): ({}, {"method": "PATCH"}) for route in (*OF_STATES, *OF_SNAPSHOTS)},
    **{(route, 422): ({}, {"stream": "%00"}) for route in (*OF_STATES, *OF_SNAPSHOTS)},
    **{(route, 503): (AWAY, {}) for route in (*OF_STATES, *OF_SNAPSHOTS)},
    **{(route, 404): ({}, {"stream": "unknown"}) for route in (f"get {STATE}", f"post {SNAPSHOTS}")},
    (FORK, 404): ({}, {"stream": "unknown", "params": {"to": "other"}}),
    **{(route, 404): ({}, {"snapshot": "unknown"}) for route in OF_SNAPSHOTS},
    **{(route, 409): ({}, {}) for route in (FORK, f"post {SNAPSHOTS}")},
    (f"put {STATE}", 409): ({}, {"params": {"as": "new"}}),
    **{(route, 400): ({}, {"content": b"{"}) for route in (f"post {SNAPSHOTS}", WARM_UP)},
    (f"put {STATE}", 400): ({}, {"content": b"no gzip", "headers": {"content-encoding": "gzip"}}),
    **{(route, 413): (BOUNDS, {"content": b" " * 20_000}) for route in (f"post {SNAPSHOTS}", f"put {STATE}", WARM_UP)},
    **{(route, 415): ({}, {"headers": {"content-type": "text/xml"}}) for route in (f"post {SNAPSHOTS}", WARM_UP)},
    (f"put {STATE}", 415): ({}, {"headers": {"content-encoding": "br"}}),
}
REMOVE = f"delete {STREAM}/channels"
GENERAL = {"model": "general"}
WAYS |= {
    (REMOVE, 404): (GENERAL, {"stream": "unknown"}),
    (REMOVE, 405): (GENERAL, {"method": "PATCH"}),
    (REMOVE, 422): (GENERAL, {"params": {}}),
    (REMOVE, 503): (AWAY, {}),
}
WAYS |= {
    (route, 403): ({}, {"headers": {**JSON, "sec-fetch-site": "cross-site"}})
    for route in sorted({one for one, _ in WAYS})
}
ELSEWHERE = {
    (LISTENING, 429),  # test_incidents.py
    *((route, 412) for route in TO_MODELS),  # test_models.py, which has a repository
    (f"post {MODEL}/promote", 409),
    *((route, 503) for route in OF_MODELS),
    (FORK, 400),
    (REMOVE, 409),  # test_any_channels.py
    (WARM_UP, 429),
    (f"put {STATE}", 503),  # test_states.py, test_past.py
    *(  # test_access.py
        (f"{method.lower()} {path}", 429)
        for path, methods in ROUTES.items()
        for method, scope in methods.items()
        if scope not in (None, "metrics") and f"{method.lower()} {path}" not in POSTS
    ),
}
BY_THE_SERVER = {(route, status) for route in POSTS for status in (408, 431)}
"""Answered before there is a request, see test_connection_limits.py."""


def sent(client: TestClient, route: str, **changes: Any) -> Any:
    """A request of a route that is fine but for the changes."""
    method, path = route.split(" ")
    request: dict[str, Any] = {"method": method, "headers": JSON}
    if method == "post":
        request["json"] = BODY_OF.get(path.rpartition("/")[2], {})
    elif method == "put":
        bodies = {"/v1/rules": {"rules": []}, WINDOW: {"days": ["mon"]}, f"{MODEL}/shadow": {"version": 1}}
        request["json"] = bodies.get(path, {})
    if route == RESET:
        request["params"] = {"what": "sequence"}
    if route == REMOVE:
        request["params"] = {"channel": "pressure"}
    if route == FORK:
        request["params"] = {"to": "copy"}
    if route == f"put {STATE}":
        request["content"], request["headers"] = client.get("/v1/streams/s/state").content, {}
    if "content" in request or "content" in changes:
        request.pop("json", None)
    given = {"stream": "s", "incident": "7.s", "model": "pumps", "snapshot": "kept", "window": "work"}
    for name in given:
        path = path.replace(f"{{{name}}}", changes.pop(name, given[name]))
    return client.request(url=path, **{**request, **changes})


def is_problem(reply: Any, status: int) -> bool:
    content = reply.json()
    return bool(
        reply.status_code == status
        and reply.headers["content-type"] == "application/problem+json"
        and set(content) == {"type", "title", "status", "detail"}
        and content["status"] == status
        and content["type"] == "about:blank"
        and content["title"]
        and content["detail"]
        and ("retry-after" in reply.headers) == (status in (429, 503))
        and ("allow" in reply.headers) == (status == 405)
        and not any(word in reply.text for word in ("Traceback", ".py", "pydantic", "fastapi", "starlette"))
    )


def test_every_error_in_the_document_has_a_way_here(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    named = {
        (f"{method} {path}", int(status))
        for path, operations in paths.items()
        for method, operation in operations.items()
        for status in operation["responses"]
        if int(status) >= 400
    }
    assert named == set(WAYS) | BY_THE_SERVER | ELSEWHERE


@pytest.mark.parametrize(("route", "status"), WAYS)
def test_an_error_is_a_problem_document(
    settings: Callable[..., Settings], redis_url: str, route: str, status: int
) -> None:
    changed, changes = WAYS[route, status]
    app = create_app(settings(**changed))
    with TestClient(app) as client, crowded(client, redis_url) if changed is CROWDED else nullcontext():
        if not changed and "{incident}" not in route and "{model}" not in route and route not in (LISTENING, REMOVE):
            assert sent(client, POSTS[0]).status_code == 200
            if route in OF_SNAPSHOTS:
                assert client.post("/v1/streams/s/snapshots", json={"name": "kept"}).status_code == 200
            fine = sent(client, route).status_code
            assert fine in (200, 204), fine
            sent(client, POSTS[0])
        reply = sent(client, route, **changes)
    assert is_problem(reply, status), (reply.status_code, reply.headers, reply.text)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/v1", "/v1/streams/", "/v1/streams/a/b", "/v1/readings/", "/nowhere//", "/livez/"],
)
def test_a_path_that_is_none_is_a_problem_document(client: TestClient, method: str, path: str) -> None:
    reply = client.request(method, path)
    assert is_problem(reply, 404), (reply.status_code, reply.text)


@pytest.mark.parametrize("route", [*TO_MODELS, PUT_SHADOW, f"post {SNAPSHOTS}", f"put {WINDOW}"])
def test_a_body_that_is_not_what_is_taken_is_said_to_be_that(client: TestClient, route: str) -> None:
    """Not that a model cannot be served, nor that settings or policies are wrong: nothing of these was looked at."""
    reply = sent(client, route, content=b'{"color": 1}')
    assert is_problem(reply, 422)
    assert reply.json()["title"] == "Invalid request"
