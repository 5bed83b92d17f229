"""Learned positions: a vector for each position up to the end of a table, nothing past it.

The relative bias still distinguishes later positions. Without a table embeddings stay as they are.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def add_positions(x: Tensor, table: Tensor | None) -> Tensor:
    """`x` (B, T, D), whole sequences, plus `table` (positions, D) from its start on."""
    if table is None:
        return x
    length = min(x.shape[1], table.shape[0])
    return x + F.pad(table[:length], (0, 0, 0, x.shape[1] - length))


def add_positions_at(x: Tensor, positions: list[Tensor], table: Tensor | None) -> Tensor:
    """`x` (R, D), one token a row, plus the rows of `table` at `positions`, (R,) in parts."""
    if table is None:
        return x
    places = torch.cat(positions)
    in_table = (places < len(table))[:, None]
    return x + F.embedding(places.clamp(max=len(table) - 1), table) * in_table
