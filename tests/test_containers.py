"""The files that containers read agree with the service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parent.parent


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_every_series_in_an_alert_rule_exists() -> None:
    exposed = Metrics().exposition().decode()
    rules = load("docker/alerts.yml")["groups"][0]["rules"]
    named = {series for rule in rules for series in re.findall(r"gatewatch_\w+", rule["expr"])}
    assert named
    assert [series for series in sorted(named) if f"# TYPE {series.removesuffix('_total')}" not in exposed] == []


def test_every_rule_has_a_test_and_says_what_to_do() -> None:
    rules = load("docker/alerts.yml")["groups"][0]["rules"]
    tested = {case["alertname"] for test in load("docker/alerts.test.yml")["tests"] for case in test["alert_rule_test"]}
    assert {rule["alert"] for rule in rules} == tested
    assert all(rule["annotations"]["description"] for rule in rules)


def test_the_composed_service_is_confined_and_its_redis_keeps_states() -> None:
    services = load("docker-compose.yml")["services"]
    assert services["gatewatch"]["read_only"]
    assert services["gatewatch"]["cap_drop"] == ["ALL"]
    assert all("healthcheck" in services[name] for name in ("gatewatch", "redis", "prometheus"))
    known = {f"GATEWATCH_{name.upper()}" for name in Settings.model_fields}
    assert set(services["gatewatch"]["environment"]) <= known
    conf = (ROOT / "docker/redis.conf").read_text()
    assert "appendonly yes" in conf
    assert "maxmemory-policy noeviction" in conf
