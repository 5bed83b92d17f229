"""docker-compose.yml: one LexiMind whatever the profile, nothing open to the network, nothing unpinned, no secrets."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from deploy.environment import TARGET, example

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
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_own_image_carries_the_package_version() -> None:
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    images = {service["image"] for service in SERVICES.values() if "build" in service}
    assert images == {f"{name}:{version[1]}" for name in ("leximind", "leximind-cpu", "leximind-demo")}


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
    for variable, value in SERVICES[name].get("environment", {}).items():
        is_of_the_shell = value == f"${{{variable}:-}}"
        assert is_of_the_shell or not re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable), variable


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_contained(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=64m"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()


def test_the_cpu_profile_takes_the_cpu_build_of_torch_unless_told_otherwise() -> None:
    indexes = {
        name: service["build"]["args"]["TORCH_INDEX_URL"] for name, service in SERVICES.items() if "build" in service
    }
    assert indexes == {
        "leximind": "${TORCH_INDEX_URL:-}",
        "leximind-cpu": "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}",
        "demo": "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}",
    }


@pytest.mark.parametrize("client", ["load", "demo"])
def test_clients_wait_for_the_service_that_runs_whichever_it_is(client: str) -> None:
    waits = SERVICES[client]["depends_on"]
    served = [name for name, one in SERVICES.items() if one.get("command", [""])[0] == "serve"]
    assert waits == {name: {"condition": "service_healthy", "required": False} for name in served}


def test_the_page_asks_the_service_by_the_command_that_the_image_has() -> None:
    page = SERVICES["demo"]
    assert page["build"]["args"]["EXTRAS"] == "serve,demo"
    command = [sys.executable, "-m", "app.cli", "demo", "--help"]
    flags = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {flag for flag in page["command"] if flag.startswith("--")} <= set(flags.replace(",", " ").split())


def test_load_asks_with_the_pinned_locust() -> None:
    assert SERVICES["load"]["image"].rpartition(":")[2] in (REPOSITORY / "constraints.txt").read_text()
    command = " ".join(SERVICES["load"]["command"])
    assert "--host=http://leximind:8000" in command
    assert (REPOSITORY / command.partition("--locustfile=/src/")[2].split()[0]).is_file()


def test_the_file_fits_the_compose_specification() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        "docker-compose.yml",
    ]
    checked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_example_has_every_setting_and_sets_none() -> None:
    text = TARGET.read_text(encoding="utf-8")
    assert text == example(), "run python -m deploy.environment and commit what it writes"
    assert all(line.startswith("#") for line in text.splitlines() if line)
    names = re.findall(r"^#(LEXIMIND_\w+)=", text, re.MULTILINE)
    assert names == [f"LEXIMIND_{name}".upper() for name in Settings.model_fields]


def test_lines_of_the_example_are_accepted_when_their_mark_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    values = dict(line[1:].split("=", 1) for line in TARGET.read_text().splitlines() if line.startswith("#LEXIMIND_"))
    for name, value in values.items():
        if value and not value.startswith("sha256:<"):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.model_copy(update={"api_keys_file": None}) == Settings.model_construct()


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
    served = [one for one in SERVICES.values() if one.get("command", [""])[0] == "serve"]
    assert [one["ports"][0].rpartition(":")[2] for one in served] == ["8000", "8000"]


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
