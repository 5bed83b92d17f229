"""Classification on the encoder's states."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.errors import ConfigError

HEADS_PREFIX = "heads."  # of the names of all their parameters


def new_heads(d_model: int, heads: Mapping[str, int], dropout: float) -> nn.ModuleDict:
    """A head of each name with its number of labels.

    Raises:
        ConfigError: a name that torch has for something else.
    """
    for name in heads:
        check_module_name(name)
    return nn.ModuleDict({name: ClassificationHead(d_model, num, dropout) for name, num in heads.items()})


def head_tensors(name: str) -> tuple[str, str]:
    """Names of a head's weight (labels, D) and bias (labels,) among the network's tensors."""
    return f"{HEADS_PREFIX}{name}.linear.weight", f"{HEADS_PREFIX}{name}.linear.bias"


def check_module_name(name: str) -> None:
    """Refuse the name of a head that is one of `ModuleDict`'s own attributes, such as `type`.

    Raises:
        ConfigError: it is.
    """
    if hasattr(nn.ModuleDict(), name):
        raise ConfigError(f"the head {name!r}: torch has this word for something else; name it otherwise")


class ClassificationHead(nn.Module):
    """Dropout and one linear layer over a text's mean state."""

    def __init__(self, d_model: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(d_model, num_labels)

    def forward(self, pooled: Tensor) -> Tensor:
        """`pooled` (B, D), as `mean_over_tokens` gives it. Returns logits (B, labels)."""
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


def mean_over_tokens(encoder_states: Tensor, mask: Tensor) -> Tensor:
    """Mean of (B, S, D) over the True positions of `mask` (B, S), summed in float32: (B, D)."""
    weights = mask.to(torch.float32)
    total = torch.einsum("bsd,bs->bd", encoder_states.float(), weights)
    return (total / weights.sum(1, keepdim=True)).to(encoder_states.dtype)
