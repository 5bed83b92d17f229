"""The builds of the kernels: which one a processor gets, that each computes the same, and in its own instructions."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.choices import PRECISIONS, Precision
from model.errors import ModelError
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from model.kernels import builds, library
from model.kernels.builds import BUILDS, Build
from model.precision import computing_dtype
from support.models import CONFIG, random_model
from support.reference import TOLERANCE

RUNNABLE = [build for build in BUILDS if build.path.exists() and not library.lacking_features(build)]
OWN = builds.builds_for(builds.this_machine())
compiled = pytest.mark.skipif(not OWN or not all(build.path.exists() for build in OWN), reason="no C++ compiler")

HASWELL = {"avx2", "fma3", "f16c"}
SKYLAKE = HASWELL | {"avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"}
ICE_LAKE = SKYLAKE | {"avx512_vnni"}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = library._choice
    library.choose(library.AUTO)
    yield
    library._loaded.cache_clear()  # what was loaded for a processor that a test made up
    library.choose(before)


def pretend(monkeypatch: pytest.MonkeyPatch, features: set[str]) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: dict.fromkeys(features, True))
    library._loaded.cache_clear()


@compiled
@pytest.mark.parametrize(
    ("features", "name"),
    [
        (HASWELL - {"fma3"}, None),
        (HASWELL, "avx2"),
        (HASWELL | {"avx_vnni"}, "avxvnni"),
        (SKYLAKE, "avx2"),
        (ICE_LAKE, "avx512vnni"),
        (ICE_LAKE | {"avx512_bf16", "avx_vnni"}, "avx512bf16"),
        (ICE_LAKE | {"avx512_bf16", "avx_vnni", "amx_bf16"}, "avx512vnni"),
    ],
)
def test_a_processor_gets_the_first_build_that_it_runs(
    monkeypatch: pytest.MonkeyPatch, features: set[str], name: str | None
) -> None:
    pretend(monkeypatch, features)
    build = library.chosen_build()
    assert (build and build.name) == name
    assert library.is_available() == (name is not None)
    absent = library.absence()
    assert (absent and str(absent)) == (None if name else "this processor lacks fma3: torch computes, more slowly")
    assert library.has_bfloat16() == ("avx512_bf16" in features)


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ({"neon"}, "neon"),  # Cortex-A53 and A72
        ({"neon", "dot", "fp16_arith"}, "neondot"),  # Graviton 2, Ampere Altra, Apple M1
        ({"neon", "dot", "fp16_arith", "bf16", "i8mm", "sve"}, "neonbf16"),  # Graviton 3
    ],
)
def test_an_arm_processor_runs_those_of_its_level(
    monkeypatch: pytest.MonkeyPatch, features: set[str], name: str
) -> None:
    pretend(monkeypatch, features)
    assert next(build.name for build in BUILDS if not library.lacking_features(build)) == name


@compiled
def test_a_build_that_the_processor_does_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, HASWELL)
    with pytest.raises(ModelError, match="kernels is avxvnni, and this processor lacks avx_vnni; use auto"):
        library.choose("avxvnni")
    build = library.chosen_build()
    assert build is not None
    assert build.name == "avx2"


def test_a_missing_compiler_does_not_pass_in_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(builds, "_FOLDER", tmp_path)
    found, said = builds.compile_all("no-such-compiler")
    assert found == []
    assert "NONE, there is no C++ compiler (no-such-compiler)" in said
    library._loaded.cache_clear()
    assert not library.is_available()
    assert "the native kernels were not compiled, all will be slower" in caplog.text
    assert str(library.absence()).startswith("not compiled: there was no C++ compiler at installation; install g++")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_sources_that_do_not_compile_are_said_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(Path(builds.__file__).with_name("sources.py"), tmp_path)
    (tmp_path / "broken.cpp").write_text("#error on purpose\n")
    monkeypatch.setattr(builds, "_FOLDER", tmp_path)
    found, said = builds.compile_all()
    assert found == []
    assert said.startswith("native kernels: NONE")
    assert "on purpose" in said


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_while_they_are_compiled_those_of_before_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For what starts meanwhile, such as a service, from the folder that a wheel is built in."""
    shutil.copy(Path(builds.__file__).with_name("sources.py"), tmp_path)
    monkeypatch.setattr(builds, "_FOLDER", tmp_path)
    for path in (*(build.path for build in OWN), tmp_path / "kernels.so"):  # the last one of a former version
        path.write_text("before")
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\ncase " $* " in *" -dumpmachine "*) exec g++ "$@";; *" -c "*) exit;; esac\nfor out; do :; done\n'
        f'(cd {tmp_path} && ls kernels*.so) > "$out"\n'
    )
    compiler.chmod(0o755)
    found, _ = builds.compile_all(str(compiler))
    assert found == OWN
    for build in OWN:
        assert set(build.path.read_text().split()) == {"kernels.so", *(one.path.name for one in OWN)}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"compiler", "sources.py", *(build.path.name for build in OWN)}


@compiled
def test_kernels_find_openmp_where_torch_loads_it_for_itself_alone() -> None:
    """As its builds for CUDA and for ARM64 do."""
    code = (
        "import ctypes\n"
        "class Local(ctypes.CDLL):\n"
        "    def __init__(self, name, mode=ctypes.DEFAULT_MODE, **others):\n"
        "        is_torchs = 'libtorch_global_deps' in str(name)\n"
        "        super().__init__(name, mode=ctypes.DEFAULT_MODE if is_torchs else mode, **others)\n"
        "ctypes.CDLL = Local\n"
        "from model.kernels import library\n"
        "print(library.chosen_name())\n"
    )
    paths = os.pathsep.join(filter(None, sys.path))
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert ran.stdout == f"{library.chosen_name()}\n", ran.stderr


def test_without_kernels_torch_computes() -> None:
    library.choose(library.NONE)
    assert not library.is_available()
    assert library.absence() == library.Absence("as asked for: torch computes, more slowly")


@pytest.mark.parametrize("build", RUNNABLE, ids=lambda build: build.name)
@pytest.mark.parametrize("precision", PRECISIONS)
@torch.inference_mode()
def test_every_build_computes_the_network_and_a_row_as_alone(build: Build, precision: Precision) -> None:
    """In float32 as torch; near it in less; tiles of any number of rows to the bit what a row is alone."""
    library.choose(build.name)
    plain = TorchBackend(random_model(CONFIG))
    model = NativeBackend(random_model(CONFIG).to(computing_dtype(precision)).state_dict(), CONFIG, precision)
    lengths = torch.tensor([30, 4, 17, 1, 22, 29, 8, 3, 11, 5, 26, 2, 19])
    ids = torch.randint(3, 90, (len(lengths), 30), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(30) < lengths[:, None]
    exact = plain.encode(ids, mask)
    states = model.encode(ids, mask)
    if precision == "float32":
        torch.testing.assert_close(states[mask], exact[mask], **TOLERANCE)
    assert float((states - exact)[mask].norm() / exact[mask].norm()) < 0.1

    def logits(count: int) -> torch.Tensor:
        assert torch.equal(model.encode(ids[:count], mask[:count]), states[:count])
        cache = model.new_cache(1)
        cache.add(model.project_source(states[:count], mask[:count]), mask[:count], [3] * count)
        return torch.stack([model.step(torch.full((count,), token), [cache]) for token in (0, 5, 9)])

    all_rows = logits(len(lengths))
    for count in range(1, len(lengths)):
        assert torch.equal(logits(count), all_rows[:, :count])


@compiled
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump")
@pytest.mark.skipif(
    builds.this_machine() != "x86_64", reason="tests/arm runs those for ARM64 on processors of their level"
)
@pytest.mark.parametrize("build", OWN, ids=lambda build: build.name)
def test_no_build_has_instructions_above_its_level(build: Build) -> None:
    """In 64-bit code an instruction that begins with the byte 62 is one of AVX-512, and no other does."""
    listing = subprocess.run(["objdump", "-d", build.path], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^ *[0-9a-f]+:\t((?:[0-9a-f]{2} )+) *\t(?:\{vex\} )?(\S+)", listing, re.MULTILINE)
    assert len(lines) > 10_000
    names = {name for _, name in lines}
    has = {
        "avx512_f": any(code.startswith("62 ") for code, _ in lines),
        "avx512_bf16": bool(names & {"vdpbf16ps", "vcvtneps2bf16", "vcvtne2ps2bf16"}),
        "avx512_vnni": any("vpdpbusd" in name and code.startswith("62 ") for code, name in lines),
        "avx_vnni": any("vpdpbusd" in name and not code.startswith("62 ") for code, name in lines),
        "fma3": any(name.startswith("vfmadd") for name in names),
    }
    assert {feature for feature, is_there in has.items() if is_there} == set(build.features) & has.keys()
    beyond = re.compile(r"vp(popcnt|shld|shrd|compress[bw]|expand[bw]|madd52|ermb|ermi2b|ermt2b)|v?gf2|tdp|tile|v.*ph$")
    assert not {name for name in names if beyond.match(name)}
