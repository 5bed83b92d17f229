"""Tensors where they lie, in safetensors files: known by name and shape at once, read one at a time."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import CheckpointError

_MAX_HEADER_BYTES = 4 * 2**20  # of 40,000 tensors; FLAN-T5 XXL has 60 kB
_DTYPES = ("F64", "F32", "F16", "BF16")


class StoredWeights(Mapping[str, Tensor]):
    """Every tensor of some safetensors files by its name.

    Asking for one gives a view of its file in its dtype; the file must not be written to as long as that is kept. What
    `read` gives has memory of its own. Nothing is kept here. `rename` gives the name that a tensor of the files is
    known by.

    Raises:
        CheckpointError: a file that is missing, damaged, not safetensors (a pickle, say) or quantised, or has more
            names than any model; when a tensor is read, one that holds NaN or infinity.
    """

    def __init__(self, paths: list[Path], rename: Callable[[str], str] = str) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[Path, str]] = {}  # the file, and what it calls the tensor
        for path in paths:
            _check_header(path)
            with _opened(path) as file:
                for stored in file.keys():  # noqa: SIM118
                    name, header = rename(stored), file.get_slice(stored)
                    if header.get_dtype() not in _DTYPES:
                        raise CheckpointError(
                            f"{path}: {name} is {header.get_dtype()}, no plain float; quantised weights are refused"
                        )
                    self.shapes[name] = tuple(header.get_shape())
                    self._places[name] = path, stored

    def __getitem__(self, name: str) -> Tensor:
        # Opened again each time: the pages of a mapping count as this process's memory until it is closed.
        path, stored = self._places[name]
        with _opened(path) as file:
            return _finite(path, name, file.get_tensor(stored))

    def read(self, name: str, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
        """A copy on `device`, in `dtype` if one is given."""
        return self[name].to(device=device, dtype=dtype, copy=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _check_header(path: Path) -> None:
    """A safetensors file starts with the length of its table of names, 8 bytes little-endian."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if _MAX_HEADER_BYTES < length <= path.stat().st_size:
            raise CheckpointError(
                f"{path}: its table of tensors has {length} bytes, at most {_MAX_HEADER_BYTES} are read; no T5 has more"
            )
    except OSError:  # reported by `_opened`
        return


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    # The extremes are NaN where anything is, and read 10 GB/s; `isfinite` reads 0.3.
    if tensor.numel() and not all(map(math.isfinite, map(float, torch.aminmax(tensor)))):
        raise CheckpointError(f"{path}: {name} holds NaN or infinity; train or fetch it again")
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; restore the file or the whole folder") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not readable as safetensors ({error}); pickled weights are refused, convert them first"
        ) from error
