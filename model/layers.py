"""The two position-free layers of T5 v1.1: RMS normalisation and the gated feed-forward."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        gate, value = self.wi(x).chunk(2, dim=-1)
        out: Tensor = self.wo(self.dropout(F.gelu(gate, approximate="tanh") * value))
        return out
