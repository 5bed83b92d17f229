"""The network as torch computes it on a CPU, its matrices in oneDNN's blocked layout: bfloat16 or int8."""

from typing import Any

import torch
from torch import Tensor, nn

from model.choices import Precision
from model.inference.spelling import FREE, Spelling
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from model.precision import INT8_LEVELS, INT8_ZERO, int8_levels


class OneDnnBackend(TorchBackend):
    """`TorchBackend` on packed matrices."""

    def __init__(self, model: LexiMind, precision: Precision, spelling: Spelling = FREE) -> None:
        """`model` is the backend's from here on: its plain matrices are replaced one by one, so as not to be kept."""
        super().__init__(model, spelling)
        self._precision = precision
        for stack in (model.encoder, model.decoder):
            _pack_linears(stack, Int8Linear if precision == "int8" else PackedLinear)
        self.lm_head: nn.Module | None = None
        if precision == "int8":
            self.lm_head = Int8Linear(model.lm_head_weight)
            if not self.config.tie_lm_head:
                model.lm_head = self.lm_head  # type: ignore[assignment]

    @property
    def precision(self) -> Precision:
        """That of the packed matrices."""
        return self._precision

    def _logits(self, states: Tensor) -> Tensor:
        if self.lm_head is None:
            return super()._logits(states)
        logits: Tensor = self.lm_head(states)
        return logits


def can_pack_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 matrices on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack_linears(part: nn.Module, kind: type["PackedLinear | Int8Linear"]) -> None:
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
        levels, self.scales = int8_levels(weight.detach().float())  # (out, in), (out,)
        self.zeros = torch.zeros(len(levels), dtype=torch.int32)
        self.weight = torch.ops.onednn.qlinear_prepack(levels.to(torch.int8), None)
        self.out_features = len(levels)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out), dtype kept."""
        rows = x.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).float().clamp_(min=1e-12).div_(INT8_LEVELS)
        # oneDNN has fast kernels for unsigned activations only: with signed ones a row takes 100 times as long.
        levels = (rows / scale).round_().add_(INT8_ZERO).to(torch.uint8)
        out: Any = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, INT8_ZERO, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        result: Tensor = out.mul_(scale).to(x.dtype).unflatten(0, x.shape[:-1])
        return result
