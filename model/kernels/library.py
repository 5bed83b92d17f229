"""The compiled kernels: where they are, whether this processor runs them, and what their functions take."""

import ctypes
import logging
from ctypes import POINTER, c_float, c_int64, c_uint32, c_void_p
from functools import cache
from pathlib import Path

import torch

from model.kernels.formats import FORMATS
from model.kernels.sources import digest
from model.kernels.structs import Cache, Decoder, Encoder, Linear, Shape
from model.precision import Precision

logger = logging.getLogger(__name__)

LIBRARY = Path(__file__).with_name("kernels.so")  # compiled by hatch_build.py when the package is installed
STAGES = ("conversions", "attention matrices", "self-attention", "cross-attention", "feed-forward", "output matrix")
COLUMNS = 32  # outputs of a weight block; every row of numbers is padded to a multiple of it
MAX_HEAD_WIDTH = 128

_COMMON = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16")  # caches are bfloat16 but in float32


def is_available(precision: Precision) -> bool:
    """Whether the kernels are compiled and this processor has the instructions for `precision`."""
    found = torch.cpu.get_capabilities()
    can_run = all(found.get(name, False) for name in (*_COMMON, FORMATS[precision].feature))
    return can_run and library() is not None


@cache
def library() -> ctypes.CDLL | None:
    """The kernels; torch's own OpenMP threads run them, since both ask for the same library. None where there are none.

    Their absence costs speed, never an answer.
    """
    if not LIBRARY.exists():
        logger.info("no native kernels: they are compiled where a C++ compiler was at hand at installation")
        return None
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        _check_sources(loaded)
        return _declare(loaded)
    except (OSError, AttributeError) as error:  # of another machine, or of another version
        logger.warning("the native kernels cannot be used, all will be slower; install again: %s", error)
        return None


def loaded_library() -> ctypes.CDLL:
    """The kernels, of which the caller knows that they are there (`is_available`)."""
    loaded = library()
    assert loaded is not None, "the caller asks is_available first"
    return loaded


def _check_sources(loaded: ctypes.CDLL) -> None:
    # Kernels that take other arguments than they are given answer with whatever they find there.
    loaded.leximind_sources.restype = c_uint32
    if digest() not in (None, loaded.leximind_sources()):
        raise OSError(f"{LIBRARY.name} was compiled from other sources than those beside it")


def _declare(loaded: ctypes.CDLL) -> ctypes.CDLL:
    p, n = c_void_p, c_int64
    loaded.leximind_encode.argtypes = (POINTER(Encoder), p, n, p, p, p, n, n)
    loaded.leximind_project.argtypes = (POINTER(Shape), POINTER(Linear), n, p, n, p, p, p, p, n, n, n)
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
