"""In which numbers a loaded network computes, and its weights in the layout that the processor multiplies fastest.

`float32` is exact: the same tokens alone, batched or joined mid-flight. `bfloat16` halves the bytes that a decode
step reads. `int8` (CPU) quarters them: weights with one scale an output channel, activations with one scale a row,
products summed in int32. A row's sums are whole numbers that do not depend on what else is in the batch, and all
between the matrices stays float32, so that tokens are those of the row alone here too.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from model.leximind import LexiMind

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_LEVELS = 127
_ZERO = 128  # oneDNN has fast kernels for unsigned activations only: with signed ones a row takes 100 times as long


def computing_dtype(precision: Precision) -> torch.dtype:
    """What activations, embeddings and the cache are held in."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def pack(model: LexiMind, precision: Precision) -> None:
    """Bring the matrices of `model`, in evaluation mode on a CPU, into the layout for `precision`, in place.

    Each packed matrix takes the plain one's place; the result computes but can be neither trained nor saved. One base
    decoder layer at 1 / 8 / 32 rows on one core with AVX512-BF16 and VNNI: 2.6 / 2.9 / 4.7 ms with plain bfloat16
    matrices, 1.7 / 1.8 / 3.5 ms packed, 1.2 / 1.3 / 2.5 ms in int8, quantizing the activations included.
    """
    if precision == "float32" or model.device.type != "cpu":
        return
    layer = Int8Linear if precision == "int8" else PackedLinear
    for stack in (model.encoder, model.decoder):
        for parent in list(stack.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, layer(child.weight))
    if precision == "int8":
        model.packed_lm_head = Int8Linear(model.lm_head_weight)
        if not model.config.tie_lm_head:
            del model.lm_head


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
