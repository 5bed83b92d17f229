"""T5's relative position bias: one learned number per head and bucket of distance, one table per stack."""

import math

import torch
from torch import Tensor, nn

from model.config import ModelConfig


class RelativeBias(nn.Module):
    """Bias on attention scores by key position minus query position (Raffel et al. 2020, section 2.1).

    Half of the buckets are exact offsets, the rest grow logarithmically up to `max_distance`; farther keys share
    the last one. A bidirectional table spends half of all buckets on keys after the query.
    """

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.table = nn.Embedding(num_buckets, num_heads)

    @classmethod
    def of(cls, config: ModelConfig, *, bidirectional: bool) -> "RelativeBias":
        """The table of one of a network's stacks."""
        return cls(
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
            config.num_heads,
            bidirectional=bidirectional,
        )

    def square(self, length: int) -> Tensor:
        """Bias of every query on every key of one sequence: (H, length, length)."""
        offsets = torch.arange(1 - length, length, device=self.table.weight.device)
        by_offset = self.by_offset(offsets)  # (H, 2·length - 1)
        # Row i of the square is the window of `length` offsets that starts at -i: index the offsets once each
        # instead of bucketing length² pairs.
        return by_offset.unfold(-1, length, 1).flip(-2).contiguous()  # heads outermost, or no fused kernel takes it

    def by_offset(self, offsets: Tensor) -> Tensor:
        """Bias at `offsets` (key position minus query position), any shape: (H, *offsets.shape)."""
        values: Tensor = self.table(self.bucket(offsets))
        return values.movedim(-1, 0)

    def bucket(self, offsets: Tensor) -> Tensor:
        """Row of the table for each offset, same shape."""
        return bucket(offsets, self.num_buckets, self.max_distance, bidirectional=self.bidirectional)


def bias_by_offset(table: Tensor, offsets: Tensor, config: ModelConfig, *, bidirectional: bool) -> Tensor:
    """`RelativeBias.by_offset` of a stored `table` (buckets, H): (H, *offsets.shape)."""
    buckets, distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    return table[bucket(offsets, buckets, distance, bidirectional=bidirectional)].movedim(-1, 0)


def bucket(offsets: Tensor, num_buckets: int, max_distance: int, *, bidirectional: bool) -> Tensor:
    """Row of a table of `num_buckets` for each offset (key position minus query position), same shape."""
    if bidirectional:
        num_buckets //= 2
        base = (offsets > 0).long() * num_buckets
        distance = offsets.abs()
    else:
        base = torch.zeros_like(offsets)
        distance = (-offsets).clamp(min=0)
    exact = num_buckets // 2
    # float32 and this order of operations: a different rounding moves distances across bucket borders.
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = (exact + (growth * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return base + torch.where(distance < exact, distance, logarithmic)
