"""What backs a summary, as an answer shows it. Knows neither engine nor HTTP."""

from collections.abc import Callable

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from model.support import Passage, claims, nearest_passages

_DIGITS = 4


class SourcePassage(BaseModel):
    """A sentence of the text: code points `start` to `end` of the text as it was sent."""

    start: int = Field(examples=[0])
    end: int = Field(examples=[98])
    rouge_l: float = Field(description="How near it is: ROUGE-L, above 0; 1 has the same words.", examples=[0.9412])


class SummarySentence(BaseModel):
    """A sentence of the summary, code points `start` to `end` of it, and the passage that is nearest to it."""

    start: int = Field(examples=[0])
    end: int = Field(examples=[82])
    source: SourcePassage | SkipJsonSchema[None] = Field(
        default=None, description="Absent where no sentence of the text has a word of it."
    )


class UnsupportedClaim(BaseModel):
    """A name or number that the text does not have, and its code points in the summary."""

    text: str = Field(examples=["Brighton"])
    start: int = Field(examples=[24])
    end: int = Field(examples=[32])


class Support(BaseModel):
    """What backs a summary."""

    sentences: list[SummarySentence]
    entity_precision: float | SkipJsonSchema[None] = Field(
        default=None,
        description="Share of the summary's names and numbers that the text has; absent where it has none.",
        examples=[0.75],
    )
    unsupported: list[UnsupportedClaim] = Field(description="Names and numbers that the text does not have.")


def support_of(summary: str, text: str, before_block: Callable[[], None]) -> Support:
    """What backs `summary` in `text`; `before_block` as in `nearest_passages`."""
    sentences = nearest_passages(summary, text, before_block)
    found = claims(summary, text)
    return Support(
        sentences=[
            SummarySentence(
                start=span.start,
                end=span.end,
                source=_answer_of(passage) if passage else None,
            )
            for span, passage in sentences
        ],
        entity_precision=None if found.precision is None else round(found.precision, _DIGITS),
        unsupported=[
            UnsupportedClaim(text=summary[span.start : span.end], start=span.start, end=span.end)
            for span in found.unsupported
        ],
    )


def _answer_of(passage: Passage) -> SourcePassage:
    return SourcePassage(start=passage.start, end=passage.end, rouge_l=round(passage.rouge_l, _DIGITS))
