"""What a precision means to the kernels, all in one place."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.choices import Precision
from model.precision import int8_levels


@dataclass(frozen=True)
class Format:
    """How numbers of one precision lie in the kernels' arrays.

    `kind` is the value of `Kind` in numbers.h. `group` inputs of a matrix lie side by side, as `dtype`. The decoder's
    own keys and values are of `cache_dtype`, the source's of `source_dtype`, with `key_extra` numbers behind a key.
    `quantise` gives a matrix (out, in) as levels and the scale of each output, where there are any.
    """

    kind: int
    group: int
    dtype: torch.dtype
    cache_dtype: torch.dtype
    source_dtype: torch.dtype
    key_extra: int = 0
    quantise: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None


FORMATS: dict[Precision, Format] = {
    "float32": Format(
        kind=0,
        group=1,
        dtype=torch.float32,
        cache_dtype=torch.float32,
        source_dtype=torch.float32,
    ),
    "bfloat16": Format(
        kind=1,
        group=2,
        dtype=torch.bfloat16,
        cache_dtype=torch.bfloat16,
        source_dtype=torch.bfloat16,
    ),
    "int8": Format(
        kind=2,
        group=4,
        dtype=torch.int8,
        cache_dtype=torch.bfloat16,
        source_dtype=torch.int8,
        key_extra=3 * torch.float32.itemsize,  # the key's scale and sum, the value's scale
        quantise=int8_levels,
    ),
}
