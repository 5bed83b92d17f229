"""A loaded network's weights in the layout that the processor multiplies fastest."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.kernels.decoder import NativeDecoder
from model.kernels.encoder import NativeEncoder
from model.kernels.library import MAX_HEAD_WIDTH, is_available
from model.network.leximind import LexiMind
from model.precision import Precision

_LEVELS = 127
_ZERO = 128  # oneDNN has fast kernels for unsigned activations only: with signed ones a row takes 100 times as long


def pack(model: LexiMind, precision: Precision, fill: Callable[[nn.Module], None] = lambda _: None) -> None:
    """Bring the matrices of `model`, in evaluation mode on a CPU, into the layout for `precision`, in place.

    The result encodes and takes decoding steps, but can be neither trained nor saved nor called whole. Where the native
    kernels are available they take the place of both stacks, and `fill` is called with each of the model's
    `large_parts`, once, before it is read: until then its weights may be on the meta device. Elsewhere oneDNN's
    matrices take the plain ones'; on a GPU nothing is packed.
    """
    on_cpu = model.device.type == "cpu"
    if on_cpu and can_be_native(model.config, precision):
        _replace_stacks(model, precision, fill)
        return
    if on_cpu and precision != "float32":
        _pack_linears(model.encoder, precision)
        _pack_linears(model.decoder, precision)
    if precision == "int8":
        model.packed_lm_head = Int8Linear(model.lm_head_weight)
        if not model.config.tie_lm_head:
            del model.lm_head


def _replace_stacks(model: LexiMind, precision: Precision, fill: Callable[[nn.Module], None]) -> None:
    config = model.config
    if not config.tie_lm_head:
        fill(model.lm_head)
    model.native_decoder = NativeDecoder(model.decoder, model.lm_head_weight, config, precision, fill)
    del model.decoder
    if not config.tie_lm_head:
        del model.lm_head
    if precision != "float32":
        model.embedding.bfloat16()
    model.native_encoder = NativeEncoder(model.encoder, config, precision, fill)
    del model.encoder
    for parameter in model.parameters():  # positions and heads: between the matrices all is float32
        if parameter is not model.embedding.weight:
            parameter.data = parameter.data.float()


def can_be_native(config: ModelConfig, precision: Precision) -> bool:
    """Whether the native kernels compute such a network on this processor."""
    return is_available(precision) and config.d_kv <= MAX_HEAD_WIDTH


def can_pack_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 matrices on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack_linears(part: nn.Module, precision: Precision) -> None:
    kind = Int8Linear if precision == "int8" else PackedLinear
    for parent in list(part.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, kind(child.weight))


class PackedLinear(nn.Module):
    """`F.linear` without bias over a bfloat16 matrix (out, in) in oneDNN's blocked layout."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) bfloat16 to (…, out)."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return out


class Int8Linear(nn.Module):
    """`F.linear` without bias over a matrix (out, in) rounded to int8, one scale a row of it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        wide = weight.detach().float()
        self.scales = wide.abs().amax(1).clamp_(min=1e-12) / _LEVELS  # (out,)
        levels = (wide / self.scales[:, None]).round_().to(torch.int8)
        self.zeros = torch.zeros(len(levels), dtype=torch.int32)
        self.weight = torch.ops.onednn.qlinear_prepack(levels, None)
        self.out_features = len(levels)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out), dtype kept."""
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).float().clamp_(min=1e-12).div_(_LEVELS)
        levels = (rows / scale).round_().add_(_ZERO).to(torch.uint8)
        out: Any = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, _ZERO, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        result: Tensor = out.mul_(scale).to(x.dtype).unflatten(0, x.shape[:-1])
        return result
