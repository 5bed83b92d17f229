"""The compiled kernels: which build this processor runs, and what its functions take."""

import ctypes
import logging
import os
from contextlib import suppress
from ctypes import POINTER, c_float, c_int64, c_uint32, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from model.errors import ModelError
from model.kernels.builds import AUTO, BUILDS, MACHINES, NONE, Build, builds_for, is_for_this_machine, this_machine
from model.kernels.sources import digest
from model.kernels.structs import Cache, Decoder, Encoder, Linear, Shape

logger = logging.getLogger(__name__)

STAGES = ("conversions", "attention matrices", "self-attention", "cross-attention", "feed-forward", "output matrix")
COLUMNS = 32  # outputs of a weight block; every row of numbers is padded to a multiple of it
MAX_HEAD_WIDTH = 128

_REINSTALL = (
    "install g++ and then leximind again (pip install --force-reinstall --no-deps), or a wheel that has them; "
    "a CPU then decodes several times faster"
)

_choice = AUTO


@dataclass(frozen=True)
class Absence:
    """Why no build computes; `remedy` is what to do about it, empty where nothing is wrong."""

    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


def choose(name: str) -> None:
    """Have the build `name` compute from now on: `auto` for the fastest that the processor runs, `none` for torch.

    Raises:
        ModelError: the processor lacks instructions of that build, or it was not compiled.
    """
    global _choice
    if name == _choice:
        return
    for build in BUILDS:
        if build.name == name and (lacking := lacking_features(build)):
            raise ModelError(f"kernels is {name}, and this processor lacks {', '.join(lacking)}; use auto")
        if build.name == name and not build.path.exists():
            raise ModelError(f"kernels is {name}, which was not compiled at installation; use auto")
    _choice = name
    _loaded.cache_clear()


def is_available() -> bool:
    """Whether the kernels compute here: every build does so in all precisions."""
    return library() is not None


def has_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 and computes by them, or is faster without them."""
    build = chosen_build()
    return build is not None and (
        build.has_bfloat16
        or (_choice == AUTO and any(one.has_bfloat16 and not lacking_features(one) for one in BUILDS))
    )


def lacking_features(build: Build) -> list[str]:
    """What `build` needs and this processor has not."""
    found = torch.cpu.get_capabilities()
    return [feature for feature in build.features if not found.get(feature, False)]


def chosen_build() -> Build | None:
    """That of `library`."""
    return _loaded()[0]


def chosen_name() -> str:
    """Of that build; `none` where torch computes."""
    build = chosen_build()
    return NONE if build is None else build.name


def absence() -> Absence | None:
    """Why there is no `library`; None where there is one."""
    if library() is not None:
        return None
    if _choice == NONE:
        return Absence("as asked for: torch computes, more slowly")
    if not is_for_this_machine():
        return Absence(f"they are for {MACHINES}: torch computes, more slowly")
    if not (compiled := [build for build in BUILDS if build.path.exists()]):
        return Absence("not compiled: there was no C++ compiler at installation", _REINSTALL)
    if lacking := lacking_features(builds_for(this_machine())[-1]):
        return Absence(f"this processor lacks {', '.join(lacking)}: torch computes, more slowly")
    files = ", ".join(build.path.name for build in compiled)
    return Absence(f"{files}: none can be loaded here; of another machine or version", _REINSTALL)


def library() -> ctypes.CDLL | None:
    """The kernels; torch's own OpenMP threads run them. None where there are none.

    Their absence costs speed, never an answer.
    """
    return _loaded()[1]


def loaded_library() -> ctypes.CDLL:
    """The kernels, of which the caller knows that they are there (`is_available`)."""
    loaded = library()
    assert loaded is not None, "the caller asks is_available first"
    return loaded


@cache
def _loaded() -> tuple[Build, ctypes.CDLL] | tuple[None, None]:
    # The first that loads of those that the processor runs, those last that are slow on it.
    found = torch.cpu.get_capabilities()
    for build in sorted(BUILDS, key=lambda one: bool(one.slow_with and found.get(one.slow_with))):
        if _choice not in (AUTO, build.name) or not build.path.exists() or lacking_features(build):
            continue
        try:
            _share_openmp()
            loaded = ctypes.CDLL(str(build.path))
            _check_sources(loaded, build)
            return build, _declare(loaded)
        except (OSError, AttributeError) as error:  # of another machine, or of another version
            logger.warning("the native kernels cannot be used, all will be slower; install again: %s", error)
    if _choice == AUTO and is_for_this_machine() and not any(build.path.exists() for build in BUILDS):
        logger.warning("the native kernels were not compiled, all will be slower; leximind doctor has the remedy")
    return None, None


def _share_openmp() -> None:
    # The kernels name no library that has OpenMP's functions, and find those of the one that torch has loaded: on some
    # machines it did so for itself alone. It is never loaded here, or a second one would have threads of its own.
    packages = Path(torch.__file__).parents[1]
    for name in (*map(str, packages.glob("torch.libs/libgomp*")), "libgomp.so.1"):
        with suppress(OSError):
            ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_GLOBAL)
            return


def _check_sources(loaded: ctypes.CDLL, build: Build) -> None:
    # Kernels that take other arguments than they are given answer with whatever they find there.
    loaded.leximind_sources.restype = c_uint32
    if digest() not in (None, loaded.leximind_sources()):
        raise OSError(f"{build.path.name} was compiled from other sources than those beside it")


def _declare(loaded: ctypes.CDLL) -> ctypes.CDLL:
    p, n = c_void_p, c_int64
    loaded.leximind_encode.argtypes = (POINTER(Encoder), p, n, p, p, p, n, n)
    loaded.leximind_project.argtypes = (POINTER(Shape), POINTER(Linear), n, p, n, p, p, p, p, n, n, n, n)
    loaded.leximind_decoder_step.argtypes = (POINTER(Decoder), POINTER(Cache), n, p, p, n)
    loaded.leximind_stages.argtypes = (c_int64 * len(STAGES),)
    loaded.leximind_normalise.argtypes = (n, p, p, p, p, n, n, c_float, n)
    loaded.leximind_normalise_gradient.argtypes = (n, p, p, p, p, p, p, n, n, n)
    loaded.leximind_cross_entropy.argtypes = (n, p, p, p, n, n, c_float, c_float, n)
    loaded.leximind_attend.argtypes = (p,) * 10 + (n,) * 6
    loaded.leximind_attend_gradient.argtypes = (p,) * 13 + (n,) * 6
    loaded.leximind_gate.argtypes = (n, p, p, n, n, n)
    loaded.leximind_gate_gradient.argtypes = (n, p, p, p, n, n, n)
    for name in (
        *("encode", "project", "decoder_step", "stages"),
        *("normalise", "normalise_gradient", "gate", "gate_gradient", "cross_entropy", "attend"),
        "attend_gradient",
    ):
        getattr(loaded, f"leximind_{name}").restype = None
    return loaded


def stage_seconds() -> dict[str, float]:
    """Time of all steps so far by stage, waiting for the slowest thread included; empty without the kernels."""
    loaded = library()
    if loaded is None:
        return {}
    ns = (c_int64 * len(STAGES))()
    loaded.leximind_stages(ns)
    return {stage: 1e-9 * time for stage, time in zip(STAGES, ns, strict=True)}


if __name__ == "__main__":  # after an installation, of which pip shows no output
    print(f"native kernels: {chosen_name()} (none is several times slower; leximind doctor says why)")  # noqa: T201
