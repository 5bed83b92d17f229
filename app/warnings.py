"""When an answer should not be trusted, and why: texts of no kind that the checkpoint knows. Nothing is refused for it.

Bounds come with the checkpoint, which `training.evaluate --card` fits on dev; a checkpoint without them never warns.
"""

from typing import Literal

from pydantic import BaseModel, Field

from model.tasks import Head
from model.vocabulary_words import MIN_WORDS, count_words


class AnswerWarning(BaseModel):
    """A reason not to trust an answer."""

    code: Literal["unfamiliar_text", "too_short", "no_label_fits"] = Field(
        description="unfamiliar_text: the text is unlike what the checkpoint learned from, such as another language, "
        "code or a table; too_short: it has one word; no_label_fits: it is unlike the texts of every label."
    )
    message: str = Field(examples=["3 of 22 words are in the checkpoint's vocabulary, …"])


def text_warnings(text: str, vocabulary: frozenset[str], min_known_words: float) -> tuple[AnswerWarning, ...]:
    """What is wrong with `text`, if anything, for a checkpoint with these words and this bound."""
    words, known = count_words(text, vocabulary)
    if not known or (words >= MIN_WORDS and known < min_known_words * words):
        message = (
            f"{known} of {words} words are in the checkpoint's vocabulary, less than {min_known_words:.0%}: it may be "
            "another language, code, a table or symbols, and the answer may be meaningless"
        )
        return (AnswerWarning(code="unfamiliar_text", message=message),)
    if words == 1:
        return (
            AnswerWarning(code="too_short", message="the text has one word, which says little; give it a sentence"),
        )
    return ()


def label_warnings(head: Head, energy: float | None) -> tuple[AnswerWarning, ...]:
    """Whether a text of this energy (`model.probabilities.energy`) is unlike the texts of every label of `head`."""
    if head.min_energy is None or energy is None or energy >= head.min_energy:
        return ()
    message = (
        f"the text is unlike those that {head.name} was learned from (energy {energy:.2f}, usual from "
        f"{head.min_energy:.2f}): none of its labels may fit, however high a score is"
    )
    return (AnswerWarning(code="no_label_fits", message=message),)
