"""What training computes between its products of matrices: in one pass where eager operations take several."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from model.choices import Precision
from model.kernels.formats import FORMATS
from model.kernels.library import is_available, loaded_library

_CHUNK = 64  # rows whose gradients of a norm's weight the kernel sums up
_DTYPES: dict[torch.dtype, Precision] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def trains_on_cpu(x: Tensor) -> bool:
    """Whether gradients of `x` are to be computed eagerly on a CPU, where this module's functions are of use."""
    return x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def have_kernel(*dtypes: torch.dtype) -> bool:
    """Whether this processor has kernels for numbers of all of `dtypes`."""
    return all(dtype in _DTYPES for dtype in dtypes) and is_available()


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
    sizes = batch, heads, queries, keys, width = _sizes(q, k)
    views = _side_by_side(q, k, v, bias.expand(batch, heads, queries, keys))
    weights, out = q.new_empty(batch, heads, queries, keys), q.new_empty(batch, queries, heads, width)
    loaded_library().leximind_attend(
        *_described(views), weights.data_ptr(), out.data_ptr(), *sizes, torch.get_num_threads()
    )
    return out.transpose(1, 2), weights


def attend_gradient(
    q: Tensor, k: Tensor, v: Tensor, weights: Tensor, grad: Tensor, *, of_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k and v, and with `of_bias` of the bias (B, H, T, S) float32, from that of `attend`'s result."""
    sizes = batch, heads, queries, keys, width = _sizes(q, k)
    views = _side_by_side(q, k, v, grad)
    into = [q.new_empty(batch, length, heads, width) for length in (queries, keys, keys)]
    into_bias = torch.empty(batch, heads, queries, keys) if of_bias else None
    loaded_library().leximind_attend_gradient(
        *_described(views),
        weights.data_ptr(),
        *(one.data_ptr() for one in into),
        None if into_bias is None else into_bias.data_ptr(),
        *sizes,
        torch.get_num_threads(),
    )
    into_q, into_k, into_v = (one.transpose(1, 2) for one in into)
    return into_q, into_k, into_v, into_bias


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int, int, int]:
    batch, heads, queries, width = q.shape
    return batch, heads, queries, k.shape[2], width


def _side_by_side(*tensors: Tensor) -> list[Tensor]:
    return [one if one.stride(-1) == 1 else one.contiguous() for one in tensors]


def _described(views: list[Tensor]) -> list[Any]:
    # Each one's address and its first three strides.
    return [part for one in views for part in (one.data_ptr(), (ctypes.c_int64 * 3)(*one.stride()[:3]))]


def _call(name: str, dtype: torch.dtype, *arguments: Tensor | float) -> None:
    pointers = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
    getattr(loaded_library(), f"leximind_{name}")(FORMATS[_DTYPES[dtype]].kind, *pointers, torch.get_num_threads())
