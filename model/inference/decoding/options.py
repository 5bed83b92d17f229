"""The options of decoding and its result. Names, meanings and arithmetic are those of `transformers`."""

import operator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from model.errors import OptionsError

MAX_BEAMS = 8
MAX_NGRAM_SIZE = 16  # a step looks at so many places before each token that a row holds
FinishReason = Literal["stop", "length"]


def _option(default: Any, description: str, words: str = "", **bounds: float) -> Any:
    """A field with what every caller's flag or schema says of it: `bounds` are of `ge`, `gt`, `le`, `lt`."""
    return field(default=default, metadata={"description": description, "words": words, "bounds": bounds})


@dataclass(frozen=True)
class DecodingOptions:
    """How one document is decoded.

    `max_new_tokens` counts the end token, `min_new_tokens` does not. `early_stopping` and `length_penalty` matter with
    beams only; `temperature`, `top_k` (0: off), `top_p` and `seed` with `do_sample` only. Penalties and temperature
    keep to where float32 can hold the scores: beyond, one document's infinities would fail its whole batch.

    A field's `metadata` holds its `description` and `bounds`, from which the service makes its schema and its flags.

    Raises:
        OptionsError: a value outside its range; says the field, the value and the range.
    """

    max_new_tokens: int = _option(128, "Longest summary, in tokens.", "at least {ge}", ge=1)
    min_new_tokens: int = _option(
        0, "Shortest summary, in tokens.", "between {ge} and max_new_tokens ({max_new_tokens})", ge=0
    )
    num_beams: int = _option(1, "1 is greedy, more is beam search.", "between {ge} and {le}", ge=1, le=MAX_BEAMS)
    length_penalty: float = _option(
        1.0, "With beams: above 0 favours longer summaries.", "between {ge} and {le}", ge=-10, le=10
    )
    early_stopping: bool | Literal["never"] = _option(False, "With beams: when to stop.", 'true, false or "never"')
    no_repeat_ngram_size: int = _option(
        3,
        "n-grams of so many words or parts of words occur once; 0: off.",
        "between {ge} (off) and {le}",
        ge=0,
        le=MAX_NGRAM_SIZE,
    )
    repetition_penalty: float = _option(
        1.0, "Above 1 avoids used tokens.", "between {ge} and {le} (1.0: off)", ge=0.01, le=100
    )
    do_sample: bool = _option(False, "Sample instead of taking the likeliest token.")
    temperature: float = _option(
        1.0,
        "With do_sample: below 1 is safer.",
        "between {ge} and {le} (for greedy decoding leave do_sample false)",
        ge=0.01,
        le=100,
    )
    top_k: int = _option(50, "With do_sample: of the k likeliest tokens; 0: off.", "{ge} (off) or more", ge=0)
    top_p: float = _option(
        1.0, "With do_sample: of the likeliest that add up to p.", "above {gt} and at most {le} (1: off)", gt=0, le=1
    )
    seed: int = _option(
        0, "With do_sample: equal seeds give equal summaries.", "between {ge} and 2**63 - 1", ge=0, lt=2**63
    )
    grounded: bool = _option(False, "Write no name or number that the text does not have.")

    def __post_init__(self) -> None:
        for name, checks in _CHECKS:
            value = getattr(self, name)
            for is_within, bound in checks:
                if not is_within(value, bound):
                    raise self._outside(name)
        if self.min_new_tokens > self.max_new_tokens:
            raise self._outside("min_new_tokens")
        if self.early_stopping not in (True, False, "never"):
            raise self._outside("early_stopping")
        if self.do_sample and self.num_beams > 1:
            raise OptionsError("do_sample", f"true with num_beams {self.num_beams}; sampling takes num_beams 1")

    def _outside(self, name: str) -> OptionsError:
        metadata = self.__dataclass_fields__[name].metadata
        limits = metadata["words"].format(**metadata["bounds"], max_new_tokens=self.max_new_tokens)
        return OptionsError(name, f"{getattr(self, name)!r} is not allowed; it must be {limits}")


_CHECKS = tuple(
    (one.name, tuple((getattr(operator, name), bound) for name, bound in one.metadata["bounds"].items()))
    for one in fields(DecodingOptions)
)


@dataclass(frozen=True)
class DecodingResult:
    """One decoded document.

    `token_ids` are the new tokens without the end token. `score` is, with beams, the sum of the tokens' log
    probabilities over `length ** length_penalty` (`sequences_scores` of `transformers`); otherwise None.
    `finish_reason` is `stop` when the end token was reached, `length` when `max_new_tokens` came first. Without
    `is_finite` the model's scores were not numbers: decoding ended there, and the tokens mean nothing.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    score: float | None = None
    is_finite: bool = True
