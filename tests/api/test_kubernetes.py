"""Every overlay renders to what Kubernetes takes, and fits the service and the files beside it."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import typer
import yaml

from gatewatch.service.cli import app as command
from gatewatch.service.settings import Settings

DOCKER: Final = Path(__file__).parent.parent.parent / "docker"
HERE: Final = DOCKER / "kubernetes"
OVERLAYS: Final = ("one", "sentinel", "cluster")
OPTIONAL: Final = ("monitoring", "training")
VERSIONS: Final = ("1.30", "1.34")
"""Of Kubernetes, whose schemas are asked."""

OPERATOR: Final = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, which these schemas do not have."""

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="needs kubectl, which renders without a cluster"
)

Object = dict[str, Any]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    """What each overlay renders to, by itself and with what is off by default."""
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(HERE, folder)
    rendered = {name: render(folder / "overlays" / name) for name in OVERLAYS}
    for name in OVERLAYS:
        whole = folder / "overlays" / f"{name}-whole"
        whole.mkdir()
        components = [f"../../components/{optional}" for optional in OPTIONAL]
        content = {"namespace": "gatewatch", "resources": [f"../{name}"], "components": components}
        (whole / "kustomization.yml").write_text(yaml.safe_dump(content))
        rendered[whole.name] = render(whole)
    return rendered


def render(folder: Path) -> list[Object]:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Name and template of everything that makes pods."""
    for one in objects:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if one["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob"):
            yield one["metadata"]["name"], spec["template"]


def test_every_object_is_as_the_schemas_of_kubernetes_want_it(everything: dict[str, list[Object]]) -> None:
    for name, objects in everything.items():
        assert len({(one["kind"], one["metadata"]["name"]) for one in objects}) == len(objects), name
    different = {yaml.safe_dump(one): one for one in itertools.chain.from_iterable(everything.values())}
    checked = [one for one in different.values() if one["kind"] not in OPERATOR]
    assert len(checked) > 20
    for one, version in itertools.product(checked, VERSIONS):
        kubernetes_validate.validate(one, version, strict=True)


def test_a_field_that_does_not_exist_is_found_by_the_schemas(everything: dict[str, list[Object]]) -> None:
    one = yaml.safe_load(yaml.safe_dump(of_kind(everything["one"], "Deployment")["gatewatch"]))
    one["spec"]["template"]["spec"]["terminationGracePeriod"] = 40
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)


def test_what_is_off_by_default_is_not_there_and_can_be_put_on(everything: dict[str, list[Object]]) -> None:
    for name in OVERLAYS:
        kinds = {one["kind"] for one in everything[name]}
        assert not kinds & {*OPERATOR, "CronJob"}
        assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "StatefulSet"} <= kinds
        assert ("HorizontalPodAutoscaler" in kinds) == (name != "one")
        assert {*OPERATOR, "CronJob", "Job"} <= {one["kind"] for one in everything[f"{name}-whole"]}


def test_every_pod_is_confined_and_bounded(everything: dict[str, list[Object]]) -> None:
    for name, template in itertools.chain.from_iterable(map(pods, everything.values())):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        for container in spec["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"] is True, name
            assert confined["allowPrivilegeEscalation"] is False, name
            assert confined["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} == set(container["resources"]["limits"]) == set(container["resources"]["requests"])
            assert not container["image"].endswith(":latest"), name
            assert re.search(r":\d+\.\d+\.\d+$", container["image"]), container["image"]


def secrets_of(value: Any) -> Iterator[tuple[str, str]]:
    """Name and key of every secret that a pod reads."""
    if isinstance(value, dict):
        if "secretKeyRef" in value:
            yield value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]
        secret = value.get("secret", {})
        for item in secret.get("items", ()):
            yield secret.get("name") or secret["secretName"], item["key"]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from secrets_of(inner)


def test_what_refers_to_something_refers_to_what_is_there(everything: dict[str, list[Object]]) -> None:
    """The secret is made by hand, of what docker/make-secrets makes; that of the trainer may be missing."""
    made = set(re.findall(r"redis_\w+", (DOCKER / "make-secrets").read_text()))
    for name, objects in everything.items():
        maps, claims = of_kind(objects, "ConfigMap"), of_kind(objects, "PersistentVolumeClaim")
        own = {
            one["metadata"]["name"]
            for s in of_kind(objects, "StatefulSet").values()
            for one in s["spec"]["volumeClaimTemplates"]
        }
        for owner, template in pods(objects):
            needed = set(secrets_of(template)) - {("gatewatch-trainer", "key")}
            assert {secret for secret, _ in needed} <= {"gatewatch-redis"}
            assert {key for _, key in needed} <= made, (name, owner)
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            mounted = {v["configMap"]["name"] for v in volumes.values() if "configMap" in v}
            claimed = {
                v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v
            }
            assert claimed <= set(claims)
            assert mounted <= set(maps)
            for container in template["spec"]["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} <= {*volumes, *own}
                assert {source["configMapRef"]["name"] for source in container.get("envFrom", ())} <= set(maps)
                for script in re.findall(r"/etc/redis/(\S+)", " ".join(container.get("command", ()))):
                    assert script in maps[next(iter(mounted))]["data"], (name, script)
        labels = [template["metadata"]["labels"] for _, template in pods(objects)]
        for one in objects:
            if one["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
                wanted = one["spec"].get("selector", one["spec"].get("podSelector", {}))
                wanted = wanted.get("matchLabels", wanted)
                assert any(wanted.items() <= of_pod.items() for of_pod in labels), (name, one["metadata"]["name"])


def test_the_service_gets_settings_that_exist_and_a_stop_that_fits_them(everything: dict[str, list[Object]]) -> None:
    known = {f"GATEWATCH_{field.upper()}" for field in Settings.model_fields}
    for name, objects in everything.items():
        (settings,) = [
            one["data"] for one in objects if one["kind"] == "ConfigMap" and "GATEWATCH_MODEL" in one["data"]
        ]
        spec = of_kind(objects, "Deployment")["gatewatch"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        given = {
            **settings,
            **{one["name"]: one.get("value") for one in container["env"] if one["name"] != "REDIS_PASSWORD"},
        }
        assert set(given) <= known
        needed = float(settings["GATEWATCH_DRAIN_S"]) + float(settings["GATEWATCH_SHUTDOWN_GRACE_S"])
        readiness = container["readinessProbe"]
        assert readiness["periodSeconds"] * readiness["failureThreshold"] < float(settings["GATEWATCH_DRAIN_S"])
        assert spec["terminationGracePeriodSeconds"] > needed, name
        assert {
            container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        } == {
            "/livez",
            "/readyz",
        }
        scheme = {"one": "redis", "sentinel": "redis+sentinel", "cluster": "redis+cluster"}[name.removesuffix("-whole")]
        assert given["GATEWATCH_REDIS_URL"].startswith(f"{scheme}://gatewatch:$(REDIS_PASSWORD)@gatewatch-redis:")


def test_the_training_jobs_run_a_command_that_exists(everything: dict[str, list[Object]]) -> None:
    commands = typer.main.get_command(command).commands  # type: ignore[attr-defined]
    found = []
    for name, template in pods(everything["one-whole"]):
        (container, *_) = template["spec"]["containers"]
        for run in {"train", "retrain"} & set(container.get("command", ())):
            found.append(run)
            options = {option for parameter in commands[run].params for option in parameter.opts}
            assert {one for one in container["args"] if one.startswith("--")} <= options, name
    assert sorted(found) == ["retrain", "train"]


def test_what_is_shared_with_the_composed_service_is_the_same(tmp_path: Path) -> None:
    for one in ("redis.conf", "alerts.yml"):
        shutil.copy(DOCKER / one, tmp_path)
    shutil.copytree(DOCKER / "grafana", tmp_path / "grafana")
    shutil.copytree(HERE, tmp_path / "kubernetes")
    subprocess.run([tmp_path / "kubernetes/copy-shared"], check=True)
    for copy in (tmp_path / "kubernetes").rglob("*"):
        if copy.is_file():
            ours = HERE / copy.relative_to(tmp_path / "kubernetes")
            assert copy.read_text() == ours.read_text(), f"{ours}: run docker/kubernetes/copy-shared"
    rules = yaml.safe_load((HERE / "components/monitoring/rules.yml").read_text())["spec"]
    assert rules == yaml.safe_load((DOCKER / "alerts.yml").read_text())


@pytest.mark.parametrize("script", sorted([*HERE.rglob("*.sh"), HERE / "copy-shared"]), ids=lambda path: path.name)
def test_every_script_can_be_read_by_a_shell(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = (DOCKER / "gatewatch.service").read_text().replace("/opt/gatewatch/bin/gatewatch", "/bin/true")
    (tmp_path / "gatewatch.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "gatewatch.service"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "gatewatch.service" not in done.stderr
