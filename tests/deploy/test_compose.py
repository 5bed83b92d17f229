"""docker-compose.yml: one LexiMind whatever the profile, nothing open to the network, nothing unpinned, no secrets."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

REPOSITORY = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))


def started(profile: str) -> dict[str, dict[str, Any]]:
    """The services of `docker compose --profile PROFILE up`."""
    return {name: service for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}


def has_gpu(service: dict[str, Any]) -> bool:
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    return any(device["driver"] == "nvidia" and "gpu" in device["capabilities"] for device in devices)


def compose_plugin() -> bool:
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("profile", "gpu"), [("gpu", True), ("cpu", False)])
def test_each_profile_starts_one_leximind_under_that_name(profile: str, gpu: bool) -> None:
    builds = [service for service in started(profile).values() if "build" in service]
    assert len(builds) == 1
    assert builds[0]["networks"]["default"]["aliases"] == ["leximind"]
    assert has_gpu(builds[0]) is gpu
    assert {"prometheus", "grafana"} <= started(profile).keys()


def test_without_a_profile_the_gpu_service_is_chosen() -> None:
    lines = (REPOSITORY / ".env").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["COMPOSE_PROFILES=gpu"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_loopback(name: str) -> None:
    for port in SERVICES[name]["ports"]:
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_own_image_carries_the_package_version() -> None:
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    images = {service["image"] for service in SERVICES.values() if "build" in service}
    assert images == {f"leximind:{version[1]}", f"leximind-cpu:{version[1]}"}


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist_and_are_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        volume = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume)  # by default
        source, _, mode = volume.split(":") if volume.count(":") == 2 else (*volume.split(":"), "")
        if source.startswith("."):
            assert source == "./runs" or (REPOSITORY / source).exists(), source  # checkpoints, if there are any
            assert mode == "ro", volume
        else:
            assert source in COMPOSE["volumes"], source


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name: str) -> None:
    for variable in SERVICES[name].get("environment", {}):
        assert not re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable), variable


def test_a_stopping_service_is_given_the_time_to_drain() -> None:
    drain_s = Settings.model_fields["drain_timeout_s"].default
    assert int(COMPOSE["x-leximind"]["stop_grace_period"].removesuffix("s")) > drain_s


def test_grafana_lets_everyone_look_and_nobody_in() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


def test_prometheus_scrapes_the_name_and_port_that_answer() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    (static,) = job["static_configs"]
    assert static["targets"] == ["leximind:8000"]
    assert all(service["ports"][0].endswith(":8000") for service in SERVICES.values() if "build" in service)


def test_provisioned_dashboards_are_where_grafana_looks() -> None:
    provider = yaml.safe_load((REPOSITORY / "deploy/grafana/provisioning/dashboards/leximind.yml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (REPOSITORY / mounts[folder] / Path(home).name).is_file()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_accepts_the_scrape_config(tmp_path: Path) -> None:
    config = (REPOSITORY / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "metrics-key").touch()
    path = tmp_path / "prometheus.yml"
    config = config.replace("/etc/prometheus/metrics-key", str(tmp_path / "metrics-key"))
    path.write_text(config.replace("/etc/prometheus/rules", str(REPOSITORY / "deploy/prometheus/rules")))
    checked = subprocess.run(["promtool", "check", "config", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(not compose_plugin(), reason="docker compose is not installed")
@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_docker_compose_accepts_the_file(profile: str) -> None:
    checked = subprocess.run(
        ["docker", "compose", "--profile", profile, "config", "--quiet"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_prometheus_sends_the_admin_key_of_a_file_that_is_there() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    file = job["authorization"]["credentials_file"]
    (mount,) = [one for one in SERVICES["prometheus"]["volumes"] if one.endswith(f":{file}:ro")]
    default = re.fullmatch(r"\$\{PROMETHEUS_KEY_FILE:-(.+?)\}", mount.removesuffix(f":{file}:ro"))
    assert default is not None
    assert (REPOSITORY / default[1]).read_text() == ""
