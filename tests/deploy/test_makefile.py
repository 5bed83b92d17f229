"""The Makefile, by what it would run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# As from a shell, also when make runs these tests: an inner make tells which folders it enters.
_PLAIN = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def copy_prerequisites(folder: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "hatch_build.py"):
        shutil.copy(REPOSITORY / name, folder / name)


def dry_run(*arguments: str, cwd: Path = REPOSITORY, **variables: str) -> str:
    command = ["make", "--dry-run", "--assume-old", ".venv/.installed", *arguments]
    ran = subprocess.run(command, cwd=cwd, env=_PLAIN | variables, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_serve_passes_on_what_it_is_given() -> None:
    assert dry_run("serve").split() == ["exec", ".venv/bin/leximind", "serve"]
    line = dry_run("serve", "HOST=0.0.0.0", "PORT=9000", "CHECKPOINT=runs/my base")
    assert line.endswith('serve --host "0.0.0.0" --port "9000" --checkpoint "runs/my base"')


def test_serve_takes_no_host_from_the_environment() -> None:
    assert "--host" not in dry_run("serve", HOST="x86_64-conda-linux-gnu")


def test_unfit_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    copy_prerequisites(tmp_path)
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1 || exit 1\n')
    old.chmod(0o755)
    ran = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode
    assert "is not Python 3.11, 3.12 or 3.13; name one that is" in ran.stderr
    assert not (tmp_path / ".venv").exists()


def test_python_of_another_version_means_a_new_environment(tmp_path: Path) -> None:
    copy_prerequisites(tmp_path)
    other = tmp_path / ".venv" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.10.1 || exit 0\n')
    other.chmod(0o755)
    stamp = tmp_path / ".venv" / ".installed"
    stamp.touch()
    dry = ["make", "--dry-run", "setup"]
    kept = subprocess.run(dry, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "venv" not in kept
    asked = [*dry, f"PYTHON={sys.executable}"]
    anew = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"{sys.executable} -m venv --clear .venv" in anew
