"""What this machine gives the model, what the model is, and what to do about what is wrong.

Every check is a function of the settings that yields findings; none changes anything.
"""

import difflib
import errno
import importlib.metadata
import math
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from app.cores import usable_cores
from app.memory import available_bytes
from app.service import Service
from app.settings import Settings, unknown_variables
from app.text_request import TextRequest
from app.version import VERSION
from model.choices import PRECISIONS
from model.devices import device_named
from model.errors import DeviceError, ModelError
from model.kernels.builds import BUILDS
from model.kernels.formats import FORMATS
from model.kernels.library import absence, choose, chosen_build
from model.storage.checkpoint import default_precision, is_computable
from model.storage.stored_weights import StoredWeights

State = Literal["ok", "warning", "failure"]

_PACKAGES = ("torch", "numpy", "safetensors", "sentencepiece", "fastapi", "uvicorn", "pydantic", "typer", "pyarrow")
_NVIDIA = (Path("/dev/nvidiactl"), Path("/dev/dxg"))  # of its driver; the second under WSL
_CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
_BASE_BYTES = 400 * 2**20  # of the process without weights (benchmarks/README.md, startup)
_WEIGHTS_FACTOR = 1.2  # resident at most over the numbers alone (the same table)
_TEXT = "The council voted on Tuesday to build a new bridge over the river. Engineers said that the old one is weak."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is what to do unless it is ok."""

    name: str
    state: State
    value: str
    remedy: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def machine_findings(settings: Settings) -> list[Finding]:
    """What is found without loading the checkpoint."""
    checks: tuple[Check, ...] = (_versions, _variables, _device, _kernels, _formats, _threads, _memory, _port)
    return [finding for check in checks for finding in check(settings)]


async def checkpoint_findings(service: Service) -> list[Finding]:
    """What is found with the checkpoint: whether it loads and answers."""
    started_at = time.perf_counter()
    await service.load()
    seconds = time.perf_counter() - started_at
    folder = service.settings.checkpoint
    if service.failure is not None:
        remedy = "mend what is above, name another by --checkpoint, or write this one again (import, training)"
        return [Finding("checkpoint", "failure", service.failure, remedy)]
    deployment = service.deployment
    checkpoint = deployment.checkpoint
    facts = f"{deployment.id} in {folder}: {checkpoint.num_parameters:,} parameters, all files as they were written"
    findings = [
        Finding("checkpoint", "ok", f"{facts}, loaded in {seconds:.1f} s"),
        Finding("terms", "ok", checkpoint.terms),
        Finding("tasks", "ok", ", ".join(checkpoint.tasks.names)),
    ]
    started_at = time.perf_counter()
    try:
        plans = await deployment.documents.plan([_TEXT], TextRequest(checkpoint.tasks.names), math.inf)
        await deployment.documents.run(plans)
    except Exception as error:  # whatever it is, it is what the command is for
        return [*findings, Finding("answer", "failure", f"{type(error).__name__}: {error}", "report it with this list")]
    backend = checkpoint.backend
    value = f"all tasks of a short text in {1000 * (time.perf_counter() - started_at):.0f} ms ({backend.precision}"
    return [*findings, Finding("answer", "ok", f"{value} on {backend.device})")]


def _versions(_: Settings) -> Iterator[Finding]:
    yield Finding("leximind", "ok", f"{VERSION}, in {Path(__file__).parents[1]}")
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable}) on {platform.platform()}")
    found = {name: _version(name) for name in _PACKAGES}
    yield Finding("packages", "ok", ", ".join(f"{name} {version or '-'}" for name, version in found.items()))
    if found["pyarrow"] is None:
        remedy = "only leximind bulk on Parquet needs it: pip install 'leximind[parquet]'"
        yield Finding("pyarrow", "ok", f"not installed; {remedy}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _variables(_: Settings) -> Iterator[Finding]:
    known = [f"LEXIMIND_{name.upper()}" for name in Settings.model_fields]
    for variable in unknown_variables():
        near = difflib.get_close_matches(variable.upper(), known, 1)
        remedy = f"did you mean {near[0]}?" if near else "unset it; leximind serve --help lists the settings"
        yield Finding("environment", "warning", f"{variable} is no setting and has no effect", remedy)


def _device(settings: Settings) -> Iterator[Finding]:
    has_driver = any(path.exists() for path in _NVIDIA)
    built_for = torch.version.cuda
    try:
        device = device_named(settings.device)
    except DeviceError as error:
        yield Finding("device", "failure", str(error), "use --device auto, or see the lines on CUDA")
        device = torch.device("cpu")
    else:
        yield Finding("device", "ok", f"{device} ({settings.device}): {_named(device)}")
    if has_driver and built_for is None:
        remedy = f"install one with CUDA: pip install --force-reinstall --index-url {_CUDA_INDEX} torch"
        yield Finding("cuda", "warning", "an NVIDIA device is here, but this torch is built for CPUs", remedy)
    elif has_driver and not torch.cuda.is_available():
        remedy = f"nvidia-smi shows the driver's version; torch needs one for CUDA {built_for}: update it"
        yield Finding("cuda", "warning", f"an NVIDIA device is here that CUDA {built_for} cannot use", remedy)


def _named(device: torch.device) -> str:
    if device.type != "cuda":
        return _processor()
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return f"{properties.name}, {_gib(free)} of {_gib(total)} free, CUDA {torch.version.cuda}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    wide = [
        name for name, has in torch.cpu.get_capabilities().items() if has is True and name.startswith(("avx", "amx"))
    ]
    return f"{names[0] if names else platform.machine()} with {', '.join(sorted(wide)) or 'no AVX'}"


def _kernels(settings: Settings) -> Iterator[Finding]:
    try:
        choose(settings.kernels)
    except ModelError as error:
        yield Finding("kernels", "failure", str(error), "use --kernels auto")
        return
    if (build := chosen_build()) is not None:
        compiled = ", ".join(one.name for one in BUILDS if one.machine == build.machine and one.path.exists())
        yield Finding("kernels", "ok", f"{build.name} computes, of {compiled}")
    elif (absent := absence()) is not None:
        yield Finding("kernels", "warning" if absent.remedy else "ok", f"none, {absent.reason}", absent.remedy)


def _formats(settings: Settings) -> Iterator[Finding]:
    device = _device_of(settings)
    usable = [one for one in PRECISIONS if is_computable(one, device)]
    value = f"{', '.join(usable)}; auto is {default_precision(device)}, and {settings.dtype} is asked for"
    if settings.dtype in ("auto", *usable):
        yield Finding("number formats", "ok", value)
    else:
        yield Finding("number formats", "failure", value, f"use --dtype auto or {usable[-1]}")


def _device_of(settings: Settings) -> torch.device:
    """The CPU where the one that is asked for is missing."""
    try:
        return device_named(settings.device)
    except DeviceError:
        return torch.device("cpu")


def _threads(settings: Settings) -> Iterator[Finding]:
    cores, processors = usable_cores(), os.cpu_count() or 1
    wanted = settings.threads or torch.get_num_threads()
    value = f"{min(wanted, cores)} of {cores} cores that affinity and CPU quota allow ({processors} processors)"
    if settings.threads > cores:
        remedy = f"--threads {cores} or fewer; more than the quota is never used"
        yield Finding("threads", "warning", f"{settings.threads} are asked for; {value}", remedy)
    elif wanted < cores:
        remedy = f"--threads 0 and no OMP_NUM_THREADS use all {cores}, if nothing else needs them"
        yield Finding("threads", "ok" if settings.threads else "warning", value, "" if settings.threads else remedy)
    else:
        yield Finding("threads", "ok", value)
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > processors:
        remedy = "other programs compete for them: answers and figures are slower meanwhile"
        yield Finding("load", "warning", f"{load:.1f} in the last minute on {processors} processors", remedy)


def _memory(settings: Settings) -> Iterator[Finding]:
    remedy = "--dtype int8 (on a CPU), a smaller checkpoint, or more memory"
    needed, on_gpu = _weights_bytes(settings), _device_of(settings).type == "cuda"
    if on_gpu:
        free, total = torch.cuda.mem_get_info(device_named(settings.device))
        value = f"{_gib(free)} of {_gib(total)} free, about {_gib(needed)} needed for weights"
        is_enough = needed <= free
        yield Finding("GPU memory", "ok" if is_enough else "failure", value, "" if is_enough else remedy)
    if (available := available_bytes()) is not None:
        needed = _BASE_BYTES + (0 if on_gpu else needed)
        value = f"{_gib(available)} available, about {_gib(needed)} needed"
        is_enough = needed <= available
        yield Finding("memory", "ok" if is_enough else "failure", value, "" if is_enough else remedy)


def _weights_bytes(settings: Settings) -> int:
    """Of the loaded checkpoint; 0 where its files cannot be read, which its own check says."""
    try:
        weights = StoredWeights([settings.checkpoint / "model.safetensors"], str)
    except (ModelError, OSError):
        return 0
    precision = default_precision(_device_of(settings)) if settings.dtype == "auto" else settings.dtype
    return int(
        _WEIGHTS_FACTOR * FORMATS[precision].dtype.itemsize * sum(math.prod(shape) for shape in weights.shapes.values())
    )


def _port(settings: Settings) -> Iterator[Finding]:
    if not settings.port:
        return
    where = f"{settings.host}:{settings.port}"
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        remedy = "another process listens there: end it, or leximind serve --port 8001" if is_taken else "set --host"
        yield Finding("address", "warning", f"{where}: {error.strerror or error}", remedy)
    else:
        yield Finding("address", "ok", f"{where} is free for leximind serve")


def _gib(number: float) -> str:
    return f"{number / 2**30:.1f} GiB"
