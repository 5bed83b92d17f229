"""Every pin exists for every Python that is promised: pip's resolver, asked for that version without installing."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.network

REPOSITORY = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSIONS = [entry.rpartition(" ")[2] for entry in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", entry)]
# Published as sources alone, and pure Python; pip resolves wheels only for another Python.
_SOURCES = ("rouge-score", "hydra-core", "antlr4-python3-runtime")


def requirements(extra: str) -> list[str]:
    """What the project needs with `extra`, extras of its own followed."""
    found: list[str] = []
    for requirement in PROJECT["optional-dependencies"][extra]:
        own = re.fullmatch(r"leximind\[(.+)\]", requirement)
        found += [one for name in own[1].split(",") for one in requirements(name)] if own else [requirement]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_constraints_fit(version: str, tmp_path: Path) -> None:
    wanted = [one for one in [*PROJECT["dependencies"], *requirements("dev")] if not one.startswith(_SOURCES)]
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "constraints.txt").write_text("\n".join(pin for pin in pins if not pin.startswith(_SOURCES)))
    (tmp_path / "requirements.txt").write_text("\n".join(wanted))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--target", "none"]
    asked = ["--python-version", version, "--only-binary", ":all:", "-c", "constraints.txt", "-r", "requirements.txt"]
    resolved = subprocess.run([*command, *asked], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert resolved.returncode == 0, resolved.stderr
