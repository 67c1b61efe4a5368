"""The scope that is asked for is that of the route which answers, whatever the names in its path are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.routing import Match, Route

from gatewatch.service.access.scopes import ROUTES, SCOPES, needed, route_of
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings

WORDS = sorted({word for route in ROUTES for word in re.findall(r"[a-z-]+(?![^{]*})", route)} | {"keys", "{stream}"})
"""Every word that routes are made of, as a name."""

SLASHED = ["x/policy", "x/state", "a/readings", "a/snapshots/readings", "a/snapshots/b/fork", "/", "a//b", "..", "a\n"]
"""Names with slashes, as they are once an escape is read."""

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


@pytest.fixture
def app(settings: Callable[..., Settings]) -> FastAPI:
    return create_app(settings())


def answering(routes: list[Route], method: str, path: str) -> str | None:
    """The route that the router hands a request to, as in ROUTES; None for none that takes its method."""
    scope = {"type": "http", "method": "GET" if method == "HEAD" else method, "path": path, "root_path": ""}
    return next((route.path for route in routes if route.matches(scope)[0] is Match.FULL), None)


def test_the_scope_is_that_of_the_route_that_answers_whatever_the_names_in_it_are(app: FastAPI) -> None:
    included = [one.original_router for one in app.router.routes if hasattr(one, "original_router")]
    routes = [route for router in (*included, app.router) for route in router.routes if isinstance(route, Route)]
    looked_at, granted = 0, 0
    for route in ROUTES:
        names = [[*WORDS, *SLASHED]] * route.count("{")
        for chosen in itertools.product(*names):
            words = iter(chosen)
            path = re.sub(r"\{\w+\}", lambda _, words=words: next(words), route)  # type: ignore[misc]
            for method in METHODS:
                answers, asked = answering(routes, method, path), needed(method, path)
                looked_at += 1
                if answers is None:
                    assert asked == "admin", (method, path)
                    continue
                granted += 1
                expected = ROUTES[answers.replace(":anything", "")]["GET" if method == "HEAD" else method]
                past = {"admin"} if path.endswith("\n") else set()  # the router looks past a line end at the end
                assert asked in {expected, *past}, (method, path, answers)
    print(f"{looked_at} requests looked at, {granted} of them answered")
    assert granted > 1000


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("DELETE", "/v1/streams/a/snapshots/readings", "operate"),
        ("POST", "/v1/streams/a/snapshots/readings/rollback", "operate"),
        ("POST", "/v1/streams/a/snapshots/readings", "ingest"),  # readings of stream a/snapshots, whose name is none
        ("POST", "/v1/streams/x/policy/readings", "ingest"),
        ("PUT", "/v1/streams/policy/policy", "operate"),
        ("GET", "/v1/streams/keys", "read"),
        ("DELETE", "/v1/streams/readings", "operate"),
        ("PUT", "/v1/streams/readings/state", "operate"),
        ("GET", "/v1/incidents/stream", "read"),
        ("DELETE", "/v1/windows/readings", "operate"),
        ("PUT", "/v1/streams/x/policy/policy", "admin"),
        ("DELETE", "/v1/streams/a/readings", "admin"),
    ],
)
def test_a_name_like_a_word_of_a_route_asks_for_what_its_own_route_does(method: str, path: str, scope: str) -> None:
    assert needed(method, path) == scope
    assert scope in SCOPES


def test_the_route_of_a_request_is_that_of_its_method() -> None:
    assert route_of("DELETE", "/v1/streams/a/snapshots/readings") == "/v1/streams/{stream}/snapshots/{snapshot}"
    assert route_of("POST", "/v1/streams/a/snapshots/readings") == "/v1/streams/{stream}/readings"
    assert route_of("GET", "/nowhere") == "/nowhere"
