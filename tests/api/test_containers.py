"""The files that containers read agree with the service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.settings import Settings
from tests.support.whole_path import serving

ROOT = Path(__file__).parent.parent.parent


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in load("docker/alerts.yml")["groups"] for rule in group["rules"]]


def test_every_series_in_an_alert_rule_exists() -> None:
    exposed = Metrics().exposition().decode()
    named = {series for rule in rules() for series in re.findall(r"gatewatch_\w+", str(rule))}
    named = {re.sub("_(total|count)$", "", series) for series in named}
    assert named
    assert [series for series in sorted(named) if f"# TYPE {series}" not in exposed] == []


def test_every_rule_has_a_test_and_says_how_bad_it_is_and_what_to_do() -> None:
    tests = load("docker/alerts.test.yml")["tests"]
    tested = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ())}
    tested |= {case["expr"] for test in tests for case in test.get("promql_expr_test", ())}
    assert {rule.get("alert") or rule["record"] for rule in rules()} == tested
    alerts = [rule for rule in rules() if "alert" in rule]
    assert {rule["labels"]["severity"] for rule in alerts} == {"warning", "critical"}
    for rule in alerts:
        assert rule["annotations"]["description"]
        page = (ROOT / rule["annotations"]["runbook"]).read_text()
        assert page.startswith(f"# {rule['alert']}\n"), rule["alert"]


def test_the_page_of_operations_names_every_alert() -> None:
    named = set(re.findall(r"^\| \[`(Gatewatch\w+)`\]", (ROOT / "docs/operations.md").read_text(), re.MULTILINE))
    assert named == {rule["alert"] for rule in rules() if "alert" in rule}


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


def health_checks() -> dict[str, list[str]]:
    dockerfile = re.search(r"HEALTHCHECK .*?\n\s+CMD (\[.*\])", (ROOT / "Dockerfile").read_text())
    assert dockerfile
    composed = load("docker-compose.yml")["services"]["gatewatch"]["healthcheck"]["test"]
    assert composed[0] == "CMD"
    return {"Dockerfile": json.loads(dockerfile[1]), "docker-compose.yml": composed[1:]}


@pytest.mark.parametrize("file", health_checks())
def test_a_health_check_asks_the_service_whatever_proxy_the_container_has(
    artefact: Path, tmp_path: Path, file: str
) -> None:
    """Docker gives its own proxy settings to every container; that proxy knows no 127.0.0.1 of ours."""
    python, *rest = health_checks()[file]
    assert python == "python3"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:1")
    with serving(artefact, tmp_path / "data") as (url, process):
        port = url.rpartition(":")[2]
        for given in (port, f"tcp://10.96.0.12:{port}"):  # the second is what Kubernetes puts there
            command = [sys.executable, *(part.replace("8000", port) for part in rest)]
            environment = {**os.environ, **proxies, "no_proxy": "", "GATEWATCH_PORT": given}
            done = subprocess.run(command, env=environment, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()
        process.terminate()
        process.wait(30)
        assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode != 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_the_alert_rules_do_what_their_tests_say() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts.test.yml"],
        cwd=ROOT / "docker",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
