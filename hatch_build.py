"""Compiles the native kernels when the package is built or installed; without a C++ compiler it does without them."""

import os
import platform
import runpy
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_TARGET = "model/kernels/kernels.so"
_FLAGS = (
    "-O3 -std=c++20 -fopenmp -fPIC -shared -fno-math-errno -Wall -Wextra -Wno-uninitialized -Wno-maybe-uninitialized "
    "-mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512bf16"
).split()


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """`CXX` names another compiler than g++."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and have the result packed with the wheel."""
        target = Path(self.root, _TARGET)
        sources = sorted(map(str, target.parent.glob("*.cpp")))
        digest = runpy.run_path(str(target.with_name("sources.py")))["digest"]()
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if platform.system() != "Linux" or platform.machine() != "x86_64" or compiler is None:
            target.unlink(missing_ok=True)
            self.app.display_warning("no C++ compiler for Linux on x86-64: a CPU will be slower")
            return
        command = [compiler, *_FLAGS, f"-DLEXIMIND_SOURCES={digest}u", *sources, "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            target.unlink(missing_ok=True)
            self.app.display_warning(f"the native kernels do not compile; a CPU will be slower:\n{done.stderr}")
            return
        build_data["artifacts"].append(_TARGET)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
