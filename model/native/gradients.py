"""What training computes between its products of matrices: in one pass where eager operations take several."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from model.native.library import KINDS, is_available, library
from model.precision import Precision

_CHUNK = 64  # rows whose gradients of a norm's weight the kernel sums up
_DTYPES: dict[torch.dtype, Precision] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@cache
def have_kernel(*dtypes: torch.dtype) -> bool:
    """Whether this processor has kernels for numbers of all of `dtypes`."""
    return all(dtype in _DTYPES and is_available(_DTYPES[dtype]) for dtype in dtypes)


def normalise(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`RMSNorm` of `x` (…, D) float32: the result in `dtype`, and the scale of each row (R,)."""
    x, out = x.contiguous(), torch.empty(x.shape, dtype=dtype)
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    scales = torch.empty(rows)
    _call("normalise", dtype, x, weight.contiguous(), out, scales, rows, width, epsilon)
    return out, scales


def normalise_gradient(x: Tensor, weight: Tensor, scales: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `x` (…, D) and of the weight (D,), float32, from that of the result."""
    x, into_x = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, width = len(scales), x.shape[-1]
    into_weight = torch.empty(-(-rows // _CHUNK), width)
    grad, weight = grad.contiguous(), weight.contiguous()
    _call("normalise_gradient", grad.dtype, x, weight, scales, grad, into_x, into_weight, rows, width)
    return into_x, into_weight.sum(0)


def gate(gates_and_values: Tensor) -> Tensor:
    """`gelu_tanh(gate) * value` of (…, 2·F): (…, F)."""
    both = gates_and_values.contiguous()
    width = both.shape[-1] // 2
    out = both.new_empty(*both.shape[:-1], width)
    _call("gate", both.dtype, both, out, both.numel() // (2 * width), width)
    return out


def gate_gradient(gates_and_values: Tensor, grad: Tensor) -> Tensor:
    """The gradient of (…, 2·F) from that of the result (…, F)."""
    both, grad = gates_and_values.contiguous(), grad.contiguous()
    into, width = torch.empty_like(both), grad.shape[-1]
    _call("gate_gradient", both.dtype, both, grad, into, grad.numel() // width, width)
    return into


def cross_entropy_(logits: Tensor, labels: Tensor, smoothing: float, unit: float) -> Tensor:
    """Loss of each row (N,) float32; in place of `logits` (N, V) come its gradients times `unit`."""
    losses = torch.empty(len(logits))
    _call("cross_entropy", logits.dtype, logits, labels.contiguous(), losses, *logits.shape, smoothing, unit)
    return losses


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ + bias) v, and the softmax (B, H, T, S), of bfloat16 (B, H, …, K) with K even, `bias` float32.

    The first lies in memory as (B, T, H, K): heads are merged by looking at it so.
    """
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    bias = bias.expand(batch, heads, queries, keys)
    views = [one if one.stride(-1) == 1 else one.contiguous() for one in (q, k, v, bias)]
    weights, out = q.new_empty(batch, heads, queries, keys), q.new_empty(batch, queries, heads, width)
    strides = [(ctypes.c_int64 * 3)(*one.stride()[:3]) for one in views]
    given = [part for one, its in zip(views, strides, strict=True) for part in (one.data_ptr(), its)]
    sizes = (batch, heads, queries, keys, width, torch.get_num_threads())
    loaded = library()
    assert loaded is not None, "the caller asks have_kernel first"
    loaded.leximind_attend(*given, weights.data_ptr(), out.data_ptr(), *sizes)
    return out.transpose(1, 2), weights


def _call(name: str, dtype: torch.dtype, *arguments: Tensor | float) -> None:
    pointers = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
    getattr(library(), f"leximind_{name}")(KINDS[_DTYPES[dtype]], *pointers, torch.get_num_threads())
