"""The two position-free layers of T5 v1.1: RMS normalisation and the gated feed-forward."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.kernels import gradients
from model.kernels.gradients import have_kernel, trains_on_cpu


class RMSNorm(nn.Module):
    """Scale by the root mean square of the last dimension: no mean, no bias (Zhang and Sennrich 2019).

    The variance is computed in float32 whatever the dtype; T5 loses its way in half precision otherwise.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that ends in the width; same shape and dtype out."""
        if trains_on_cpu(x):
            out: Tensor = _Normalise.apply(x, self.weight, self.epsilon)  # type: ignore[no-untyped-call]
            return out
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (wide * scale).to(self.weight.dtype)


class FeedForward(nn.Module):
    """`wo(gelu_tanh(gate) * value)` (Shazeer 2020, GEGLU) with `gate` and `value` from one fused projection.

    FLAN-T5's `gelu_new` is the tanh form of GELU; the exact form differs by up to 5e-4 and breaks parity.
    """

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.wi = nn.Linear(d_model, 2 * d_ff, bias=False)  # rows: wi_0 (gate), then wi_1 (value)
        self.wo = nn.Linear(d_ff, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) to (…, D)."""
        gate_and_value = self.wi(x)
        if trains_on_cpu(gate_and_value):
            gated = _Gate.apply(gate_and_value)  # type: ignore[no-untyped-call]
        else:
            gate, value = gate_and_value.chunk(2, dim=-1)
            gated = F.gelu(gate, approximate="tanh") * value
        out: Tensor = self.wo(self.dropout(gated))
        return out


class _Normalise(torch.autograd.Function):
    # The same function in fewer passes over memory, float32 throughout; the sum of squares adds up in another order.
    # Under autocast the result is in its dtype, in which alone the matrices after it read it.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        ctx.by_kernel = have_kernel(dtype) and x.dtype == weight.dtype == torch.float32
        if ctx.by_kernel:
            out, scale = gradients.normalise(x, weight, epsilon, dtype)
        else:
            wide = x.float()
            mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
            scale = mean_square.add_(epsilon).rsqrt_()
            out = (wide * scale).mul_(weight).to(dtype)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        if ctx.by_kernel:
            return *gradients.normalise_gradient(x, weight, scale, grad), None
        wide, grad, rows = x.float(), grad.float(), scale.flatten()
        product = (grad * wide).flatten(0, -2)
        along = (product @ weight.float()).mul_(rows**3).div_(x.shape[-1]).view_as(scale)
        into_x = (grad * weight).mul_(scale).addcmul_(wide, along, value=-1)
        into_weight = (rows @ product).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return into_x.to(x.dtype), into_weight, None


class _Gate(torch.autograd.Function):
    # The gradients of gate and value are written where the matrix product reads them, instead of put together.
    @staticmethod
    def forward(ctx: Any, gate_and_value: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_value)
        if have_kernel(gate_and_value.dtype):
            return gradients.gate(gate_and_value)
        gate, value = gate_and_value.chunk(2, dim=-1)
        return F.gelu(gate, approximate="tanh") * value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        [gate_and_value] = ctx.saved_tensors
        if have_kernel(gate_and_value.dtype):
            return gradients.gate_gradient(gate_and_value, grad)
        gate, value = gate_and_value.chunk(2, dim=-1)
        into = torch.empty_like(gate_and_value)
        into_gate, into_value = into.chunk(2, dim=-1)
        torch.mul(grad, F.gelu(gate, approximate="tanh"), out=into_value)
        torch.ops.aten.gelu_backward.grad_input(grad * value, gate, approximate="tanh", grad_input=into_gate)
        return into
