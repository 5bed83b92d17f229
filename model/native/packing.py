"""Matrices in the layout that the kernels read, in float32, bfloat16 or int8."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.native.library import COLUMNS, KINDS, Linear, Shape
from model.precision import Precision

_LEVELS = 127
_ZERO = 128
_GROUPS: dict[Precision, int] = {"float32": 1, "bfloat16": 2, "int8": 4}


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


def pack_matrix(weight: Tensor, precision: Precision) -> PackedMatrix:
    """`weight` (out, in) in blocks; in int8 rounded to 255 levels, one scale an output."""
    out_features, in_features = weight.shape
    group = _GROUPS[precision]
    padded = F.pad(weight.detach(), (0, -in_features % group, 0, -out_features % COLUMNS))
    scales, sums = torch.empty(0), torch.empty(0, dtype=torch.int32)
    if precision == "int8":
        wide = padded.float()
        scales = wide.abs().amax(1).clamp_(min=1e-12) / _LEVELS  # (out,)
        padded = (wide / scales[:, None]).round_().to(torch.int8)
        sums = padded.sum(1, dtype=torch.int32) * _ZERO
    else:
        padded = padded.to(torch.float32 if precision == "float32" else torch.bfloat16)
    blocks = padded.view(-1, COLUMNS, padded.shape[1] // group, group).transpose(1, 2).contiguous()
    return PackedMatrix(blocks, scales, sums, in_features, out_features)


def interleave_gates(weight: Tensor) -> Tensor:
    """Rows of a fused gate and value matrix (2·F, D) as 16 gates, their 16 values, and so on, F padded to that."""
    half = COLUMNS // 2
    gate, value = (F.pad(part, (0, 0, 0, -len(part) % half)).unflatten(0, (-1, half)) for part in weight.chunk(2))
    return torch.stack([gate, value], dim=1).flatten(0, 2)


class Packer:
    """Weights as the kernels' structs point to them; it must live as long as the structs."""

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self._kept: list[Tensor | PackedMatrix] = []

    @property
    def num_bytes(self) -> int:
        """Of all matrices and vectors held."""
        matrices = [kept.blocks if isinstance(kept, PackedMatrix) else kept for kept in self._kept]
        return sum(tensor.nbytes for tensor in matrices)

    def vector(self, values: Tensor) -> int:
        """Address of a float32 copy."""
        kept = values.detach().float().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()

    def matrix(self, weight: Tensor) -> Linear:
        """A packed copy of `weight` (out, in)."""
        kept = pack_matrix(weight, self._precision)
        self._kept.append(kept)
        return kept.as_struct()


def take_layers(layers: nn.ModuleList) -> Iterator[nn.Module]:
    """The layers in order; the list gives them up, so that one that is packed frees its memory before the next."""
    while layers:
        yield layers.pop(0)


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
