"""Classification on the encoder's states."""

import torch
from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """Mean over real tokens, dropout, one linear layer."""

    def __init__(self, d_model: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, num_labels)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`hidden` (B, S, D), `mask` (B, S) bool, True at real tokens. Returns logits (B, labels)."""
        logits: Tensor = self.linear(self.dropout(mean_over_tokens(hidden, mask)))
        return logits


def mean_over_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, S, D) over the True positions of `mask` (B, S), summed in float32: (B, D)."""
    weights = mask.to(torch.float32)
    total = torch.einsum("bsd,bs->bd", hidden.float(), weights)
    return (total / weights.sum(1, keepdim=True)).to(hidden.dtype)
