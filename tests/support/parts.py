"""Parts for `benchmarks.gpu.run`, which loads them in a process of its own."""

import os
import time

from benchmarks.gpu_parts import Setting


def works(setting: Setting) -> dict[str, str]:
    return {"device": setting.device}


def fails(setting: Setting) -> dict[str, str]:
    raise ValueError(f"not on {setting.device}")


def dies(setting: Setting) -> dict[str, str]:  # noqa: ARG001
    os._exit(7)


def lasts(setting: Setting) -> dict[str, str]:  # noqa: ARG001
    time.sleep(600)
    return {}
