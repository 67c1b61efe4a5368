"""The chart installs what the overlays describe, and changes what its values say."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.api.test_kubernetes import DOCKER, OPERATOR, OVERLAYS, VERSIONS, Object, of_kind, render

CHART: Final = DOCKER / "helm"

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which renders the overlays")
needs_helm = pytest.mark.skipif(
    shutil.which("helm") is None and importlib.util.find_spec("helm_python") is None,
    reason="needs helm, or helm-python-sdk, which is helm's own code in a wheel of 80 MB",
)

CHANGES: Final[dict[str, Any]] = {
    "overlay": "cluster",
    "monitoring": True,
    "image": {"repository": "registry.example/gatewatch", "tag": "0.2.1", "pullSecrets": ["pull"]},
    "settings": {"GATEWATCH_WORKERS": 2, "GATEWATCH_MODEL": "demo", "OTEL_SERVICE_NAME": "gw"},
    "autoscaling": {"min": 3, "max": 5},
    "resources": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 2, "memory": "1Gi"}},
    "redis": {"storage": "64Gi"},
}

Install = Callable[[dict[str, Any]], list[Object]]


def test_values_are_what_the_schema_says_and_a_misspelt_one_is_refused() -> None:
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    for good in (values, values | CHANGES):
        jsonschema.validate(good, schema)
    for bad in ({"replica": 2}, {"overlay": "two"}, {"settings": {"WORKERS": 2}}, {"redis": {"storage": "lots"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(values | bad, schema)


def test_the_chart_has_the_version_of_what_it_installs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == values["image"]["tag"] == version("gatewatch")


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """What a release in the namespace `plant` would have, by values."""
    for folder in ("helm", "kubernetes"):
        shutil.copytree(DOCKER / folder, tmp_path / folder, ignore=shutil.ignore_patterns("rendered"))
    subprocess.run([tmp_path / "helm" / "render"], check=True)

    def rendered(values: dict[str, Any]) -> list[Object]:
        if shutil.which("helm") is not None:
            file = tmp_path / "values.yaml"
            file.write_text(yaml.safe_dump(values))
            command = ["helm", "template", "any", str(tmp_path / "helm"), "--namespace", "plant", "--values", str(file)]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        else:
            helm = importlib.import_module("helm_python")
            with helm.Chart.load(str(tmp_path / "helm")) as chart:
                text = chart.render(values, name="any", namespace="plant")["gatewatch/templates/objects.yaml"]
        return [one for one in yaml.safe_load_all(text) if one]

    return rendered


@needs_kubectl
@needs_helm
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_values_the_chart_is_the_overlay(install: Install, overlay: str) -> None:
    expected = render(DOCKER / "kubernetes" / "overlays" / overlay)
    for one in expected:
        one["metadata"]["namespace"] = "plant"
    assert install({"overlay": overlay}) == expected


@needs_kubectl
@needs_helm
def test_values_change_what_they_say_and_kubernetes_takes_it(install: Install) -> None:
    objects = install(CHANGES)
    (config,) = (one for one in of_kind(objects, "ConfigMap").values() if "GATEWATCH_MODEL" in one["data"])
    assert {name: config["data"][name] for name in CHANGES["settings"]} == {
        "GATEWATCH_WORKERS": "2", "GATEWATCH_MODEL": "demo", "OTEL_SERVICE_NAME": "gw",
    }  # fmt: skip
    template = of_kind(objects, "Deployment")["gatewatch"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert container["image"] == "registry.example/gatewatch:0.2.1"
    assert container["resources"] == CHANGES["resources"]
    assert template["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    scale = of_kind(objects, "HorizontalPodAutoscaler")["gatewatch"]["spec"]
    assert (scale["minReplicas"], scale["maxReplicas"]) == (3, 5)
    (claim,) = of_kind(objects, "StatefulSet")["gatewatch-redis"]["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "64Gi"
    assert {one["kind"] for one in objects} >= OPERATOR
    for one in objects:
        if one["kind"] not in OPERATOR:
            for of in VERSIONS:
                kubernetes_validate.validate(one, of, strict=True)
    other = install(CHANGES | {"settings": {"GATEWATCH_WORKERS": 3}})
    sums = [of_kind(some, "Deployment")["gatewatch"]["spec"]["template"]["metadata"] for some in (objects, other)]
    assert sums[0]["annotations"] != sums[1]["annotations"]  # so that pods are replaced
