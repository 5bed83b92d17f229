"""Multi-head attention over whole sequences, without bias and without 1/√K."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.kernels import gradients
from model.kernels.gradients import have_kernel, trains_on_cpu


class SelfAttention(nn.Module):
    """Queries, keys and values of one sequence from one fused projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.inner_width, bias=False)  # rows: q, then k, then v
        self.out = nn.Linear(config.inner_width, config.d_model, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`x` (B, S, D); `bias` broadcasts to (B, H, S, S), -inf where a key is masked. Returns (B, S, D)."""
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        out: Tensor = self.out(merge_heads(attend(q, k, v, bias)))
        return out


class CrossAttention(nn.Module):
    """Queries from the decoder, keys and values from the encoder; the latter are projected once a document."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.d_model, config.inner_width, bias=False)
        self.kv = nn.Linear(config.d_model, 2 * config.inner_width, bias=False)  # rows: k, then v
        self.out = nn.Linear(config.inner_width, config.d_model, bias=False)

    def project(self, encoder_states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of encoder states (B, S, D): two of (B, H, S, K)."""
        k, v = self.kv(encoder_states).chunk(2, dim=-1)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)

    def forward(self, x: Tensor, encoder_states: Tensor, bias: Tensor) -> Tensor:
        """`x` (B, T, D), `encoder_states` (B, S, D), `bias` broadcasts to (B, H, T, S). Returns (B, T, D)."""
        q = split_heads(self.q(x), self.num_heads)
        out: Tensor = self.out(merge_heads(attend(q, *self.project(encoder_states), bias)))
        return out


def avoid_cudnn_attention() -> None:
    """Of SDPA's kernels for a GPU, use the others: cuDNN's makes a plan, of up to a second, for every new shape."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive form of a boolean mask: 0 where True, -inf where False."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, S, H·K) to (B, H, S, K)."""
    heads: Tensor = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return heads


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, S, K) to (B, S, H·K)."""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q kᵀ + bias) v over whole sequences; scale 1, since T5's initialisation absorbs 1/√K."""
    if trains_on_cpu(q) and (bias.requires_grad or q.dtype != torch.float32):
        out: Tensor = _Attend.apply(q, k, v, bias)  # type: ignore[no-untyped-call]
        return out
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)


class _Attend(torch.autograd.Function):
    # SDPA on CPU has no kernel for a bias that learns, and its fallback computes in float32 throughout, in twice the
    # time. Scores and softmax are float32 here too; the products with probabilities are in the dtype of q.
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        ctx.bias_shape, ctx.bias_dtype = bias.shape, bias.dtype
        narrow = q.dtype == torch.bfloat16 and bias.dtype == torch.float32 and q.shape[-1] % 2 == 0
        ctx.by_kernel = narrow and have_kernel(q.dtype)
        if ctx.by_kernel:
            out, weights = gradients.attend(q, k, v, bias)
        else:
            with torch.autocast(q.device.type, enabled=False):
                scores = q.float() @ k.float().transpose(-1, -2)
                scores += bias
                weights = torch.softmax(scores, dim=-1).to(q.dtype)
                out = weights @ v
        ctx.save_for_backward(q, k, v, weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        q, k, v, weights = ctx.saved_tensors
        if ctx.by_kernel:
            of_bias = ctx.needs_input_grad[3]
            of_q, of_k, of_v, bias = gradients.attend_gradient(q, k, v, weights, grad, of_bias=of_bias)
            return of_q, of_k, of_v, None if bias is None else bias.sum_to_size(ctx.bias_shape)
        scores = torch._softmax_backward_data(grad @ v.transpose(-1, -2), weights, -1, weights.dtype)
        bias = scores.to(ctx.bias_dtype).sum_to_size(ctx.bias_shape) if ctx.needs_input_grad[3] else None
        return scores @ k, scores.transpose(-1, -2) @ q, weights.transpose(-1, -2) @ grad, bias
