"""What the routes take and give, as JSON. Types and ranges are checked here; limits that are settings, elsewhere."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.api.heads import AtMostEveryTask, TaskName
from app.planning import OnLong
from model.errors import OptionsError
from model.inference.decoding.options import MAX_BEAMS, MAX_NGRAM_SIZE, DecodingOptions, FinishReason

_DEFAULT = DecodingOptions()
_MAX_FIELDS = 64
NEWS = (
    "Shares of the chip maker rose 12% on Tuesday after it reported record profits. Analysts had expected less. "
    "The company said that demand from data centres had doubled within a year."
)
COMMENT = "Thank you so much, this made my whole week!"

# Told apart by hand, so that an error names one place and not one per alternative; `<…>` is no part of its name.
# The first bad item is told and no other: a list may have a million. That neither may be empty is shown here and
# checked with the other limits of texts.
Texts = Annotated[
    Annotated[str, Field(json_schema_extra={"minLength": 1}), Tag("<text>")]
    | Annotated[list[str], Field(fail_fast=True, json_schema_extra={"minItems": 1}), Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<text>"),
]

EarlyStopping = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[Literal["never"], Tag("<word>")],
    Discriminator(lambda value: "<word>" if isinstance(value, str) else "<bool>"),
]
Model = Annotated[str, Field(description="The checkpoint that answered.", examples=["tiny"])]


class Request(BaseModel):
    """Unknown fields, numbers in quotes and infinities are refused: a typo must not pass in silence."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, value: object) -> object:
        """pydantic tells of every unknown field, which takes seconds where there are a hundred thousand."""
        if isinstance(value, dict) and len(value) > _MAX_FIELDS:
            raise PydanticCustomError("crowded", "has {count} fields", {"count": len(value), "limit": _MAX_FIELDS})
        return value


class SummaryOptions(Request):
    """How to summarise; names and meanings are those of `transformers` generation."""

    max_new_tokens: int = Field(default=_DEFAULT.max_new_tokens, ge=1, description="Longest summary, in tokens.")
    min_new_tokens: int = Field(default=_DEFAULT.min_new_tokens, ge=0, description="Shortest summary, in tokens.")
    num_beams: int = Field(
        default=_DEFAULT.num_beams, ge=1, le=MAX_BEAMS, description="1 is greedy, more is beam search."
    )
    length_penalty: float = Field(
        default=_DEFAULT.length_penalty, ge=-10, le=10, description="With beams: above 0 favours longer summaries."
    )
    early_stopping: EarlyStopping = Field(default=_DEFAULT.early_stopping, description="With beams: when to stop.")
    no_repeat_ngram_size: int = Field(
        default=_DEFAULT.no_repeat_ngram_size,
        ge=0,
        le=MAX_NGRAM_SIZE,
        description="n-grams of so many words or parts of words occur once; 0: off.",
    )
    repetition_penalty: float = Field(
        default=_DEFAULT.repetition_penalty, ge=0.01, le=100, description="Above 1 avoids used tokens."
    )
    do_sample: bool = Field(default=_DEFAULT.do_sample, description="Sample instead of taking the likeliest token.")
    temperature: float = Field(
        default=_DEFAULT.temperature, ge=0.01, le=100, description="With do_sample: below 1 is safer."
    )
    top_k: int = Field(default=_DEFAULT.top_k, ge=0, description="With do_sample: of the k likeliest tokens; 0: off.")
    top_p: float = Field(
        default=_DEFAULT.top_p, gt=0, le=1, description="With do_sample: of the likeliest that add up to p."
    )
    seed: int = Field(
        default=_DEFAULT.seed, ge=0, lt=2**63, description="With do_sample: equal seeds give equal summaries."
    )
    on_long: OnLong = Field(
        default="chunk", description="A text longer than the model reads is cut into chunks, truncated, or refused."
    )

    @model_validator(mode="after")
    def _agree(self) -> "SummaryOptions":
        try:
            self.decoding()
        except OptionsError as error:  # what no single field shows
            raise PydanticCustomError(
                "options", "{message}", {"field": error.field, "message": error.message}
            ) from None
        return self

    def decoding(self) -> DecodingOptions:
        """The options as decoding takes them.

        Raises:
            OptionsError: two that exclude each other.
        """
        return DecodingOptions(**self.model_dump(include=set(DecodingOptions.__dataclass_fields__)))


class SummarizeRequest(SummaryOptions):
    """A text, or several, to summarise."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": NEWS, "max_new_tokens": 48}]})

    text: Texts = Field(description="A text, or a list of texts.")
    stream: bool = Field(
        default=False, description="Send the summary as it is made, as server-sent events; one text, no beams."
    )


class EmotionsRequest(Request):
    """A text, or several, to tell the emotions of."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": COMMENT}]})

    text: Texts = Field(description="A text, or a list of texts.")
    top_k: int | None = Field(default=None, ge=1, description="Give the k best, whatever any threshold.")
    threshold: float | None = Field(
        default=None, ge=0, le=1, description="Least score of every label, instead of each label's own; 0 gives all."
    )


class TopicRequest(Request):
    """A text, or several, to tell the topic of."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": NEWS}]})

    text: Texts = Field(description="A text, or a list of texts.")
    top_k: int | None = Field(default=None, ge=1, description="Give the k best scores; all by default.")


class ClassifyRequest(Request):
    """A text, or several, to classify by one of the checkpoint's heads."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": NEWS}]})

    text: Texts = Field(description="A text, or a list of texts.")
    top_k: int | None = Field(default=None, ge=1, description="Give the k best labels.")
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Of a head of several labels: least score of every label, instead of its own; 0 gives all.",
    )


class AnalyzeRequest(Request):
    """A text, or several, for several tasks at once."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": NEWS, "tasks": ["summarize", "topic"], "summary": {"num_beams": 2}}]}
    )

    text: Texts = Field(description="A text, or a list of texts.")
    tasks: Annotated[list[TaskName], Field(min_length=1, fail_fast=True), AtMostEveryTask] | None = Field(
        default=None, description="Which tasks; all that the checkpoint has by default."
    )
    summary: SummaryOptions = Field(
        default_factory=SummaryOptions, description="How to summarise; its on_long holds for the whole text."
    )


class SummaryAnswer(BaseModel):
    """A summary and what it took."""

    summary: str = Field(examples=["Shares of the chip maker rose 12% after record profits."])
    finish_reason: FinishReason = Field(description="stop: it is complete; length: max_new_tokens came first.")
    input_tokens: int = Field(description="Tokens read, prompt and end token included.", examples=[61])
    output_tokens: int = Field(examples=[17])
    chunks: int = Field(description="Parts in which the text was read.", examples=[1])
    model: Model


class Score(BaseModel):
    """A label and its probability."""

    label: str = Field(examples=["gratitude"])
    score: float = Field(examples=[0.93])


class EmotionsAnswer(BaseModel):
    """The emotions that pass, best first."""

    emotions: list[Score]
    model: Model


class TopicAnswer(BaseModel):
    """The topic, and the scores of all, best first."""

    topic: str = Field(examples=["Business"])
    score: float = Field(examples=[0.88])
    scores: list[Score]
    model: Model


class LabelsAnswer(BaseModel):
    """Of a head of several labels, those that pass, best first."""

    labels: list[Score]
    model: Model


class LabelAnswer(BaseModel):
    """Of a head of one label, that label, and the scores of all, best first."""

    label: str = Field(examples=["politics"])
    score: float = Field(examples=[0.88])
    scores: list[Score]
    model: Model


HeadAnswer = EmotionsAnswer | TopicAnswer | LabelsAnswer | LabelAnswer


class AnalyzeAnswer(BaseModel):
    """The tasks' own answers, further heads under their names; what was not asked is left out."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, LabelsAnswer | LabelAnswer] = Field(init=False)

    summary: SummaryAnswer | None = None
    emotions: EmotionsAnswer | None = None
    topic: TopicAnswer | None = None
