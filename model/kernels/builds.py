"""Which builds of the kernels there are, what each needs of a processor, and how they are compiled.

Imports nothing of the project, whose package is built by it. As a command, with or without the name of a
compiler, it compiles in place, for the machine that the compiler is for.
"""

import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent
_FLAGS = (
    "-O3 -std=c++20 -fopenmp -fPIC -fno-math-errno -Wall -Wextra -Wno-uninitialized -Wno-maybe-uninitialized"
).split()


@dataclass(frozen=True)
class Build:
    """The kernels for processors of `machine` that have `features`, as `torch.cpu.get_capabilities` calls them.

    `has_bfloat16`: with instructions for products of bfloat16, which are made of floats elsewhere. Where the processor
    has the feature `slow_with`, another build is faster.
    """

    machine: str
    name: str
    features: tuple[str, ...]
    flags: tuple[str, ...]
    has_bfloat16: bool = False
    slow_with: str | None = None

    @property
    def path(self) -> Path:
        """Of the compiled library."""
        return _FOLDER / f"kernels-{self.name}.so"


_X86 = "x86_64"
_AVX2 = Build(_X86, "avx2", ("avx2", "fma3", "f16c"), ("-mavx2", "-mfma", "-mf16c"))
_AVXVNNI = Build(_X86, "avxvnni", (*_AVX2.features, "avx_vnni"), (*_AVX2.flags, "-mavxvnni"))
_AVX512VNNI = Build(
    _X86,
    "avx512vnni",
    (*_AVX2.features, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni"),
    ("-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
)
# With AMX, which is Intel from Sapphire Rapids on, its instruction is slow: encoding takes 1.6 times that by floats.
_AVX512BF16 = Build(
    _X86,
    "avx512bf16",
    (*_AVX512VNNI.features, "avx512_bf16"),
    (*_AVX512VNNI.flags, "-mavx512bf16"),
    has_bfloat16=True,
    slow_with="amx_bf16",
)
_ARM64 = "aarch64"
_NEON = Build(_ARM64, "neon", ("neon",), ("-march=armv8-a",))
_NEONDOT = Build(_ARM64, "neondot", (*_NEON.features, "dot"), ("-march=armv8.2-a+dotprod",))
_NEONBF16 = Build(
    _ARM64, "neonbf16", (*_NEONDOT.features, "bf16"), ("-march=armv8.2-a+dotprod+bf16",), has_bfloat16=True
)
# The first that a processor runs computes. AVX-512 without VNNI (Skylake) is served by AVX2.
BUILDS = (_AVX512BF16, _AVX512VNNI, _AVXVNNI, _AVX2, _NEONBF16, _NEONDOT, _NEON)
AUTO, NONE = "auto", "none"  # instead of a build: the first that a processor runs; torch
MACHINES = "Linux on x86-64 and ARM64"  # that there are builds for


def builds_for(machine: str) -> list[Build]:
    """Those for `machine`, best first."""
    return [build for build in BUILDS if build.machine == machine]


def this_machine() -> str:
    """As `Build.machine` has it; empty but on Linux."""
    return platform.machine() if platform.system() == "Linux" else ""


def is_for_this_machine() -> bool:
    """Whether there are kernels for its kind."""
    return bool(builds_for(this_machine()))


def compile_all(name: str = "g++") -> tuple[list[Build], str]:
    """Compile, by GCC under `name`, what is for its machine; what was compiled before and is not now goes.

    Returns:
        The builds that are there now, and what to say: in one line those, or why there are none.
    """
    compiled, message = _compile_all(name)
    for path in set(_FOLDER.glob("kernels*.so")) - {build.path for build in compiled}:
        path.unlink(missing_ok=True)
    return compiled, message


def _compile_all(name: str) -> tuple[list[Build], str]:
    nowhere = f"native kernels: none, they are for {MACHINES}; a CPU computes by torch, more slowly"
    if (compiler := shutil.which(name)) is None:
        if not is_for_this_machine():
            return [], nowhere
        remedy = "install it (apt-get install g++) and install LexiMind again"
        return (
            [],
            f"native kernels: NONE, there is no C++ compiler ({name}): a CPU decodes several times slower; {remedy}",
        )
    if not (builds := builds_for(_machine_of(compiler))):
        return [], nowhere
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        errors = dict(zip(builds, threads.map(lambda build: _compile(compiler, build), builds), strict=True))
    compiled = [build for build, error in errors.items() if error is None]
    message = (
        f"native kernels: {', '.join(build.name for build in compiled) or 'NONE, a CPU decodes several times slower'}"
    )
    failed = [f"\n{build.name} does not compile:\n{error}" for build, error in errors.items() if error is not None]
    return compiled, message + "".join(failed)


def _machine_of(compiler: str) -> str:
    # Empty where it compiles for another system, as on a Mac.
    target = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True).stdout.strip()
    return target.partition("-")[0] if "linux" in target else ""


def _compile(compiler: str, build: Build) -> str | None:
    # What the compiler says if it fails. Renamed into place: what starts meanwhile finds the library of before, whole.
    # Linked without the library of OpenMP, which torch has brought, and of which a wheel may not need that of a system.
    sources = sorted(map(str, _FOLDER.glob("*.cpp")))
    digest = runpy.run_path(str(_FOLDER / "sources.py"))["digest"]()
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=_FOLDER) as folder:
        library = Path(folder, build.path.name)
        objects = [f"{Path(source).stem}.o" for source in sources]
        for command in (
            [*_FLAGS, *build.flags, f"-DLEXIMIND_SOURCES={digest}u", "-c", *sources],
            ["-shared", *objects, "-lm", "-o", library.name],
        ):
            done = subprocess.run([compiler, *command], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                return done.stderr
        library.replace(build.path)
    return None


if __name__ == "__main__":
    found, said = compile_all(*sys.argv[1:2])
    print(said)  # noqa: T201
    sys.exit(not found)
