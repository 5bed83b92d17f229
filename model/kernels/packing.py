"""Matrices in the layout that the kernels read, in float32, bfloat16 or int8."""

import math
import mmap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.choices import Precision
from model.config import ModelConfig
from model.kernels.formats import FORMATS
from model.kernels.library import COLUMNS
from model.kernels.structs import Linear, Shape
from model.precision import INT8_ZERO

_NUMBERS_AT_ONCE = 2**18  # small, so that the heap reuses the same place each time
_MAPPED_AT_ONCE = 2**25
_CACHE_LINE = 64


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix (out, in) in blocks; keeps alive what `as_struct` points to."""

    blocks: Tensor  # (ceil(out / 32), ceil(in / g), 32, g)
    scales: Tensor  # (out, up to the next 32) float32; of a quantised matrix alone
    sums: Tensor  # 128 times the sum of each output's levels, int32; likewise
    in_features: int
    out_features: int

    def as_struct(self) -> Linear:
        """The matrix as the kernels take it."""
        return Linear(
            weight=self.blocks.data_ptr(),
            scales=self.scales.data_ptr(),
            sums=self.sums.data_ptr(),
            inputs=self.in_features,
            out=self.out_features,
        )


def pack_matrix(weight: Tensor, order: Tensor, precision: Precision, memory: "Memory") -> PackedMatrix:
    """The rows `order` of `weight` (out, in) in blocks, -1 for zeros; quantised as its format has it."""
    layout = FORMATS[precision]
    group = layout.group
    out_features, in_features = len(order), weight.shape[1]
    num_blocks, num_groups = -(-out_features // COLUMNS), -(-in_features // group)
    num_scales = num_blocks * COLUMNS if layout.quantise else 0
    blocks = memory.allocate(layout.dtype, num_blocks, num_groups, COLUMNS, group)
    scales, sums = memory.allocate(torch.float32, num_scales), memory.allocate(torch.int32, num_scales)
    order = F.pad(order, (0, -out_features % COLUMNS), value=-1).unflatten(0, (-1, COLUMNS))
    at_once = max(1, _NUMBERS_AT_ONCE // (COLUMNS * in_features))
    for start in range(0, num_blocks, at_once):
        outs = order[start : start + at_once].flatten()
        rows = weight.detach()[outs.clamp(min=0)].masked_fill_(outs[:, None] < 0, 0.0)
        rows = F.pad(rows, (0, -in_features % group))
        if layout.quantise:
            place = slice(start * COLUMNS, start * COLUMNS + len(outs))
            rows, scales[place] = layout.quantise(rows.float())
            sums[place] = rows.sum(1).int() * INT8_ZERO
        blocks[start : start + at_once] = rows.view(-1, COLUMNS, num_groups, group).transpose(1, 2)
    return PackedMatrix(blocks, scales, sums, in_features, out_features)


def gates_and_values(d_ff: int) -> Tensor:
    """Rows of a fused gate and value matrix (2·d_ff, D) as 16 gates, their 16 values, and so on, -1 past the last."""
    half = COLUMNS // 2
    gates = F.pad(torch.arange(d_ff), (0, -d_ff % half), value=-1).unflatten(0, (-1, half))
    return torch.stack([gates, (gates + d_ff).masked_fill(gates < 0, -1)], dim=1).flatten()


class Memory:
    """Room for what stays, apart from the heap: what is freed between two matrices would leave holes there.

    In large pages where the system grants them; what is not written to yet takes none.
    """

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def allocate(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """A tensor of zeros that begins at a cache line.

        Raises:
            MemoryError: there is not so much.
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        if not num_bytes:
            return torch.zeros(shape, dtype=dtype)
        if len(self._free) < num_bytes:
            size = max(num_bytes, _MAPPED_AT_ONCE)
            try:
                pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError as error:
                raise MemoryError(f"can't allocate memory: {size:,} bytes ({error.strerror})") from error
            with suppress(AttributeError, OSError):  # a system without them
                pages.madvise(mmap.MADV_HUGEPAGE)
            self._free = torch.frombuffer(pages, dtype=torch.uint8)
        taken, self._free = self._free[:num_bytes], self._free[-(-num_bytes // _CACHE_LINE) * _CACHE_LINE :]
        return taken.view(dtype).view(shape)


class Packer:
    """Packs tensors that are known by name, one at a time; `kept` must live as long as the structs made of them."""

    def __init__(self, weights: Mapping[str, Tensor], precision: Precision) -> None:
        self._weights, self._precision = weights, precision
        self._memory = Memory()
        self.kept: list[Tensor | PackedMatrix] = []

    def vector(self, values: str | Tensor) -> int:
        """Address of a float32 copy."""
        values = self._weights[values] if isinstance(values, str) else values
        kept = self._memory.allocate(torch.float32, *values.shape)
        kept.copy_(values.detach())
        self.kept.append(kept)
        return kept.data_ptr()

    def matrix(self, name: str, order: Tensor | None = None) -> Linear:
        """A packed copy of the matrix (out, in), of its rows in `order`."""
        weight = self._weights[name]
        order = torch.arange(len(weight)) if order is None else order
        kept = pack_matrix(weight, order, self._precision, self._memory)
        self.kept.append(kept)
        return kept.as_struct()


def num_bytes(kept: list[Tensor | PackedMatrix]) -> int:
    """Of all matrices and vectors."""
    return sum((one.blocks if isinstance(one, PackedMatrix) else one).nbytes for one in kept)


def shape_of(config: ModelConfig, precision: Precision) -> Shape:
    """Sizes as the kernels take them."""
    return Shape(
        kind=FORMATS[precision].kind,
        d_model=config.d_model,
        num_heads=config.num_heads,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        epsilon=config.layer_norm_epsilon,
    )


def padded(width: int) -> int:
    """Numbers that a row of `width` takes in the kernels' arrays."""
    return -(-width // COLUMNS) * COLUMNS


def padded_rows(x: Tensor) -> Tensor:
    """A float32 copy of `x` (R, D) with D padded."""
    rows = torch.zeros(len(x), padded(x.shape[1]))
    rows[:, : x.shape[1]] = x
    return rows
