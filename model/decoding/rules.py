"""What a next token may be: penalties and bans on the logits of many rows at once, each row with its own options.

Order and arithmetic are those of `transformers`' logits processors: repetition penalty, repeated n-grams, minimum
length, suppressed ids. No loop over rows and no read-back from the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.config import ModelConfig
from model.decoding.options import DecodingOptions
from model.transfer import send


class Rules:
    """The options of the rows in flight as tensors; rebuilt when documents join or leave, not in a step."""

    def __init__(self, config: ModelConfig, options: Sequence[DecodingOptions], num_beams: int, device: torch.device):
        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return send(torch.tensor(values, dtype=dtype).repeat_interleave(num_beams), device)

        penalties = [o.repetition_penalty for o in options]
        sizes = [o.no_repeat_ngram_size for o in options]
        self._eos_id = config.eos_id
        self._penalties = column(penalties, torch.float32)[:, None] if set(penalties) != {1.0} else None
        self._sizes = {size: column([s == size for s in sizes], torch.bool) for size in set(sizes) - {0}}
        self._minimums = column([o.min_new_tokens for o in options], torch.int64)
        self._any_minimum = any(o.min_new_tokens for o in options)
        # Padding and unknown would be no text; ids from num_tokens on only pad the matrix.
        suppressed = [config.pad_id, config.unk_id, *range(config.num_tokens, config.vocab_size)]
        self._suppressed = send(torch.tensor(suppressed), device)

    def apply(self, scores: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Scores with what is not allowed at -inf.

        Args:
            scores: (R, V) float32, logits or log probabilities; changed in place.
            tokens: (R, T) what each row holds, the start token first, the start token's id after its end.
            positions: (R,) place of each row's newest token.
        """
        if self._penalties is not None:
            seen = scores.gather(1, tokens)
            scores.scatter_(1, tokens, torch.where(seen < 0, seen * self._penalties, seen / self._penalties))
        for size, rows in self._sizes.items():
            _ban_repeats(scores, tokens, positions, size, rows)
        if self._any_minimum:
            early = positions < self._minimums
            scores[:, self._eos_id] = scores[:, self._eos_id].masked_fill(early, float("-inf"))
        scores[:, self._suppressed] = float("-inf")
        return scores


def _ban_repeats(scores: Tensor, tokens: Tensor, positions: Tensor, size: int, rows: Tensor) -> None:
    if tokens.shape[1] < size:
        return
    windows = tokens.unfold(1, size, 1)  # (R, T - size + 1, size)
    newest = positions[:, None] + torch.arange(2 - size, 1, device=tokens.device)  # (R, size - 1)
    prefix = tokens.gather(1, newest.clamp(min=0))
    repeats = (windows[..., :-1] == prefix[:, None]).all(-1)
    inside = torch.arange(windows.shape[1], device=tokens.device) + size - 1 <= positions[:, None]
    banned = repeats & inside & rows[:, None]
    # Places that ban nothing write to the padding id, which is suppressed anyway.
    scores.scatter_(1, torch.where(banned, windows[..., -1], 0), float("-inf"))
