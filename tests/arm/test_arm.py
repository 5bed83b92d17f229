"""The kernels for ARM64, compiled here and run by an emulator: they give what those of this machine give.

Each build runs on the oldest processor that it is for, so that an instruction above its level ends it.
"""

import logging
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model.kernels import builds
from model.kernels.builds import Build, builds_for
from model.kernels.library import lacking_features

logger = logging.getLogger(__name__)

PROGRAM = Path(__file__).with_name("network.cpp")
CROSS_COMPILER, EMULATOR, SYSTEM = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
PROCESSORS = {"neon": "cortex-a53", "neondot": "cortex-a76", "neonbf16": "max"}
FLAGS = ("-O1", "-std=c++20", "-Wall", "-Wextra", "-Wno-unused-function")
# Of the norm of a part: where bfloat16 is multiplied by its own instructions, which round otherwise than floats do, so
# that some numbers go to the next level (the part is 4e-2 from that in float32, by these and by floats alike); and in
# int8, where attention to the source has weights of 15 bits, and of 16 on x86-64.
TOLERANCE = {"float32": 0.0, "bfloat16": 2e-2, "int8": 2e-2, "training": 1e-5}

*OWN, REFERENCE = [build for build in builds_for("x86_64") if build.path.exists() and not lacking_features(build)] or [
    None
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REFERENCE is None or shutil.which("g++") is None, reason="compared with the kernels for x86-64"),
]

Parts = dict[str, np.ndarray]


def parts_of(program: Sequence[str | Path], library: Path, file: Path) -> Parts:
    """What the program gives by a library, part by part; it fails where a document alone is not that of a batch."""
    ran = subprocess.run([*program, library, file], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    names, sizes = zip(*(line.split() for line in ran.stdout.splitlines()), strict=True)
    ends = np.cumsum([int(size) for size in sizes])
    return dict(zip(names, np.split(np.fromfile(file, np.float32), ends[:-1]), strict=True))


def compare(build: Build, given: Parts, expected: Parts) -> None:
    """To the bit, but for what `TOLERANCE` is about."""
    assert given.keys() == expected.keys()
    for name, numbers in given.items():
        error = float(np.linalg.norm(numbers - expected[name]) / np.linalg.norm(expected[name]))
        logger.info("%s %s: %.1e", build.name, name, error)
        has_fewer_bits = build.machine == "aarch64" and re.fullmatch("int8/.*/logits", name)
        tolerance = TOLERANCE[name.partition("/")[0]] if build.has_bfloat16 or has_fewer_bits else 0.0
        assert error <= tolerance, name


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of this machine."""
    assert REFERENCE is not None
    path = tmp_path_factory.mktemp("native") / "network"
    subprocess.run(["g++", *FLAGS, *REFERENCE.flags, PROGRAM, "-o", path], check=True)
    return path


@pytest.fixture(scope="module")
def expected(program: Path) -> Parts:
    assert REFERENCE is not None
    return parts_of([program], REFERENCE.path, program.with_name("expected"))


@pytest.mark.parametrize("build", OWN, ids=lambda build: build.name)
def test_the_other_builds_for_this_machine_give_it_too(
    build: Build, program: Path, expected: Parts, tmp_path: Path
) -> None:
    compare(build, parts_of([program], build.path, tmp_path / "given"), expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the kernels and the program for ARM64."""
    missing = [one for one in (CROSS_COMPILER, EMULATOR) if shutil.which(one) is None]
    assert not missing, f"there is no {', '.join(missing)}: apt-get install g++-aarch64-linux-gnu qemu-user"
    folder = tmp_path_factory.mktemp("arm")
    for path in Path(builds.__file__).parent.iterdir():
        if path.suffix in (".cpp", ".h") or path.name == "sources.py":
            shutil.copy(path, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(builds, "_FOLDER", folder)
        compiled, said = builds.compile_all(CROSS_COMPILER)
    assert compiled == builds_for("aarch64"), said
    subprocess.run([CROSS_COMPILER, *FLAGS, PROGRAM, "-o", folder / "network"], check=True)
    return folder


@pytest.mark.arm
@pytest.mark.parametrize("build", builds_for("aarch64"), ids=lambda build: build.name)
def test_those_for_arm_give_what_those_for_this_machine_give(build: Build, folder: Path, expected: Parts) -> None:
    emulated = [EMULATOR, "-cpu", PROCESSORS[build.name], "-L", SYSTEM, folder / "network"]
    compare(build, parts_of(emulated, folder / build.path.name, folder / "given"), expected)


@pytest.mark.arm
def test_an_instruction_above_the_level_ends_it(folder: Path) -> None:
    """Or the test above could not fail of one."""
    emulated = [EMULATOR, "-cpu", PROCESSORS["neon"], "-L", SYSTEM, folder / "network"]
    ran = subprocess.run([*emulated, folder / "kernels-neondot.so", folder / "given"], capture_output=True, text=True)
    assert "Illegal instruction" in ran.stderr
