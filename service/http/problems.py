"""Every error that leaves the service, as a problem document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from gatewatch.service.errors import (
    ForeignValue,
    MethodNotAllowed,
    ServiceError,
    StoreUnavailable,
    cause_of,
    first_of,
    problem,
)
from gatewatch.service.http.ingest import PROBLEM_JSON
from gatewatch.service.observability.metrics import Metrics

log = structlog.get_logger(__name__)

MEDIA: Final = PROBLEM_JSON.decode()


def answer_problems(app: FastAPI, routers: Sequence[APIRouter], metrics: Metrics) -> None:
    """Every error leaves as application/problem+json; none shows a traceback or a name from inside."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> JSONResponse:
        if isinstance(error, StoreUnavailable):
            log.warning("request not answered", path=request.url.path[:256], error=str(error), cause=cause_of(error))
        if isinstance(error, ForeignValue):
            metrics.foreign_value()
        return JSONResponse(problem(error), error.status, error.headers, media_type=MEDIA)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == MethodNotAllowed.status:
            return await service_error(request, _not_allowed((*routers, app.router), request))
        return _other(error.status_code, str(error.detail), str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _other(422, "Invalid request", first_of(error.errors()))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error", exc_info=error)
        return JSONResponse(problem(error), 500, media_type=MEDIA)


def _not_allowed(routers: Sequence[APIRouter], request: Request) -> MethodNotAllowed:
    """With every method that the path has; the router names those of one route only."""
    found = [route for one in routers for route in one.routes if isinstance(route, Route)]
    fitting = [route for route in found if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in fitting for method in route.methods or ()}
    return MethodNotAllowed(request.method, sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _other(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type=MEDIA)
