"""The JSON bodies of the routes. Types and ranges are checked here; limits that are settings, in `app.limits`."""

from dataclasses import fields
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, create_model, model_validator
from pydantic_core import PydanticCustomError

from app.api.heads import AtMostEveryTask, TaskName
from app.text_request import ON_LONG, OnLong
from app.thresholds import MAX_THRESHOLD, MIN_THRESHOLD, MIN_TOP_K
from model.errors import OptionsError
from model.inference.decoding.options import DecodingOptions

_MAX_FIELDS = 64
EXAMPLE_TEXT = (
    "Shares of the chip maker rose 12% on Tuesday after it reported record profits. Analysts had expected less. "
    "The company said that demand from data centres had doubled within a year."
)
EXAMPLE_COMMENT = "Thank you so much, this made my whole week!"

# Discriminated by hand, so that an error names one place and not one per alternative; `<…>` is no part of its name.
# Only the first bad item is reported: a list may have a million. That neither may be empty is documented here and
# checked with the other limits of texts.
Texts = Annotated[
    Annotated[str, Field(json_schema_extra={"minLength": 1}), Tag("<text>")]
    | Annotated[
        list[Annotated[str, Field(json_schema_extra={"minLength": 1})]],
        Field(fail_fast=True, json_schema_extra={"minItems": 1}),
        Tag("<list>"),
    ],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<text>"),
]

EarlyStopping = Annotated[
    Annotated[bool, Tag("<bool>")] | Annotated[Literal["never"], Tag("<word>")],
    Discriminator(lambda value: "<word>" if isinstance(value, str) else "<bool>"),
]


class Body(BaseModel):
    """A JSON object; unknown fields, numbers in quotes and infinities are refused: a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, value: object) -> object:
        """pydantic reports every unknown field, which takes seconds where there are a hundred thousand."""
        if isinstance(value, dict) and len(value) > _MAX_FIELDS:
            raise PydanticCustomError(
                "too_many_fields", "has {count} fields", {"count": len(value), "limit": _MAX_FIELDS}
            )
        return value


_TYPES = get_type_hints(DecodingOptions) | {"early_stopping": EarlyStopping}
# Of every decoding option the default, range and description, which stand in `DecodingOptions`.
_FIELDS: dict[str, Any] = {
    one.name: (
        _TYPES[one.name],
        Field(default=one.default, description=one.metadata["description"], **one.metadata["bounds"]),
    )
    for one in fields(DecodingOptions)
}
_Decoding: Any = create_model("_Decoding", __base__=Body, **_FIELDS)


class SummaryOptions(_Decoding):  # type: ignore[misc]  # pydantic makes it
    """How to summarize; names and meanings are those of `transformers` generation."""

    on_long: OnLong = Field(default="chunk", description=ON_LONG)
    target_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="With on_long reduce: longest summary of the whole; max_new_tokens by default."
    )
    support: bool = Field(
        default=False,
        description="Say what backs the summary: the nearest passages, and names and numbers without one.",
    )
    _decoding: DecodingOptions = PrivateAttr()

    @model_validator(mode="after")
    def _check_together(self) -> "SummaryOptions":
        try:
            self._decoding = DecodingOptions(**self.model_dump(include=set(_TYPES)))
            if self.target_tokens is not None and self.on_long != "reduce":
                message = f'{self.target_tokens} with on_long "{self.on_long}"; it bounds "reduce" only'
                raise OptionsError("target_tokens", message)
        except OptionsError as error:  # what no single field shows
            raise PydanticCustomError(
                "options", "{message}", {"field": error.field, "message": error.message}
            ) from None
        return self

    @property
    def decoding(self) -> DecodingOptions:
        """The options as decoding takes them."""
        return self._decoding


Detail = Annotated[
    Literal["chunks"] | None,
    Field(description="chunks: what came of each chunk too, with its place in the text. Not with on_long truncate."),
]


class SummarizeBody(SummaryOptions):
    """One or more texts to summarize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": EXAMPLE_TEXT, "max_new_tokens": 48}]})

    text: Texts = Field(description="A text, or a list of texts.")
    stream: bool = Field(
        default=False, description="Send the summary while it is decoded, as server-sent events; one text, no beams."
    )
    detail: Detail = None


class EmotionsBody(Body):
    """One or more texts whose emotions to detect."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": EXAMPLE_COMMENT}]})

    text: Texts = Field(description="A text, or a list of texts.")
    top_k: int | None = Field(default=None, ge=MIN_TOP_K, description="Return the k best, whatever any threshold.")
    threshold: float | None = Field(
        default=None,
        ge=MIN_THRESHOLD,
        le=MAX_THRESHOLD,
        description="Minimum score of all labels, instead of their own thresholds; 0 returns all.",
    )


class TopicBody(Body):
    """One or more texts whose topic to detect."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": EXAMPLE_TEXT}]})

    text: Texts = Field(description="A text, or a list of texts.")
    top_k: int | None = Field(default=None, ge=MIN_TOP_K, description="Return the k best scores; all by default.")


class ClassifyBody(Body):
    """One or more texts to classify with one of the checkpoint's heads."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": EXAMPLE_TEXT}]})

    text: Texts = Field(description="A text, or a list of texts.")
    top_k: int | None = Field(default=None, ge=MIN_TOP_K, description="Return the k best labels.")
    threshold: float | None = Field(
        default=None,
        ge=MIN_THRESHOLD,
        le=MAX_THRESHOLD,
        description="For a multi-label head: minimum score of all labels, instead of their thresholds; 0 returns all.",
    )


class AnalyzeBody(Body):
    """One or more texts for several tasks at once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": EXAMPLE_TEXT, "tasks": ["summarize", "topic"], "summary": {"num_beams": 2}}]
        }
    )

    text: Texts = Field(description="A text, or a list of texts.")
    tasks: Annotated[list[TaskName], Field(min_length=1, fail_fast=True), AtMostEveryTask] | None = Field(
        default=None, description="Which tasks; all that the checkpoint has by default."
    )
    summary: SummaryOptions = Field(
        default_factory=SummaryOptions, description="How to summarize; its on_long holds for the whole text."
    )
    detail: Detail = None
