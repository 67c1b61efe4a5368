"""Many stream names: neither /metrics nor the service's memory grows with them."""

from __future__ import annotations

import os
import random
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import FORMAT_VERSION
from gatewatch.service.incidents.incident import INCIDENT_REASONS
from gatewatch.service.observability.metrics import BATCHES, DELIVERIES, REJECTIONS, SCORES, SECONDS, STAGES
from gatewatch.service.settings import Settings
from tests.faults.slowloris import rss_mb
from tests.support.samples import post, readings
from tests.support.whole_path import serving

STREAMS = int(os.environ.get("STREAMS", "5000"))
SEED = int(os.environ.get("STREAMS_SEED", "0"))
AT_ONCE = 1000
CACHE_MB = Settings.model_fields["record_cache_bytes"].default / 2**20


def bounds(buckets: tuple[float, ...]) -> set[str]:
    return {str(float(bound)) for bound in buckets} | {"+Inf"}


LABELS: Final[dict[str, dict[str, set[str]]]] = {
    "gatewatch_readings_total": {"status": {"warming_up", "normal", "anomalous", "late", "conflict", "rejected"}},
    "gatewatch_rejected_total": {"reason": set(REJECTIONS)},
    "gatewatch_replays_total": {},
    "gatewatch_past_readings_total": {},
    "gatewatch_streams_expired_total": {},
    "gatewatch_score": {"le": bounds(SCORES)},
    "gatewatch_alerts_total": {"reason": set(INCIDENT_REASONS)},
    "gatewatch_gated_total": {"gate": {"direction", "deviation", "hours", "limit", "window", "label"}},
    "gatewatch_unlearned_total": {},
    "gatewatch_budget_streams_at_bound": {},
    "gatewatch_windows_active": {},
    "gatewatch_stage_seconds": {"stage": set(STAGES), "le": bounds(SECONDS)},
    "gatewatch_batch_readings": {"le": bounds(BATCHES)},
    "gatewatch_store_errors_total": {"operation": {"score", "check"}},
    "gatewatch_webhook_deliveries_total": {"outcome": set(DELIVERIES)},
    "gatewatch_webhook_waiting": {},
    "gatewatch_silence_behind_seconds": {},
    "gatewatch_states_rebuilt_total": {
        "cause": {"missing", "corrupt", "format", "model", "channels", "history", "stale", "version"}
    },
    "gatewatch_foreign_values_total": {},
    "gatewatch_store_losses_total": {},
    "gatewatch_sequences_restarted_total": {},
    "gatewatch_clock_steps_total": {},
    "gatewatch_takeover": {},
    "gatewatch_corrections_total": {},
    "gatewatch_rescored_total": {},
    "gatewatch_model_info": {"architecture": {"lstm"}, "format": {str(FORMAT_VERSION)}},
    "gatewatch_models_loaded": {},
    "gatewatch_models_bytes": {},
    "gatewatch_models_refused_total": {},
    "gatewatch_repository_up": {},
    "gatewatch_channels_named_alike_total": {},
    "gatewatch_unknown_channels_total": {},
    "gatewatch_rules_number": {},
    "gatewatch_model_drift": {"of": {"residuals", "inputs"}},
    "gatewatch_store_up": {},
    "gatewatch_store_memory_bytes": {},
    "gatewatch_store_memory_limit_bytes": {},
    "gatewatch_streams": {},
    "gatewatch_open_anomalies": {},
    "gatewatch_open_anomalies_grouped": {},
    "gatewatch_open_anomalies_left_out": {},
    "gatewatch_silent_streams": {},
    "gatewatch_channel_series_left_out": {},
    "gatewatch_waiting_readings": {},
    "gatewatch_waiting_readings_limit": {},
    "gatewatch_info": {"version": {version("gatewatch")}, "external_url": {""}},
}
"""Every series and every value its labels may have; `model` has one value, the digest of the model in use."""


NAMED: Final = ("gatewatch_open_anomaly_", "gatewatch_open_group_")
"""These carry the names of streams: GATEWATCH_OPEN_SERIES of them at most."""


def series(text: str) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every series of /metrics, each held against the list."""
    found = set()
    for family in text_string_to_metric_families(text):
        if family.name.startswith(NAMED):
            continue  # capped, see test_scrape.py
        for name, labels, *_ in family.samples:
            found.add((name, tuple(sorted(labels.items()))))
            listed = next((LABELS[n] for n in (name, family.name) if n in LABELS), None)
            assert listed is not None, f"{name} is not in the list"
            for label, value in labels.items():
                if label == "model":
                    assert len(value) == 16 or value == "default", value
                else:
                    assert value in listed[label], f"{name}: {label}={value}"
    return found


def test_the_series_and_their_labels_are_those_listed(client: TestClient) -> None:
    """After readings of every kind, and an incident."""
    sent = readings("l", 40)
    post(client, [*sent[:20], {**sent[20], "values": {"pressure": 900, "flow": 3}}, *sent[21:]])
    post(client, [sent[5], {**sent[5], "values": {"flow": 9}}, {"stream": "\n", "values": 1}, {"stream": "k"}])
    found = {name for name, _ in series(client.get("/metrics").text)}
    for name in LABELS:
        assert {name, f"{name}_bucket"} & found or name in ("gatewatch_states_rebuilt_total",), name


def many(rng: random.Random) -> list[dict[str, object]]:
    """Readings of new streams; one in fifty with a name that is none, or a channel there is not."""
    sent: list[dict[str, object]] = []
    for _ in range(AT_ONCE):
        name = f"{rng.getrandbits(64):x}-{rng.getrandbits(64):x}"
        kind = rng.randrange(100)
        stream = f"bad/{name}" if kind == 0 else name
        sent.append({"stream": stream, "values": {name if kind == 1 else "flow": rng.random()}})
    return sent


def taken(client: httpx2.Client, sent: list[dict[str, object]], away: list[str]) -> list[dict[str, object]]:
    """Results of readings, sent again after Retry-After as long as Redis is away; `away` gets the reasons."""
    for _ in range(5):
        reply = client.post("/v1/readings", json=sent)
        if reply.status_code != 503:
            break
        away.append(reply.json()["detail"])
        time.sleep(float(reply.headers["retry-after"]))
    assert reply.status_code == 200, reply.text
    results: list[dict[str, object]] = reply.json()
    return results


def test_metrics_and_memory_stay_flat_whatever_the_number_of_streams(artefact: Path, tmp_path: Path) -> None:
    """The long form: STREAMS=1000000 python -m pytest -s tests/faults/test_many_streams.py

    Names and keys of 65,536 streams are remembered, so memory grows until then; from half of the streams on it is flat.
    """
    rng, rss, away = random.Random(SEED), {}, list[str]()
    with serving(artefact, tmp_path) as (url, service), httpx2.Client(base_url=url, timeout=30) as client:
        taken(client, many(rng), away)
        first = client.get("/metrics").text
        for done in range(AT_ONCE, STREAMS, AT_ONCE):
            assert len(taken(client, many(rng), away)) == AT_ONCE
            if done * 10 % STREAMS < 10 * AT_ONCE:
                rss[done] = rss_mb(service.pid)
        last = client.get("/metrics").text
        rss[STREAMS] = rss_mb(service.pid)
        streams = client.get("/v1/streams", params={"limit": 1}).json()["total"]
    print(
        f"STREAMS_SEED={SEED}: {streams} streams; /metrics {len(first)} bytes after {AT_ONCE}, {len(last)} at the end"
    )
    print("resident MB: " + ", ".join(f"{mb:.0f} after {done}" for done, mb in sorted(rss.items())))
    print(f"503: {len(away)} {sorted(set(away))}")
    assert streams > 0.9 * STREAMS
    assert series(first) == series(last)
    assert len(last) < len(first) + 1000  # numbers have grown, nothing else
    assert max(rss.values()) - min(rss[done] for done in rss if done >= STREAMS // 2) < 24
    assert max(rss.values()) - min(rss.values()) < 64 + CACHE_MB
    assert len(away) <= STREAMS // 100_000  # the million makes Redis rewrite its file, on a machine that is shared
