"""What can be asked of decoding and what comes back. Names, meanings and arithmetic are those of `transformers`."""

from dataclasses import dataclass
from typing import Literal

from model.errors import OptionsError

MAX_BEAMS = 8
MAX_NGRAM_SIZE = 16  # a step looks at so many places before each token that a row holds
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class DecodingOptions:
    """How one document is decoded.

    `max_new_tokens` counts the end token, `min_new_tokens` does not. `early_stopping` and `length_penalty` matter with
    beams only; `temperature`, `top_k` (0: off), `top_p` and `seed` with `do_sample` only. Penalties and temperature
    keep to where float32 can hold the scores: beyond, one document's infinities would fail its whole batch.

    Raises:
        OptionsError: a value outside its range; says the field, the value and the range.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    no_repeat_ngram_size: int = 3
    repetition_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1")
        _check(
            "min_new_tokens",
            self.min_new_tokens,
            0 <= self.min_new_tokens <= self.max_new_tokens,
            f"between 0 and max_new_tokens ({self.max_new_tokens})",
        )
        _check("num_beams", self.num_beams, 1 <= self.num_beams <= MAX_BEAMS, f"between 1 and {MAX_BEAMS}")
        _check("length_penalty", self.length_penalty, abs(self.length_penalty) <= 10, "between -10 and 10")
        _check(
            "early_stopping",
            self.early_stopping,
            self.early_stopping in (True, False, "never"),
            'true, false or "never"',
        )
        _check(
            "no_repeat_ngram_size",
            self.no_repeat_ngram_size,
            0 <= self.no_repeat_ngram_size <= MAX_NGRAM_SIZE,
            f"between 0 (off) and {MAX_NGRAM_SIZE}",
        )
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            0.01 <= self.repetition_penalty <= 100,
            "between 0.01 and 100 (1.0: off)",
        )
        _check(
            "temperature",
            self.temperature,
            0.01 <= self.temperature <= 100,
            "between 0.01 and 100 (for greedy decoding leave do_sample false)",
        )
        _check("top_k", self.top_k, self.top_k >= 0, "0 (off) or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (1: off)")
        _check("seed", self.seed, 0 <= self.seed < 2**63, "between 0 and 2**63 - 1")
        if self.do_sample and self.num_beams > 1:
            raise OptionsError("do_sample", f"true with num_beams {self.num_beams}; sampling takes num_beams 1")


@dataclass(frozen=True)
class DecodingResult:
    """One decoded document.

    `token_ids` are the new tokens without the end token. `score` is, with beams, the sum of the tokens' log
    probabilities over `length ** length_penalty` (`sequences_scores` of `transformers`); otherwise None.
    `finish_reason` is `stop` when the end token was reached, `length` when `max_new_tokens` came first.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    score: float | None = None


def _check(field: str, value: object, holds: bool, limits: str) -> None:
    if not holds:
        raise OptionsError(field, f"{value!r} is not allowed; it must be {limits}")
