"""What `gatewatch doctor` looks at, one check each.

Settings, model, repository of models, Redis, durability, clock, service, Prometheus.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import httpx2

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.check import Check, Checks
from gatewatch.service.cli_support.redis_checks import redis_checks
from gatewatch.service.client.remote import ask, connected
from gatewatch.service.settings import COMMANDS_KEY, Settings, strays

ANSWER_S = 2.0
"""Longest wait for another server."""


def all_checks(settings: Settings, environment: Mapping[str, str], url: str, prometheus: str | None) -> Checks:
    """Every check, one after the other; each says its own trouble."""
    yield from _settings(settings, environment)
    yield from _model(settings)
    yield from _repository(settings)
    yield from redis_checks(settings)
    yield from _service(url)
    yield from _prometheus(prometheus)


def _settings(settings: Settings, environment: Mapping[str, str]) -> Checks:
    lines = strays(environment)
    for line in lines:
        yield Check("settings", "wrong" if "is not a setting" in line else "note", line)
    given = sorted(name for name in settings.redacted() if name in environment)
    if not lines:
        yield Check("settings", "ok", f"valid; set: {', '.join(given) if given else 'none, all have their defaults'}")
    limit = _open_files()
    if limit is not None and limit < settings.connections + 64:
        yield Check(
            "settings", "note",
            f"at most {limit} open files, but GATEWATCH_CONNECTIONS is {settings.connections}: raise `ulimit -n`, or "
            "lower it",
        )  # fmt: skip


def _open_files() -> int | None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None


def _model(settings: Settings) -> Checks:
    try:
        detector = load_detector(
            model_folder(settings.model), settings.channels, settings.alerts_per_week, unnamed=True
        )
        detector.require_live()
    except GatewatchError as error:
        yield Check("model", "wrong", f"GATEWATCH_MODEL={settings.model}: {error}")
        return
    shown = ", ".join(detector.channels[:8]) + (", ..." if len(detector.channels) > 8 else "")
    channels = f"{len(detector.channels)} channels: {shown}" if shown else "any channels"
    yield Check(
        "model",
        "ok",
        f"{settings.model}, version {detector.digest.hex()[:16]}, {channels}",
    )


def _repository(settings: Settings) -> Checks:
    if settings.models is None:
        return
    from gatewatch.models.detectors.canary import verify

    try:
        models = Repository(settings.models, verify, for_service=True).log.revisions()
    except GatewatchError as error:
        yield Check("models", "wrong", f"GATEWATCH_MODELS: {error}; streams go on with the models in memory")
        return
    yield Check("models", "ok", f"{settings.models} has {len(models)} model{'s' * (len(models) != 1)}")


def _service(url: str) -> Checks:
    try:
        with connected(url) as client:
            client.timeout = ANSWER_S
            status, found = ask(client, "GET", "/readyz")
    except (GatewatchError, httpx2.HTTPError) as error:
        yield Check("service", "note", f"{error}; is `gatewatch serve` running there? --url names another place")
        return
    if status != 200:
        yield Check("service", "wrong", f"{url} is not ready ({status}): {str(found)[:200]}")
        return
    yield from _let_in(url)
    warnings = found.get("warnings", []) if isinstance(found, dict) else []
    for warning in warnings:
        yield Check("service", "note", f"{url} scores readings, but {warning}")
    if not warnings:
        yield Check("service", "ok", f"{url} is ready: a reading sent now is scored")


def _let_in(url: str) -> Checks:
    """Whether commands may ask the service, with the key that they have."""
    with contextlib.suppress(GatewatchError, httpx2.HTTPError), connected(url) as client:
        client.timeout = ANSWER_S
        status, _ = ask(client, "GET", "/v1/streams", {"limit": "1"})
        if status == 401:
            yield Check("key", "wrong", f"{url} takes no request without a good key: give one in {COMMANDS_KEY}")
        elif status == 403:
            yield Check("key", "note", f"the key in {COMMANDS_KEY} may not read, as watch and train do")


def _prometheus(url: str | None) -> Checks:
    if url is None:
        yield Check("Prometheus", "note", "not looked at: name it with --prometheus URL")
        return
    try:
        with connected(url, show_key=False) as client:
            client.timeout = ANSWER_S
            _, targets = ask(client, "GET", "/api/v1/targets")
            _, rules = ask(client, "GET", "/api/v1/rules")
            _, series = ask(
                client, "GET", "/api/v1/query", {"query": "count by (job, instance) (gatewatch_readings_total)"}
            )
        active = targets["data"]["activeTargets"]
        jobs = {one["metric"].get("instance") for one in series["data"]["result"]}
        named = [rule["name"] for group in rules["data"]["groups"] for rule in group["rules"]]
    except (GatewatchError, httpx2.HTTPError, KeyError, TypeError, AttributeError) as error:
        yield Check("Prometheus", "wrong", f"{url} does not answer as Prometheus does: {str(error)[:200]}")
        return
    ours = [one for one in active if "gatewatch" in str(one.get("labels", {}).get("job", "")).lower()]
    down = [one for one in ours if one.get("health") == "down"]
    for one in down:
        yield Check("Prometheus", "wrong", f"cannot scrape {one.get('scrapeUrl')}: {one.get('lastError')}")
    if not ours and not jobs:
        yield Check("Prometheus", "wrong", f"{url} scrapes no Gatewatch: add its /metrics, see docker/prometheus.yml")
    elif not down:
        yield Check("Prometheus", "ok", f"{url} scrapes {len(jobs) or len(ours)} instance(s)")
    if not any(name.startswith("Gatewatch") for name in named):
        yield Check("Prometheus", "note", "none of the alert rules Gatewatch... is loaded: see docs/operations.md")
