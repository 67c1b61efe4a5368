"""create_app: builds every part once and joins them; start and stop; errors as problem documents."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from gatewatch.models.artefact.files import FORMAT_VERSION, Artefact, model_folder
from gatewatch.models.artefact.signatures import trust_of
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.service.access.access import Access
from gatewatch.service.access.audit import Audit
from gatewatch.service.access.key_ring import KeyRing
from gatewatch.service.access.key_store import FileKeys, RedisKeys
from gatewatch.service.access.oidc import Oidc
from gatewatch.service.access.quotas import NewStreams, Quotas
from gatewatch.service.clock import SystemClock
from gatewatch.service.core.build import build_core
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.doors.door import StreamNames
from gatewatch.service.doors.json_door import JsonDoor
from gatewatch.service.doors.ndjson_door import NdjsonDoor
from gatewatch.service.errors import (
    ForeignValue,
    MethodNotAllowed,
    ServiceError,
    StoreUnavailable,
    cause_of,
    first_of,
    problem,
)
from gatewatch.service.http import incident_routes
from gatewatch.service.http.bodies import Bodies, Receive
from gatewatch.service.http.callers import Callers
from gatewatch.service.http.drain import DRAIN, Drain
from gatewatch.service.http.guard import Guard
from gatewatch.service.http.ingest import INGEST, PROBLEM_JSON, Ingest, Scope, Send, problem_reply, send_reply
from gatewatch.service.http.model_routes import router as model_router
from gatewatch.service.http.openapi import complete
from gatewatch.service.http.parts import Parts
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.http.routes import router
from gatewatch.service.http.scrape import Scrape
from gatewatch.service.incidents.feed import Feed
from gatewatch.service.incidents.janitor import forget_old
from gatewatch.service.intake.admission import Admission
from gatewatch.service.intake.batcher import Batcher
from gatewatch.service.intake.queue import Queue
from gatewatch.service.observability.logs import configure_logs
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.rejections import Rejected
from gatewatch.service.observability.tally import Tally
from gatewatch.service.page import page
from gatewatch.service.runtime import keep_freed_memory
from gatewatch.service.serving.drift import Drift
from gatewatch.service.serving.making import served_by, served_from
from gatewatch.service.serving.models import Models
from gatewatch.service.serving.registry import Registry
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.serving.shadow import Shadows
from gatewatch.service.serving.watching import watch
from gatewatch.service.settings import Settings
from gatewatch.service.storage.cluster_store import store_of
from gatewatch.service.storage.rules import RulesStore
from gatewatch.service.storage.shadow_figures import ShadowFigures

TENANTS: Final = 1024
"""Whose names of streams are kept; of more, those that sent longest ago are made anew."""

log = structlog.get_logger(__name__)


class Service(FastAPI):
    """The FastAPI app, which asks who calls before anything else."""

    def __init__(self, guard: Guard, **settings: Any) -> None:
        super().__init__(**settings)
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request, HEAD as GET; the server sends no body for it."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        send = self._guard.with_headers(scope, send)
        try:
            send = await self._guard.admit(scope, send)
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
    trust = trust_of(settings.trusted_keys, settings.model)
    detector = load_detector(
        model_folder(settings.model), settings.channels, settings.alerts_per_week, trust, unnamed=True
    )
    detector.require_live()
    metrics = Metrics(tally)
    metrics.service(version("gatewatch"), settings.external_url or "")
    metrics.waiting_limit.set(settings.waiting_readings)
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
    figures = ShadowFigures(store)
    models = Models(settings, RulesStore(store), store, figures, metrics, lambda artefact: serve(artefact))
    registry = Registry(served_by(detector, settings), models)

    def serve(artefact: Artefact) -> ServedModel:
        served = served_from(artefact, settings)
        registry.note(served)
        return served

    backoff = ContentionBackoff(random.Random())  # noqa: S311 - it draws waiting times
    takeover = Takeover(store, registry.default.identity, metrics)
    readiness = Readiness(store, takeover, metrics, settings.durability == "strict")
    per_minute = settings.tenant_new_streams_per_minute
    scrape = Scrape(readiness, store, metrics, settings)
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
        pace=None if per_minute is None else NewStreams(store, per_minute),
        stream_channels=settings.stream_channels,
    )
    admission = Admission(settings.waiting_readings, settings.waiting_ms)
    queue = Queue(settings.batch_readings)
    batcher = Batcher(core.scorer, backoff, queue, admission, metrics, clock)
    shadows = Shadows(store, figures, models.loaded, metrics, settings.shadow_streams, lambda: bool(queue))
    watch(core.scorer, models.assignments, registry, shadows, Drift(metrics))

    bodies = Bodies(settings.request_bytes, settings.waiting_bytes)
    callers = Callers((*settings.allowed_hosts, settings.host))
    lines = NdjsonDoor()
    keys = KeyRing(RedisKeys(store), FileKeys(settings.keys_file) if settings.keys_file else None)
    oidc = Oidc(settings.oidc_issuer, settings.oidc_audience, settings.tenant) if settings.oidc_issuer else None
    access = Access(keys, oidc, settings.open, settings.host, settings.tenant)
    audit, quotas = Audit(store), Quotas(store, settings.tenant_readings_per_s)
    ingest = Ingest(
        (JsonDoor(lines), lines),
        registry,
        lru_cache(TENANTS)(StreamNames),
        access,
        quotas,
        batcher,
        bodies,
        callers,
        Rejected(metrics, clock),
        metrics,
        clock,
        settings.all_rejected_is_422,
    )
    feed = Feed(store.incidents, clock)
    drain = Drain(settings.drain_s, feed.stop)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        needed = detector.rebuild_readings
        if needed > settings.history_readings:
            log.warning(
                f"a lost state does not come back whole: set GATEWATCH_HISTORY_READINGS to {needed} or more",
                history_readings=settings.history_readings,
                rebuild_readings=needed,
            )
        await models.start()
        batcher.start()
        shadowing = asyncio.create_task(shadows.run(), name="shadows")
        await readiness.begin()
        with contextlib.suppress(StoreUnavailable):  # else it is known with the first request that needs it
            await keys.refresh()
        watching_keys = asyncio.create_task(keys.run(), name="keys")
        bookkeeping = asyncio.create_task(core.books.run(), name="bookkeeping")
        gc.collect()
        gc.freeze()  # a batch makes some 10,000 short-lived objects; the collector took half of the time of its lists
        gc.set_threshold(100_000, 50, 50)
        keep_freed_memory()
        log.info("started", model=detector.name, channels=list(detector.channels) or "any")
        watching = asyncio.create_task(takeover.watch(), name="takeover")
        janitor = asyncio.create_task(
            forget_old(store.incidents, clock, settings.incident_days, settings.incidents), name="incidents"
        )
        drain.start()
        yield {INGEST: ingest, DRAIN: drain}
        watching.cancel()
        shadowing.cancel()
        await models.stop()
        watching_keys.cancel()
        janitor.cancel()
        feed.stop()
        quotas.stop()
        await batcher.stop()
        await core.corrector.finish()
        bookkeeping.cancel()
        with contextlib.suppress(StoreUnavailable):
            await core.books.settle()
        await store.close()
        log.info("stopped")

    app = Service(
        Guard(callers, access, audit),
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
        settings,
        registry,
        models,
        store,
        core.inspection,
        lines.encoder,
        ingest,
        feed,
        scrape,
        bodies,
        readiness,
        drain,
        audit,
        clock,
    )
    app.include_router(router)
    app.include_router(model_router)
    app.include_router(incident_routes.router)
    app.include_router(page.router)
    _answer_problems(app, metrics)
    generate = app.openapi
    app.openapi = lambda: complete(generate(), access.seems_open)  # type: ignore[method-assign]
    return app


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
    included = (router, model_router, incident_routes.router, page.router, app.router)
    found = [route for one in included for route in one.routes if isinstance(route, Route)]
    fitting = [route for route in found if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in fitting for method in route.methods or ()}
    return MethodNotAllowed(request.method, sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _other(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, media_type=MEDIA)
