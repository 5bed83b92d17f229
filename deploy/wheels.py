"""Wheels that need no compiler, one for each machine that there are kernels for: `make wheels` leaves them in dist/.

The kernels are compiled here, for another machine than this by a cross compiler. On which systems a wheel runs is not
claimed but found: `auditwheel` reads the versions of the symbols that the kernels ask of the C library, and the wheel
is tagged with the oldest manylinux that has all of them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
COMPILERS = ("x86_64-linux-gnu-g++", "aarch64-linux-gnu-g++")


class NotPortable(Exception):
    """A wheel that asks more of a system than every Linux of some age has."""


def run(*command: str | Path, **environment: str) -> str:
    """What a module of this Python prints; what it says beside that is shown."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


def build(compiler: str, source: Path, folder: Path) -> Path:
    """The wheel of the sources in `source` with kernels by `compiler`, in `folder`, tagged for its machine alone."""
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    subprocess.run(command, cwd=source, env={**os.environ, "CXX": compiler}, check=True, stdout=subprocess.DEVNULL)
    [wheel] = folder.glob("*.whl")
    if wheel.name.endswith("-any.whl"):
        raise NotPortable(f"{compiler} compiled no kernels, so the wheel would have none")
    return wheel


def tagged(wheel: Path) -> Path:
    """The wheel with the tag that is true of it, instead of the one that it has.

    Raises:
        NotPortable: no such tag is.
    """
    found = json.loads(run("auditwheel", "show", "--json", wheel))
    tag = found["overall_tag"]
    if not tag.startswith("manylinux_"):
        raise NotPortable(f"{wheel.name} is {tag} and no manylinux: it needs {found['external_libs']}")
    return wheel.with_name(run("wheel", "tags", "--remove", "--platform-tag", tag, wheel).splitlines()[-1])


def make(compilers: Sequence[str], into: Path) -> list[Path]:
    """A wheel by each compiler, of a copy of the sources: what is compiled in this folder stays."""
    into.mkdir(exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        run("hatchling", "build", "--target", "sdist", "--directory", folder)
        [archive] = Path(folder).glob("*.tar.gz")
        shutil.unpack_archive(archive, folder, filter="data")
        for compiler in compilers:
            wheel = tagged(build(compiler, Path(folder, archive.name.removesuffix(".tar.gz")), Path(folder, compiler)))
            made.append(Path(shutil.move(wheel, into / wheel.name)))
    return made


if __name__ == "__main__":
    missing = [compiler for compiler in COMPILERS if shutil.which(compiler) is None]
    if missing:
        packages = " ".join(f"g++-{compiler.removesuffix('-g++').replace('_', '-')}" for compiler in missing)
        sys.exit(f"there is no {', '.join(missing)}; apt-get install {packages}")
    for wheel in make(COMPILERS, REPOSITORY / "dist"):
        print(wheel.relative_to(REPOSITORY))
