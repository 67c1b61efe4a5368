"""The files that containers read agree with the service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
import yaml
from packaging.requirements import Requirement
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.settings import Settings
from tests.support.redis_servers import redis_cluster, redis_with_sentinels
from tests.support.samples import post, readings
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


def services() -> dict[str, Any]:
    composed: dict[str, Any] = load("docker-compose.yml")["services"]
    return composed


def test_every_composed_service_is_confined_and_bounded() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    assert all("healthcheck" in services()[name] for name in ("gatewatch", "redis", "prometheus", "alertmanager"))
    known = {f"GATEWATCH_{name.upper()}" for name in Settings.model_fields}
    assert set(services()["gatewatch"]["environment"]) <= known


def test_redis_keeps_states_and_only_the_service_reaches_it() -> None:
    conf = (ROOT / "docker/redis.conf").read_text()
    assert "appendonly yes" in conf
    assert "maxmemory-policy noeviction" in conf
    assert "aclfile /run/secrets/redis_users" in conf
    assert [name for name, service in services().items() if "store" in service.get("networks", ())] == [
        "gatewatch",
        "redis",
    ]
    assert load("docker-compose.yml")["networks"]["store"] == {"internal": True}
    assert "ports" not in services()["redis"]


def secrets_made_in(folder: Path) -> Path:
    """A copy of docker/ in which the passwords are made; returns the folder of the secrets."""
    (folder / "docker").mkdir()
    for name in ("make-secrets", "users.acl", "users-ha.acl"):
        shutil.copy(ROOT / "docker" / name, folder / "docker")
    subprocess.run([folder / "docker/make-secrets"], check=True, capture_output=True)
    return folder / "docker/secrets"


def test_passwords_are_made_once_and_are_in_no_file_of_ours(tmp_path: Path) -> None:
    secrets = secrets_made_in(tmp_path)
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    composed = {one["file"].rpartition("/")[2] for one in load("docker-compose.yml")["secrets"].values()}
    assert composed | {"redis_users_ha"} == set(before)
    assert len(before["redis_password"]) >= 32
    assert before["redis_password"] not in before["redis_users"]
    assert secrets.stat().st_mode & 0o077 == 0
    subprocess.run([tmp_path / "docker/make-secrets"], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert "/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server, Debian's package")
def test_the_composed_redis_lets_in_the_service_and_nobody_else(artefact: Path, tmp_path: Path) -> None:
    """With docker/redis.conf as it is, but for its paths and its address."""
    secrets = secrets_made_in(tmp_path)
    conf = (ROOT / "docker/redis.conf").read_text()
    for before, now in (
        ("/run/secrets", str(secrets)),
        ("dir /data", f"dir {tmp_path}"),
        ("bind 0.0.0.0 -::*", "port 0"),
    ):
        assert before in conf
        conf = conf.replace(before, now)
    (tmp_path / "redis.conf").write_text(f"{conf}unixsocket {tmp_path}/redis.sock\n")
    process = subprocess.Popen(["redis-server", tmp_path / "redis.conf"], stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "redis.sock").exists():
            time.sleep(0.05)
        with redis.Redis(unix_socket_path=f"{tmp_path}/redis.sock") as nobody, pytest.raises(redis.AuthenticationError):
            nobody.ping()
        password = (secrets / "redis_password").read_text()
        url = f"unix://gatewatch:{password}@{tmp_path}/redis.sock"
        with redis.Redis.from_url(url) as database, pytest.raises(redis.exceptions.NoPermissionError):
            database.flushall()
        with serving(artefact, tmp_path / "data", GATEWATCH_REDIS_URL=url) as (service, _):
            reply = httpx2.post(f"{service}/v1/readings", json=readings("pump", 20))
            assert {result["status"] for result in reply.json()} <= {"warming_up", "normal", "anomalous"}
            assert "gatewatch_store_up 1.0" in httpx2.get(f"{service}/metrics").text
    finally:
        process.terminate()
        process.wait(30)


def test_the_access_list_of_the_containers_is_that_of_the_page() -> None:
    (block,) = re.findall(
        r"^```text\n(user .*?)^```", (ROOT / "docs/operations.md").read_text(), re.MULTILINE | re.DOTALL
    )
    kept = (ROOT / "docker/users.acl").read_text().splitlines()
    assert kept[0] == "user default off"
    assert kept[1].split() == block.replace(">PASSWORD", "#PASSWORD_SHA256").split()


def images() -> set[str]:
    """Every image of another's that we name."""
    dockerfile = set(re.findall(r"^FROM (\S+:\S+) ", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    pods = "\n".join(path.read_text() for path in (ROOT / "docker/kubernetes").rglob("*.yml"))
    named = re.findall(r"^ *(?:- )?image: (\S+:\S+)$", pods, re.MULTILINE)
    return dockerfile | {one["image"] for one in services().values() if "build" not in one} | set(named)


def test_every_base_image_has_a_version_and_no_tag_that_moves() -> None:
    assert [
        image for image in images() if not re.search(r":v?\d+\.\d+\.\d+(-[a-z-]+)?(@sha256:[0-9a-f]{64})?$", image)
    ] == []


def test_one_command_adds_the_digest_of_every_base_image(tmp_path: Path) -> None:
    """Twice: the second time it renews them. What asks the registry is a script of the test."""
    for name in ("Dockerfile", "docker-compose.yml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns("secrets"))
    (tmp_path / "bin").mkdir()
    for digit in ("a", "b"):
        engine = tmp_path / "bin/docker"
        engine.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] && echo sha256:{digit * 64}\n')
        engine.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        done = subprocess.run(
            [tmp_path / "docker/pin-images"], env=environment, capture_output=True, text=True, check=True
        )
        pinned = f"@sha256:{digit * 64}"
        assert set(done.stdout.split()) == {image + pinned for image in images()}
        assert (
            len(re.findall(rf"^FROM python:\S+{pinned} AS", (tmp_path / "Dockerfile").read_text(), re.MULTILINE)) == 3
        )
        composed = yaml.safe_load((tmp_path / "docker-compose.yml").read_text())["services"]
        assert composed["redis"]["image"].endswith(pinned)
        assert composed["gatewatch"]["image"] == "gatewatch"


@pytest.mark.parametrize(("extras", "file"), [((), "requirements.txt"), (("train",), "requirements-train.txt")])
def test_what_the_images_install_is_locked_by_hash_and_is_what_the_project_asks_for(
    extras: tuple[str, ...], file: str
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    text = (ROOT / "docker" / file).read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE))
    assert len(locked) == text.count("==")
    assert not re.search(r"https?://|--(?:extra-)?index-url|--find-links", text)
    for one in map(Requirement, asked):
        if one.name != "torch":  # see Dockerfile
            assert one.specifier.contains(locked[one.name]), f"{one}: `make lock` renews what is locked"


def test_the_build_gets_every_folder_that_the_package_is_made_of() -> None:
    """The folder gatewatch/ links to where they lie."""
    copied = set(re.findall(r"^COPY (\S+) \./", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    let_in = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    made_of = {str(link.resolve().relative_to(ROOT)) for link in (ROOT / "gatewatch").iterdir() if link.is_symlink()}
    assert len(made_of) >= 2
    assert made_of <= copied & let_in


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


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_the_access_list_is_enough_for_more_than_one_server(
    settings: Callable[..., Settings], tmp_path: Path, kind: str
) -> None:
    """And open anomalies are named from there, too."""
    user, *rules = (ROOT / "docker/users.acl").read_text().splitlines()[1].split()[1:]
    rules = [">PASSWORD" if rule.startswith("#") else rule for rule in rules]
    with ExitStack() as stack:
        if kind == "cluster":
            servers = stack.enter_context(redis_cluster(tmp_path))
            url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in servers.known)
            ports = servers.known
        else:
            servers, url = stack.enter_context(redis_with_sentinels(tmp_path))
            ports = [servers.known[0]]
        for port in ports:
            with servers.client(port) as database:
                database.execute_command("ACL", "SETUSER", user, "reset", *rules)
        url = url.replace("://", f"://{user}:PASSWORD@")
        with TestClient(create_app(settings(redis_url=url, channel_series="pump*"))) as client:
            for name in ("pump-1", "pump-2", "pump-3"):
                sent = readings(name, 11)
                sent[-1]["values"] = {"pressure": 900.0, "flow": 3.0}
                assert post(client, sent)[-1]["status"] == "anomalous"
            exposed = client.get("/metrics").text
            assert client.delete("/v1/streams/pump-1").is_success
    named = set(re.findall(r'gatewatch_open_anomaly_score\{channel="pressure".*stream="(\S+?)"', exposed))
    assert named == set(re.findall(r'gatewatch_channel_value\{channel="pressure",stream="(\S+?)"', exposed))
    assert named == {"pump-1", "pump-2", "pump-3"}
    assert "gatewatch_store_up 1.0" in exposed
    assert re.search(r"^gatewatch_store_memory_bytes [1-9]", exposed, re.MULTILINE)
