"""The Makefile, by what it would run."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# As from a shell, also when make runs these tests: an inner make prints which folders it enters.
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


def test_load_passes_on_what_it_is_given() -> None:
    given = ("URL=http://10.0.0.7:8000", "ARRIVALS=spike", "RATE=9", "TIME=30", "ARGS=--max-refused 0")
    line = " ".join(dry_run("load", *given).replace("\\", "").split())
    assert "--host http://10.0.0.7:8000 --arrivals spike --rate 9 --seconds 30" in line
    assert line.endswith("--html load.html --max-refused 0")


def test_unfit_python_is_refused_with_the_remedy(tmp_path: Path) -> None:
    copy_prerequisites(tmp_path)
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.9.1 || exit 1\n')
    old.chmod(0o755)
    ran = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode
    assert "is not Python 3.11, 3.12, 3.13 or 3.14; name one that is" in ran.stderr
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


FAKE_PYTHON = """#!/bin/sh
case "$*" in
    -V) echo Python 3.12.1 ;;
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip --version") test -e .venv/bin/python ;;
    "-m pip config list") echo "$PIP_CONFIGURED" ;;
    "-m pip install "*) echo "$*" >> installed ;;
esac
"""


def installed_by(folder: Path, *arguments: str, configured: str = "") -> list[str]:
    """What `make ARGUMENTS` asks pip to install, with a pip that is configured so."""
    python = folder / "python3.12"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    copy_prerequisites(folder)
    subprocess.run(
        ["make", *arguments, f"PYTHON={python}"], cwd=folder, env=_PLAIN | {"PIP_CONFIGURED": configured}, check=False
    )
    calls = (folder / "installed").read_text().splitlines()
    (folder / "installed").unlink()
    return calls


def test_serve_installs_what_serving_needs_and_test_the_rest(tmp_path: Path) -> None:
    (serving,) = installed_by(tmp_path, "serve")
    assert serving.endswith("-e .[serve]")
    (rest,) = installed_by(tmp_path, "setup")
    assert rest.endswith("-e .[dev]")
    assert (tmp_path / ".venv/.serve").exists()  # what serving needs is there then


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="elsewhere there is one build of torch"
)
@pytest.mark.skipif(Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists(), reason="there is an NVIDIA device")
def test_without_a_gpu_torch_is_the_cpu_build_unless_pip_has_an_index(tmp_path: Path) -> None:
    (call,) = installed_by(tmp_path, "setup")
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in call
    for setting in ("global.index-url='https://a.example'", ":env:.extra-index-url='x'", "global.find-links='/a'"):
        (call,) = installed_by(tmp_path, "setup", configured=setting)
        assert "index-url" not in call, setting
