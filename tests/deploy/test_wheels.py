"""Wheels that need no compiler: their tag is true, and what they hold computes where there is none.

The kernels are those of this checkout, handed out by a compiler that has them at hand: to compile them takes a minute.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import wheels
from model.kernels import builds
from model.kernels.library import chosen_name
from support.pages import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(build.path.exists() for build in builds.builds_for(builds.this_machine())) or not shutil.which("g++"),
        reason="no native kernels are compiled here",
    ),
]
SOURCES = ("app", "model", "training", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")


def compiler_that_links(folder: Path, command: str) -> str:
    """A compiler for this machine that compiles nothing, and instead of linking into `$out` runs `command`."""
    compiler = folder / "compiler"
    compiler.write_text(
        '#!/bin/sh\ncase " $* " in *" -dumpmachine "*) exec g++ "$@";; *" -c "*) exit;; esac\nfor out; do :; done\n'
        f"{command}\n"
    )
    compiler.chmod(0o755)
    return str(compiler)


def built(folder: Path, command: str) -> Path:
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = REPOSITORY / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    return wheels.build(compiler_that_links(folder, command), source, folder)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiled = REPOSITORY / "model" / "kernels"
    return wheels.tagged(built(tmp_path_factory.mktemp("wheel"), f'cp "{compiled}/$out" "$out"'))


def test_the_tag_is_of_systems_that_torch_has_wheels_for(wheel: Path) -> None:
    name, system = wheel.stem.split("-py3-none-manylinux_2_")
    assert name.startswith("leximind-")
    glibc, _, machine = system.partition("_")
    assert int(glibc) <= 28
    assert machine == builds.this_machine()


def test_kernels_compute_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        installed,
        wheel,
    ]
    subprocess.run(command, check=True)

    code = "import app.cli, sys; print(app.cli.__file__, file=sys.stderr); app.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(done.stderr.splitlines()[0]).is_relative_to(installed)
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["kernels"]["value"].startswith(f"{chosen_name()} computes, of ")
    assert found["answer"]["state"] == "ok"


def test_a_wheel_that_needs_a_library_of_the_system_is_refused(tmp_path: Path) -> None:
    """As kernels linked with OpenMP's library would: there torch's own would run beside it."""
    needs = "echo 'int omp_get_max_threads(); int f() { return omp_get_max_threads(); }' > a.c; "
    made = built(tmp_path, needs + 'gcc -shared -fPIC a.c -lgomp -o "$out"')
    with pytest.raises(wheels.NotPortable, match=r"is linux_\w+ and no manylinux: it needs \{'libgomp"):
        wheels.tagged(made)


def test_without_kernels_there_is_no_such_wheel(tmp_path: Path) -> None:
    with pytest.raises(wheels.NotPortable, match="compiled no kernels"):
        built(tmp_path, "exit 1")
