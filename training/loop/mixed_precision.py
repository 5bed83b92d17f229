"""How exactly a run computes: autocast, gradient scaling where half precision needs it, recomputed layers."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from model.network.attention import avoid_cudnn_attention
from model.network.leximind import LexiMind
from training.errors import TrainingError
from training.optimization.optimizers import Optimizers

if TYPE_CHECKING:  # it runs without pydantic, too
    from training.config import LoopConfig

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class MixedPrecision:
    """Autocast and scaling of one run."""

    def __init__(self, loop: "LoopConfig", device: torch.device) -> None:
        if loop.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise TrainingError("loop.precision is bf16, which this GPU lacks; use fp16 or fp32")
        avoid_cudnn_attention()
        torch.set_float32_matmul_precision("high" if loop.tf32 else "highest")
        self._device, self._dtype = device.type, _DTYPES[loop.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=loop.precision == "fp16")

    def autocast(self) -> torch.autocast:
        """Around the forward pass."""
        return torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32)

    def backward(self, loss: Tensor) -> None:
        """Gradients of `loss`, scaled."""
        self.scaler.scale(loss).backward()

    def clip(self, optimizers: Optimizers, parameters: Sequence[nn.Parameter], limit: float) -> float:
        """Unscale and clip the gradients; returns their norm before clipping."""
        for part in optimizers.parts:
            self.scaler.unscale_(part)
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def step(self, optimizers: Optimizers) -> None:
        """Step every optimizer; with scaling, one whose gradients overflowed is left out and the scale falls."""
        for part in optimizers.parts:
            self.scaler.step(part)
        self.scaler.update()


def compile_layers(model: LexiMind) -> None:
    """Layer by layer: equal layers share one compilation, which takes a third of the time of the whole graph."""
    torch._dynamo.config.cache_size_limit = 64
    for layer in _layers(model):
        layer.compile(dynamic=False)


def checkpoint_layers(model: LexiMind) -> None:
    """Keep only the inputs of each layer for the backward pass and compute the rest again."""
    for layer in _layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def _layers(model: LexiMind) -> list[nn.Module]:
    return [*model.encoder.layers, *model.decoder.layers]
