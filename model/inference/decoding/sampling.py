"""Drawing a token: temperature, top-k and top-p as in `transformers`, one uniform number a row and position."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.inference.decoding.options import DecodingOptions
from model.transfer import send


def uniforms(options: DecodingOptions) -> Tensor:
    """The random numbers of one document, (max_new_tokens,): its seed's own, whatever it is batched with."""
    generator = torch.Generator().manual_seed(options.seed)
    return torch.rand(options.max_new_tokens, generator=generator, dtype=torch.float64).float()


class Sampling:
    """How some rows are drawn, as tensors; made when documents join or leave, not in a step."""

    def __init__(self, options: Sequence[DecodingOptions], vocab_size: int, device: torch.device) -> None:
        def column(values: Sequence[float]) -> Tensor:
            return send(torch.tensor(values)[:, None], device)

        limits = [min(o.top_k or vocab_size, vocab_size) for o in options]
        self._widest = max(limits)
        self._limits = column(limits)
        self._temperatures = column([o.temperature for o in options])
        self._top_p = column([o.top_p for o in options])

    def draw(self, scores: Tensor, draws: Tensor) -> Tensor:
        """One token a row: `scores` (R, V) float32, `draws` (R,) in [0, 1). Returns (R,) int64.

        Temperature, then top-k, then top-p (Holtzman et al. 2020), then the inverse of the cumulative distribution.
        """
        values, token_ids = torch.topk(scores / self._temperatures, self._widest)
        rank = torch.arange(values.shape[1], device=scores.device)
        probabilities = torch.softmax(values.masked_fill(rank >= self._limits, float("-inf")), dim=-1)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill((before >= self._top_p) & (rank > 0), 0.0)
        cumulative = probabilities.cumsum(-1)
        chosen = (cumulative <= draws[:, None] * cumulative[:, -1:]).sum(-1)
        # Rounding must not fall off the end, and scores that are not numbers not off the start.
        last = ((probabilities > 0).sum(-1) - 1).clamp(min=0)
        return token_ids.gather(1, torch.minimum(chosen, last)[:, None])[:, 0]
