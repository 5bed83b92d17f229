"""Cross-entropy over a large vocabulary without what costs most: float32 copies of all logits.

Knows states, a matrix and labels; which states count is for the caller to choose.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels.gradients import cross_entropy_, have_kernel

# At a time: 8 MB of float32 over 32 k pieces, which stays in a processor's cache; a GPU wants few large products.
_ROWS = {"cpu": 64, "cuda": 2048}
_UNIT = 1024.0  # a power of two, so that it costs no bit: float16 has no numbers for probabilities below 6e-8


def linear_cross_entropy(states: Tensor, weight: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean of `F.cross_entropy(states @ weightᵀ, labels, label_smoothing=smoothing)` over N rows, at least one.

    `states` (N, D), `weight` (V, D), `labels` (N,). The products are in autocast's dtype, the rest in float32. Kept
    for the backward pass is (N, V) in that dtype, the gradient itself, where the plain form keeps ten bytes a logit.
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    loss: Tensor = _LinearCrossEntropy.apply(states.to(dtype), weight.to(dtype), labels, smoothing)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            kept = F.linear(states, weight)  # logits, in place of which the gradients come
            if kept.device.type == "cpu" and have_kernel(kept.dtype):
                loss = cross_entropy_(kept, labels, smoothing, _UNIT).sum()
            else:
                loss = _by_parts(kept, labels, smoothing)
        ctx.save_for_backward(states, weight, kept)
        return loss / len(labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        states, weight, kept = ctx.saved_tensors
        scale = grad / (_UNIT * len(kept))
        into_states = ((kept @ weight).float() * scale).to(states.dtype)
        into_weight = kept.T @ (states.float() * scale).to(states.dtype) if ctx.needs_input_grad[1] else None
        return into_states, into_weight, None, None


def _by_parts(kept: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Sum of the losses of logits `kept` (N, V), in place of which come their gradients times `_UNIT`."""
    size, step = kept.shape[1], _ROWS.get(kept.device.type, 1024)
    losses = []
    for rows, truth in zip(kept.split(step), labels.split(step), strict=True):
        log_odds = torch.log_softmax(rows.float(), dim=-1)
        likely = log_odds.gather(1, truth[:, None])
        loss = likely.sum() * (smoothing - 1)
        if smoothing:
            loss -= log_odds.sum() * (smoothing / size)
        losses.append(loss)
        gradient = log_odds.exp_()
        if smoothing:
            gradient -= smoothing / size
        gradient.scatter_add_(1, truth[:, None], torch.full_like(likely, smoothing - 1))
        rows.copy_(gradient.mul_(_UNIT))
    return torch.stack(losses).sum()
