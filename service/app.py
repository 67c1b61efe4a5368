"""create_app: builds every part once and joins them; start and stop; errors as problem documents."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from importlib.metadata import version
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final

import structlog
from fastapi import FastAPI

from gatewatch.models.artefact.files import FORMAT_VERSION, Artefact, model_folder
from gatewatch.models.artefact.signatures import trust_of
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.errors import GatewatchError
from gatewatch.service.access.access import Access
from gatewatch.service.access.audit import Audit
from gatewatch.service.access.key_ring import KeyRing
from gatewatch.service.access.key_store import FileKeys, RedisKeys
from gatewatch.service.access.oidc import Oidc
from gatewatch.service.access.quotas import NewStreams, Quota, RequestLimits
from gatewatch.service.background import Background
from gatewatch.service.clock import Clock, SystemClock
from gatewatch.service.core.build import Core, build_core
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.expiry import Expiry
from gatewatch.service.core.readings import Policies
from gatewatch.service.core.standings import Standings
from gatewatch.service.core.states import States
from gatewatch.service.core.store_view import PastStore, StoreView, TrialStore
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.doors.door import StreamNames
from gatewatch.service.doors.json_door import JsonDoor
from gatewatch.service.doors.ndjson_door import NdjsonDoor
from gatewatch.service.errors import (
    StoreUnavailable,
)
from gatewatch.service.http import condition_routes, incident_routes, model_routes, policy_routes, routes, state_routes
from gatewatch.service.http.bodies import Bodies
from gatewatch.service.http.callers import Callers
from gatewatch.service.http.drain import DRAIN, Drain
from gatewatch.service.http.guard import Guard
from gatewatch.service.http.ingest import INGEST, Ingest
from gatewatch.service.http.openapi import complete
from gatewatch.service.http.parts import Parts
from gatewatch.service.http.problems import answer_problems
from gatewatch.service.http.readiness import Readiness
from gatewatch.service.http.scrape import Scrape
from gatewatch.service.http.service import Service
from gatewatch.service.incidents.conditions import Conditions
from gatewatch.service.incidents.feed import Feed
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.janitor import DAY_MS, forget_old
from gatewatch.service.incidents.lookout import Lookout
from gatewatch.service.incidents.outlets.addresses import Resolver
from gatewatch.service.incidents.outlets.sender import Sender, secret_of
from gatewatch.service.incidents.outlets.webhook import Webhook
from gatewatch.service.intake.admission import Admission
from gatewatch.service.intake.batcher import Batcher
from gatewatch.service.intake.beside import Beside
from gatewatch.service.intake.past import Past
from gatewatch.service.intake.queue import Queue
from gatewatch.service.intake.trial import Trial
from gatewatch.service.observability.logs import configure_logs
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.rejections import Rejected
from gatewatch.service.observability.tally import Tally
from gatewatch.service.page import page
from gatewatch.service.policies.past import PastPolicies
from gatewatch.service.policies.policies import StreamPolicies
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
from gatewatch.service.storage.documents import policies_of, policy_numbers, rules_of
from gatewatch.service.storage.group_store import GroupStore
from gatewatch.service.storage.outbox import Outbox
from gatewatch.service.storage.shadow_figures import ShadowFigures
from gatewatch.service.storage.silence_store import SilenceStore
from gatewatch.service.storage.snapshot_store import SnapshotStore
from gatewatch.service.storage.store import StateStore
from gatewatch.service.storage.unused_streams import UnusedStreams

if TYPE_CHECKING:
    from gatewatch.service.observability.traces import Traces

ROUTERS: Final = (
    routes.router,
    state_routes.router,
    model_routes.router,
    incident_routes.router,
    policy_routes.router,
    condition_routes.router,
    page.router,
)

OWN_TRACES: Final = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""What FastAPI's own telemetry may do: it does not see the fast path, and would send what no setting of ours names."""

TENANTS: Final = 1024
"""Whose names of streams are kept; of more, those that sent longest ago are made anew."""

log = structlog.get_logger(__name__)


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
    unseen = Metrics()  # of readings of the past, and of those that are only tried; before the ones that are seen
    metrics = Metrics(tally)
    metrics.service(version("gatewatch"), settings.external_url or "")
    metrics.waiting_limit.set(settings.waiting_readings)
    metrics.model_in_use(detector.name, detector.architecture, FORMAT_VERSION)
    clock = SystemClock()
    traces = _traces() if settings.traces else None
    store = store_of(
        settings.redis_url,
        settings.tenant,
        settings.store_timeout_ms,
        settings.record_cache_bytes,
        settings.slot_buckets,
        settings.store_replicas,
        now=lambda: clock.unix_ms() / 1000,
        traces=traces,
    )
    figures = ShadowFigures(store)
    models = Models(settings, rules_of(store), store, figures, metrics, lambda artefact: serve(artefact))
    registry = Registry(served_by(detector, settings), models)

    def serve(artefact: Artefact) -> ServedModel:
        served = served_from(artefact, settings)
        registry.note(served)
        return served

    backoff = ContentionBackoff(random.Random())  # noqa: S311 - it draws waiting times
    takeover = Takeover(store, registry.default.identity, metrics)
    readiness = Readiness(store, takeover, metrics, settings.durability == "strict")
    per_minute = settings.tenant_new_streams_per_minute
    policies = StreamPolicies(partial(policies_of, store), partial(policy_numbers, store))
    store.watches = settings.silent_after > 0
    silences, group_store = SilenceStore(store), GroupStore(store, round(settings.incident_days * DAY_MS))
    groups = Groups(group_store, policies, settings.group_by, round(settings.group_within_s * 1000))
    scrape = Scrape(readiness, store, silences, group_store, policies, clock, metrics, settings)
    pace = None if per_minute is None else NewStreams(store, per_minute)
    bounds: dict[str, Any] = {
        "save_attempts": settings.save_attempts,
        "most_streams": settings.streams,
        "most_channels": settings.tenant_channels,
        "correcting_ms": settings.correcting_ms,
        "stream_channels": settings.stream_channels,
    }
    live: dict[str, Any] = {"groups": groups, "incident_write_s": settings.incident_write_s, **bounds}
    core = build_core(registry, store, metrics, backoff, takeover, clock, policies, pace=pace, **live)
    lookout = Lookout(store, silences, groups, policies, core.books, clock, settings.silent_after, settings.incidents)
    metrics.silence_behind.set_function(lambda: lookout.behind_s)
    outbox = Outbox(store)
    webhook = _webhook(settings, store, outbox, group_store, policies, metrics, clock)
    store.tells = webhook is not None

    def unseen_core(view: StoreView, asked: Policies, pace: NewStreams | None = None) -> Core:
        undisturbed = ContentionBackoff(random.Random())  # noqa: S311
        return build_core(registry, view, unseen, undisturbed, takeover, clock, asked, pace=pace, tells=False, **bounds)

    past = unseen_core(PastStore(store), PastPolicies(policies), pace)
    beside = Beside(settings.waiting_readings)
    admission = Admission(settings.waiting_readings, settings.waiting_ms)
    queue = Queue(settings.batch_readings)
    batcher = Batcher(core.scorer, backoff, queue, admission, metrics, clock, traces)
    shadows = Shadows(store, figures, models.loaded, policies, metrics, settings.shadow_streams, lambda: bool(queue))
    watch(core.scorer, models.assignments, registry, shadows, Drift(metrics))

    bodies = Bodies(settings.request_bytes, settings.waiting_bytes)
    callers = Callers((*settings.allowed_hosts, settings.host))
    lines = NdjsonDoor()
    keys = KeyRing(RedisKeys(store), FileKeys(settings.keys_file) if settings.keys_file else None)
    oidc = Oidc(settings.oidc_issuer, settings.oidc_audience, settings.tenant) if settings.oidc_issuer else None
    access = Access(keys, oidc, settings.open, settings.host, settings.tenant)
    audit = Audit(store)
    rejected = Rejected(metrics, clock)
    quota = Quota(store, "readings", settings.tenant_readings_per_s)
    quota_bytes = Quota(store, "bytes", settings.tenant_bytes_per_s)
    limits = RequestLimits(
        Quota(store, "posts", settings.tenant_posts_per_s),
        Quota(store, "reads", settings.tenant_reads_per_s),
        Quota(store, "changes", settings.tenant_changes_per_s),
    )
    ingest = Ingest(
        (JsonDoor(lines), lines),
        registry,
        lru_cache(TENANTS)(StreamNames),
        access,
        limits,
        quota,
        quota_bytes,
        batcher,
        bodies,
        callers,
        rejected,
        metrics,
        clock,
        settings.all_rejected_is_422,
        traces,
    )
    expiry = None
    if settings.stream_days is not None:

        def tenants() -> set[str]:
            return {*store.keys.tenants, *(key.identity.tenant for key in keys.known.values())}

        forget_forks = partial(models.administration.forget_forks, by="the expiry of streams")
        expiry = Expiry(UnusedStreams(store), tenants, metrics, clock, settings.stream_days, forget_forks)
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
        await readiness.begin()
        with contextlib.suppress(StoreUnavailable):  # else it is known with the first request that needs it
            await keys.refresh()
        gc.collect()
        gc.freeze()  # a batch makes some 10,000 short-lived objects; the collector took half of the time of its lists
        gc.set_threshold(100_000, 50, 50)
        keep_freed_memory()
        log.info("started", model=detector.name, channels=list(detector.channels) or "any")
        background = Background()
        background.start(
            {
                "takeover": takeover.watch(),
                "keys": keys.run(),
                "policies": policies.run(),
                "bookkeeping": core.books.run(),
                "shadows": shadows.run(),
                "incidents": forget_old(store.incidents, clock, settings.incident_days, settings.incidents),
                **({"silence": lookout.run()} if settings.silent_after else {}),
                **({"webhook": webhook.run()} if webhook is not None else {}),
                **({"expiry": expiry.run()} if expiry is not None else {}),
            }
        )
        drain.start()
        yield {INGEST: ingest, DRAIN: drain}
        feed.stop()
        quota.stop()
        quota_bytes.stop()
        limits.stop()
        await batcher.stop()
        await core.corrector.finish()
        await past.corrector.finish()
        await background.stop()
        await models.stop()
        with contextlib.suppress(StoreUnavailable):
            await core.books.settle()
        await store.close()
        if traces is not None:
            await asyncio.to_thread(traces.stop)
        log.info("stopped")

    app = Service(
        Guard(callers, access, limits, audit),
        traces,
        title="Gatewatch",
        version=version("gatewatch"),
        description="An anomaly score for every reading of every sensor stream. 1.0 is the threshold.",
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # FastAPI's pages load their script from another host
        redoc_url=None,
        telemetry=OWN_TRACES,
        redirect_slashes=False,  # /livez/ is another path, and a redirect would name whatever host the request names
    )
    app.state.parts = Parts(
        settings,
        registry,
        models,
        store,
        core.inspection,
        Standings(store, clock),
        core.closing,
        core.current,
        States(
            registry,
            store,
            core.loader,
            takeover,
            clock,
            settings.save_attempts,
            settings.stream_channels,
            core.scorer.forget_channels,
        ),
        SnapshotStore(store, settings.snapshots),
        lines.encoder,
        ingest,
        Trial(lambda: unseen_core(TrialStore(store), policies).scorer, beside),
        Past(past.scorer, beside, rejected, metrics),
        feed,
        scrape,
        bodies,
        readiness,
        drain,
        access,
        quota_bytes,
        audit,
        clock,
        policies,
        group_store,
        Conditions(store, silences, policies, clock),
        outbox,
    )
    for router in ROUTERS:
        app.include_router(router)
    answer_problems(app, ROUTERS, metrics)
    generate = app.openapi
    described = lru_cache(1)(lambda is_open: complete(generate(), is_open))  # it takes 40 ms, and anybody may ask
    app.openapi = lambda: described(access.seems_open)  # type: ignore[method-assign]
    return app


def _webhook(
    settings: Settings,
    store: StateStore,
    outbox: Outbox,
    groups: GroupStore,
    policies: StreamPolicies,
    metrics: Metrics,
    clock: Clock,
) -> Webhook | None:
    """None where the settings name none. Raises GatewatchError where its secret cannot be read."""
    if settings.webhook_url is None or settings.webhook_secret_file is None:
        return None
    resolver = Resolver([ip_network(name) for name in settings.webhook_networks])
    secret, timeout_s = secret_of(settings.webhook_secret_file), settings.webhook_timeout_s
    return Webhook(
        outbox,
        store.incidents,
        groups,
        policies,
        Sender(settings.webhook_url, secret, resolver, timeout_s),
        metrics,
        clock,
        timeout_s=timeout_s,
        retry_s=settings.webhook_retry_s,
        most_dead=settings.webhook_dead_letters,
        external_url=settings.external_url,
    )


def _traces() -> Traces:
    """Raises GatewatchError without the extra `traces`."""
    try:
        from gatewatch.service.observability.traces import Traces
    except ImportError as error:
        raise GatewatchError("GATEWATCH_TRACES needs the extra: pip install 'gatewatch[traces]'") from error
    return Traces(version("gatewatch"))
