"""What is asked of a text, and how. Knows no model."""

from dataclasses import dataclass, field
from typing import Literal

from app.engine.request import Priority
from model.inference.decoding.options import DecodingOptions

OnLong = Literal["chunk", "reduce", "truncate", "error"]
ON_LONG = (
    "A text longer than the model reads is cut into chunks, whose summaries are joined (chunk) or summarized again "
    "(reduce); or it is truncated, or refused."
)


@dataclass(frozen=True)
class TextRequest:
    """Which tasks to run on a text, and how; tasks are heads, but for `summarize`.

    All but `tasks`, `on_long` and `detail` matter with `summarize` only. `target_tokens` bounds a summary that is made
    by `on_long` "reduce", `max_new_tokens` by default. With `support` the answer says what backs the summary, with
    `detail` what came of each chunk.
    """

    tasks: tuple[str, ...]
    options: DecodingOptions = field(default_factory=DecodingOptions)
    on_long: OnLong = "chunk"
    support: bool = False
    priority: Priority = "interactive"
    target_tokens: int | None = None
    detail: bool = False
