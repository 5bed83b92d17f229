"""Low-rank adaptation (Hu et al. 2021): the matrices of a network stay, and learn a sum with a product of thin ones.

As a parametrization of the weight, the change is part of the weight for all who read it, and folding parametrizations
(`training.network.initialise.fold_queries`) merges it: what is saved and served has no trace of it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model.network.heads import HEADS_PREFIX
from model.network.leximind import LexiMind
from training.errors import TrainingError


@dataclass(frozen=True)
class LoraConfig:
    """`rank` 0: off. The change is scaled by `alpha / rank`.

    Raises:
        TrainingError: a negative rank.
    """

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise TrainingError(f"lora.rank is {self.rank}; it must be 0 (off) or more")


def add_lora(model: LexiMind, config: LoraConfig) -> None:
    """Freeze all but the heads, and give every matrix of both stacks a low-rank change, zero at first."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith((HEADS_PREFIX, "lm_head.")))
    for stack in (model.encoder, model.decoder):
        for linear in [module for module in stack.modules() if isinstance(module, nn.Linear)]:
            parametrize.register_parametrization(linear, "weight", _LowRank(linear, config))


class _LowRank(nn.Module):
    def __init__(self, linear: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        weight = linear.weight
        self.down = nn.Parameter(torch.empty(config.rank, linear.in_features, device=weight.device))
        self.up = nn.Parameter(torch.zeros(linear.out_features, config.rank, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = config.alpha / config.rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down)
