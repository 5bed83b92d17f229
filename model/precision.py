"""In which numbers a loaded network computes, and its weights in the layout that the processor multiplies fastest.

`float32` is exact: the same tokens alone, batched or joined mid-flight. `bfloat16` halves the bytes that a decode
step reads. `int8` (CPU) quarters them: weights with one scale an output channel, activations with one scale a row,
products summed in int32. A row's sums are whole numbers that do not depend on what else is in the batch, and all
between the matrices stays float32, so that tokens are those of the row alone here too.
"""

from typing import Literal, get_args

import torch

Precision = Literal["float32", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def computing_dtype(precision: Precision) -> torch.dtype:
    """What embeddings and the encoder's activations are held in."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
