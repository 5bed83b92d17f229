"""In which numbers a loaded network computes.

`float32` is exact: what `transformers` gives. `bfloat16` halves the bytes that a decode step reads. `int8` (CPU)
quarters them: weights with one scale an output channel, activations with one scale a row, products summed in int32.
With the native kernels only matrices, cache and embedding are less precise (the latter two bfloat16 in
both, but for the source's keys and values in int8, one scale a head and position), all between them is float32, and a
document's tokens are bit for bit the same alone, batched or joined mid-flight in each of the three; computed by torch
on a CPU, that holds for float32 and int8.
"""

import torch
from torch import Tensor

from model.choices import Precision

ON_CPUS_ALONE: tuple[Precision, ...] = ("int8",)


def computing_dtype(precision: Precision) -> torch.dtype:
    """What a checkpoint is loaded in to compute in `precision`."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


INT8_LEVELS = 127  # on either side of zero
INT8_ZERO = 128  # added to the levels of activations, which are multiplied unsigned


def int8_levels(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 `matrix` (out, in) as whole numbers of -127 to 127 and what each row's are multiplied by: (out,)."""
    scales = matrix.abs().amax(1).clamp_(min=1e-12) / INT8_LEVELS
    return (matrix / scales[:, None]).round_(), scales
