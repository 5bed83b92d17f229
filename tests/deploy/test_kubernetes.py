"""The manifests as kubectl renders them: valid to the API's schemas, safe, and consistent with the service."""

import shutil
import subprocess
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from app.settings import Settings
from deploy.kubernetes.__main__ import TARGET, prometheus_rule
from deploy.queries import FOLDER

OVERLAYS = sorted(path.name for path in (FOLDER / "kubernetes" / "overlays").iterdir())
CUSTOM: dict[str, Any] = {one.__name__: one for one in (ScaledObject, ServiceMonitor, PrometheusRule)}
# The oldest that still has schemas of what is used, and the newest.
VERSIONS = ("1.25", "1.37")

needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


@cache
def render(overlay: str) -> list[dict[str, Any]]:
    command = ["kubectl", "kustomize", str(FOLDER / "kubernetes" / "overlays" / overlay)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return [one for one in yaml.safe_load_all(rendered.stdout) if one]


def of_kind(overlay: str, kind: str) -> dict[str, Any]:
    (found,) = (one for one in render(overlay) if one["kind"] == kind)
    return found


def pod(overlay: str) -> dict[str, Any]:
    spec: dict[str, Any] = of_kind(overlay, "Deployment")["spec"]["template"]["spec"]
    return spec


def containers(overlay: str) -> list[dict[str, Any]]:
    return [*pod(overlay)["containers"], *pod(overlay).get("initContainers", [])]


def seconds(container: dict[str, Any], flag: str) -> float:
    return float(container["args"][container["args"].index(flag) + 1])


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid_to_the_api(overlay: str, version: str) -> None:
    for one in render(overlay):
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_pods_of_the_ray_service_are_valid_to_the_api_and_of_the_ray_that_is_pinned(version: str) -> None:
    manifest = yaml.safe_load((FOLDER / "ray" / "rayservice.yaml").read_text(encoding="utf-8"))
    cluster = manifest["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod_of_group = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, **group["template"]}
        kubernetes_validate.validate(pod_of_group, version, strict=True)
    assert f"ray=={cluster['rayVersion']}\n" in (FOLDER.parent / "constraints.txt").read_text(encoding="utf-8")


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_are_valid_to_their_definitions(overlay: str) -> None:
    for one in render(overlay):
        if one["kind"] in CUSTOM:
            read = CUSTOM[one["kind"]].model_validate(one)
            # The models drop what the definition does not have.
            assert read.model_dump(mode="json", by_alias=True, exclude_unset=True) == one


def test_rules_of_the_operator_are_those_of_prometheus() -> None:
    assert TARGET.read_text(encoding="utf-8") == prometheus_rule(), "run python -m deploy.kubernetes and commit"


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_runs_unprivileged_on_a_read_only_root_within_limits(overlay: str) -> None:
    assert pod(overlay)["securityContext"]["runAsNonRoot"] is True
    assert pod(overlay)["securityContext"]["runAsUser"] == 10001
    assert pod(overlay)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(overlay)["automountServiceAccountToken"] is False
    for container in containers(overlay):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].partition(":")[2] == "0.1.0"
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["resources"]["limits"]["cpu"].isdigit(), "threads go by whole cores"


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_that_ends_takes_requests_until_all_have_heard_of_it_and_then_finishes(overlay: str) -> None:
    (container,) = pod(overlay)["containers"]
    probe = container["readinessProbe"]
    delay_s, drain_s = seconds(container, "--shutdown-delay-s"), seconds(container, "--drain-timeout-s")
    spreading_s = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"] + 5
    assert delay_s > spreading_s
    assert pod(overlay)["terminationGracePeriodSeconds"] >= delay_s + drain_s + 10


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_settings(overlay: str) -> None:
    names = {f"LEXIMIND_{name}".upper() for name in Settings.model_fields}
    (container,) = pod(overlay)["containers"]
    given = {one["name"] for one in container["env"]} | of_kind(overlay, "ConfigMap")["data"].keys()
    assert given <= names
    assert pod(overlay)["enableServiceLinks"] is False  # a Service named leximind would set LEXIMIND_PORT
    flags = [one for one in container["args"] if one.startswith("--")]
    assert {one[2:].replace("-", "_") for one in flags} <= Settings.model_fields.keys()


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_selects_the_pods_and_no_others(overlay: str) -> None:
    labels = {"app.kubernetes.io/name": "leximind"}
    assert of_kind(overlay, "Deployment")["spec"]["template"]["metadata"]["labels"] == labels
    assert of_kind(overlay, "Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind(overlay, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert of_kind(overlay, "ServiceMonitor")["spec"]["selector"]["matchLabels"] == labels
    service = of_kind(overlay, "Service")
    assert service["spec"]["selector"] == labels
    assert service["metadata"]["name"] == "leximind"  # the job in Prometheus, which the rules go by
    (port,) = service["spec"]["ports"]
    (container,) = pod(overlay)["containers"]
    assert {"name": port["targetPort"], "containerPort": 8000} in container["ports"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_thing_scales_the_deployment(overlay: str) -> None:
    scalers = [one for one in render(overlay) if one["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    (scaler,) = scalers
    assert scaler["spec"]["scaleTargetRef"]["name"] == of_kind(overlay, "Deployment")["metadata"]["name"]
    assert "replicas" not in of_kind(overlay, "Deployment")["spec"]
    if scaler["kind"] == "ScaledObject":
        (trigger,) = scaler["spec"]["triggers"]
        assert int(trigger["metadata"]["threshold"]) == Settings.model_fields["max_batch_tokens"].default


@needs_kubectl
def test_a_checkpoint_comes_from_a_volume_or_an_init_container() -> None:
    for overlay in ("checkpoint-volume", "checkpoint-init"):
        (container,) = pod(overlay)["containers"]
        assert {"name": "LEXIMIND_CHECKPOINT", "value": "/runs/base"} in container["env"]
        assert {"name": "checkpoints", "mountPath": "/runs", "readOnly": True} in container["volumeMounts"]
    (init,) = pod("checkpoint-init")["initContainers"]
    assert init["args"] == ["import", "google/flan-t5-base", "/runs/base"]
    assert {"name": "checkpoints", "mountPath": "/runs"} in init["volumeMounts"]
