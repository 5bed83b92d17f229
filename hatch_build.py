"""Compiles the native kernels when the package is built or installed; without a C++ compiler it does without them."""

import os
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """`CXX` names another GCC than g++; by a cross compiler the wheel is for its machine."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and have the results packed with the wheel."""
        builds = runpy.run_path(str(Path(self.root, "model/kernels/builds.py")))
        compiled, said = builds["compile_all"](os.environ.get("CXX", "g++"))
        self.app.display_info(said) if compiled else self.app.display_warning(said)
        if compiled:
            build_data["artifacts"] += [str(build.path.relative_to(self.root)) for build in compiled]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{compiled[0].machine}"
