"""create_app: builds every part once and joins them; start and stop; errors as problem documents."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from gatewatch.models.artefact.files import FORMAT_VERSION, model_folder
from gatewatch.models.detectors.detector import Detector
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.service.clock import SystemClock
from gatewatch.service.core.build import build_core
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.doors.door import StreamNames
from gatewatch.service.doors.json_door import JsonDoor
from gatewatch.service.doors.named_readings import NamedReadingDecoder
from gatewatch.service.doors.ndjson_door import NdjsonDoor
from gatewatch.service.doors.reading_decoder import ReadingDecoder
from gatewatch.service.errors import (
    ForeignValue,
    MethodNotAllowed,
    ServiceError,
    StoreUnavailable,
    cause_of,
    first_of,
    problem,
)
from gatewatch.service.http.bodies import Bodies, Receive
from gatewatch.service.http.callers import Callers
from gatewatch.service.http.drain import DRAIN, Drain
from gatewatch.service.http.ingest import INGEST, PROBLEM_JSON, Ingest, Scope, Send, problem_reply, send_reply
from gatewatch.service.http.openapi import complete
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.http.routes import Parts, router
from gatewatch.service.intake.admission import Admission
from gatewatch.service.intake.batcher import Batcher
from gatewatch.service.intake.queue import Queue
from gatewatch.service.observability.logs import configure_logs
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.rejections import Rejected
from gatewatch.service.observability.tally import Tally
from gatewatch.service.runtime import keep_freed_memory
from gatewatch.service.serving.any_channels import AnyChannels
from gatewatch.service.serving.registry import Registry
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.settings import Settings
from gatewatch.service.storage.cluster_store import store_of

log = structlog.get_logger(__name__)


class Service(FastAPI):
    """The FastAPI app, which asks who calls before anything else."""

    def __init__(self, callers: Callers, **settings: Any) -> None:
        super().__init__(**settings)
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request, HEAD as GET; the server sends no body for it."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        try:
            self._callers.check(scope["method"], scope["headers"])
        except ServiceError as error:
            await send_reply(send, problem_reply(error))
            return
        await super().__call__({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)


def create_app(settings: Settings | None = None, tally: Tally | None = None) -> FastAPI:
    """Build the service. Without `settings` they are read from the environment, and Redis must be given there.

    Args:
        tally: of all worker processes, to count in; without it this process is alone.

    Raises:
        ArtefactError: the model cannot be used, or not for live streams.
        ValueError: no Redis URL, or not one.
    """
    settings = settings or Settings()
    if settings.redis_url is None:
        raise ValueError(
            "GATEWATCH_REDIS_URL is not set; `gatewatch serve` starts a private server, an app alone does not"
        )
    configure_logs(settings.log_level)
    detector = load_detector(model_folder(settings.model), settings.channels, settings.alerts_per_week, unnamed=True)
    detector.require_live()
    metrics = Metrics(tally)
    metrics.model_in_use(detector.name, detector.architecture, FORMAT_VERSION)
    clock = SystemClock()
    store = store_of(
        settings.redis_url,
        settings.tenant,
        settings.store_timeout_ms,
        settings.record_cache_bytes,
        settings.slot_buckets,
        settings.store_replicas,
        now=lambda: clock.unix_ms() / 1000,
    )
    registry = Registry(_served(detector, settings))
    backoff = ContentionBackoff(random.Random())  # noqa: S311 - it draws waiting times
    takeover = Takeover(store, registry.default.identity, metrics)
    readiness = Readiness(store, takeover, metrics, settings.durability == "strict")
    core = build_core(
        registry,
        store,
        metrics,
        backoff,
        takeover,
        clock,
        save_attempts=settings.save_attempts,
        most_streams=settings.streams,
        correcting_ms=settings.correcting_ms,
        stream_channels=settings.stream_channels,
    )
    admission = Admission(settings.waiting_readings, settings.waiting_ms)
    batcher = Batcher(core.scorer, backoff, Queue(settings.batch_readings), admission, metrics, clock)

    bodies = Bodies(settings.request_bytes, settings.waiting_bytes)
    callers = Callers((*settings.allowed_hosts, settings.host))
    lines = NdjsonDoor()
    doors, names = (JsonDoor(lines), lines), StreamNames(settings.tenant)
    ingest = Ingest(
        doors,
        registry,
        names,
        batcher,
        bodies,
        callers,
        Rejected(metrics, clock),
        metrics,
        clock,
        settings.all_rejected_is_422,
    )
    drain = Drain(settings.drain_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        needed = detector.rebuild_readings
        if needed > settings.history_readings:
            log.warning(
                f"a lost state does not come back whole: set GATEWATCH_HISTORY_READINGS to {needed} or more",
                history_readings=settings.history_readings,
                rebuild_readings=needed,
            )
        batcher.start()
        await readiness.begin()
        bookkeeping = asyncio.create_task(core.books.run(), name="bookkeeping")
        gc.collect()
        gc.freeze()  # a batch makes some 10,000 short-lived objects; the collector took half of the time of its lists
        gc.set_threshold(100_000, 50, 50)
        keep_freed_memory()
        log.info("started", model=detector.name, channels=list(detector.channels) or "any")
        watching = asyncio.create_task(takeover.watch(), name="takeover")
        drain.start()
        yield {INGEST: ingest, DRAIN: drain}
        watching.cancel()
        await batcher.stop()
        await core.corrector.finish()
        bookkeeping.cancel()
        with contextlib.suppress(StoreUnavailable):
            await core.books.settle()
        await store.close()
        log.info("stopped")

    app = Service(
        callers,
        title="Gatewatch",
        version=version("gatewatch"),
        description="An anomaly score for every reading of every sensor stream. 1.0 is the threshold.",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # FastAPI's pages load their script from another host
        redoc_url=None,
        redirect_slashes=False,  # /livez/ is another path, and a redirect would name whatever host the request names
    )
    app.state.parts = Parts(
        settings, registry, store, core.inspection, lines.encoder, ingest, metrics, bodies, readiness, drain
    )
    app.include_router(router)
    _answer_problems(app, metrics)
    generate = app.openapi
    app.openapi = lambda: complete(generate())  # type: ignore[method-assign]
    return app


def _served(detector: Detector, settings: Settings) -> ServedModel:
    """A model as it is served: for its channels, or the general one for any."""
    future_ms, most = int(settings.future_s * 1000), settings.request_readings
    if isinstance(detector, GeneralDetector) and not detector.channels:
        named = NamedReadingDecoder(settings.stream_channels, future_ms, most)
        return AnyChannels(detector, named, settings.history_readings)
    return ServedModel(detector, ReadingDecoder(detector.channels, future_ms, most), settings.history_readings)


def _answer_problems(app: FastAPI, metrics: Metrics) -> None:
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
            return await service_error(request, _not_allowed(app, request))
        return _other(error.status_code, str(error.detail), str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _other(422, "Invalid request", first_of(error.errors()))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error", exc_info=error)
        return JSONResponse(problem(error), 500, media_type=MEDIA)


MEDIA = PROBLEM_JSON.decode()


def _not_allowed(app: FastAPI, request: Request) -> MethodNotAllowed:
    """With every method that the path has; the router names those of one route only."""
    found = [route for route in (*router.routes, *app.router.routes) if isinstance(route, Route)]
    fitting = [route for route in found if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in fitting for method in route.methods or ()}
    return MethodNotAllowed(request.method, sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _other(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type=MEDIA)
