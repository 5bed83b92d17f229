"""Which device a name means on this machine."""

import re

import torch

from model.choices import DEVICE_NAME
from model.errors import DeviceError

# In messages of torch's allocator for CPUs, of C++ and of cuBLAS, whose exceptions are plain RuntimeErrors.
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")


def device_named(name: str) -> torch.device:
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: none of these, or a GPU that this machine does not offer.
    """
    if not re.fullmatch(DEVICE_NAME, name):
        raise DeviceError(f"{name} is no device; it must be auto, cpu, cuda or cuda:N")
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if num_gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise DeviceError(f"{name}: this machine offers {num_gpus} CUDA devices; use cpu, auto or a lower number")
    return device


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory did not suffice, of a GPU or of this process; torch has an exception of its own for GPUs alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
