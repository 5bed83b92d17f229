"""Matrices in the layout that the kernels read, in float32, bfloat16 or int8."""

import math
import mmap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.kernels.library import COLUMNS, KINDS, Linear, Shape
from model.precision import Precision

_LEVELS = 127
_ZERO = 128
_NUMBERS_AT_ONCE = 2**18  # small, so that the heap finds room for them anew each time
_MAPPED_AT_ONCE = 2**25
_CACHE_LINE = 64
_LAYOUTS: dict[Precision, tuple[int, torch.dtype]] = {  # inputs that lie side by side, and what they are
    "float32": (1, torch.float32),
    "bfloat16": (2, torch.bfloat16),
    "int8": (4, torch.int8),
}


@dataclass(frozen=True)
class PackedMatrix:
    """A matrix (out, in) in blocks; keeps alive what `as_struct` points to."""

    blocks: Tensor  # (ceil(out / 32), ceil(in / g), 32, g)
    scales: Tensor  # (out, up to the next 32) float32; int8 only
    sums: Tensor  # 128 times the sum of each output's levels, int32; int8 only
    in_features: int
    out_features: int

    def as_struct(self) -> Linear:
        """The matrix as the kernels take it."""
        pointers = (self.blocks.data_ptr(), self.scales.data_ptr(), self.sums.data_ptr())
        return Linear(*pointers, self.in_features, self.out_features)


def pack_matrix(weight: Tensor, order: Tensor, precision: Precision, memory: "Memory") -> PackedMatrix:
    """The rows `order` of `weight` (out, in) in blocks, -1 for zeros; in int8 of 255 levels, one scale an output."""
    group, dtype = _LAYOUTS[precision]
    out_features, in_features = len(order), weight.shape[1]
    num_blocks, num_groups = -(-out_features // COLUMNS), -(-in_features // group)
    num_scales = num_blocks * COLUMNS if precision == "int8" else 0
    blocks = memory.take(dtype, num_blocks, num_groups, COLUMNS, group)
    scales, sums = memory.take(torch.float32, num_scales), memory.take(torch.int32, num_scales)
    order = F.pad(order, (0, -out_features % COLUMNS), value=-1).unflatten(0, (-1, COLUMNS))
    at_once = max(1, _NUMBERS_AT_ONCE // (COLUMNS * in_features))
    for start in range(0, num_blocks, at_once):
        outs = order[start : start + at_once].flatten()
        rows = weight.detach()[outs.clamp(min=0)].masked_fill_(outs[:, None] < 0, 0.0)
        rows = F.pad(rows, (0, -in_features % group))
        if precision == "int8":
            rows, place = rows.float(), slice(start * COLUMNS, start * COLUMNS + len(outs))
            scales[place] = rows.abs().amax(1).clamp_(min=1e-12) / _LEVELS
            rows = (rows / scales[place, None]).round_()
            sums[place] = rows.sum(1).int() * _ZERO
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

    def take(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """An uninitialised tensor that begins at a cache line."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if not num_bytes:
            return torch.empty(shape, dtype=dtype)
        if len(self._free) < num_bytes:
            pages = mmap.mmap(-1, max(num_bytes, _MAPPED_AT_ONCE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with suppress(AttributeError, OSError):  # a system without them
                pages.madvise(mmap.MADV_HUGEPAGE)
            self._free = torch.frombuffer(pages, dtype=torch.uint8)
        taken, self._free = self._free[:num_bytes], self._free[-(-num_bytes // _CACHE_LINE) * _CACHE_LINE :]
        return taken.view(dtype).view(shape)


class Packer:
    """Weights as the kernels' structs point to them; it must live as long as the structs."""

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self._memory = Memory()
        self._kept: list[Tensor | PackedMatrix] = []

    @property
    def num_bytes(self) -> int:
        """Of all matrices and vectors held."""
        matrices = [kept.blocks if isinstance(kept, PackedMatrix) else kept for kept in self._kept]
        return sum(tensor.nbytes for tensor in matrices)

    def vector(self, values: Tensor) -> int:
        """Address of a float32 copy."""
        kept = self._memory.take(torch.float32, *values.shape)
        kept.copy_(values.detach())
        self._kept.append(kept)
        return kept.data_ptr()

    def matrix(self, weight: Tensor, order: Tensor | None = None) -> Linear:
        """A packed copy of `weight` (out, in), of its rows in `order`."""
        order = torch.arange(len(weight)) if order is None else order
        kept = pack_matrix(weight, order, self._precision, self._memory)
        self._kept.append(kept)
        return kept.as_struct()


def take_layers(layers: nn.ModuleList, fill: Callable[[nn.Module], None]) -> Iterator[nn.Module]:
    """The layers in order, filled; the list gives them up, so that one that is packed frees its memory first."""
    while layers:
        layer = layers.pop(0)
        fill(layer)
        yield layer
        del layer


def shape_of(config: ModelConfig, precision: Precision) -> Shape:
    """Sizes as the kernels take them."""
    sizes = (config.d_model, config.num_heads, config.d_kv, config.d_ff)
    return Shape(KINDS[precision], *sizes, config.layer_norm_epsilon)


def padded(width: int) -> int:
    """Numbers that a row of `width` takes in the kernels' arrays."""
    return -(-width // COLUMNS) * COLUMNS


def padded_rows(x: Tensor) -> Tensor:
    """A float32 copy of `x` (R, D) with D padded."""
    rows = torch.zeros(len(x), padded(x.shape[1]))
    rows[:, : x.shape[1]] = x
    return rows
