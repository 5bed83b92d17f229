"""What comes back for a text: its result as the engine's numbers give it, and the JSON answer made of that.

Below the HTTP routes and the command line, which give the same answers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from app.support import Support
from app.thresholds import Score, passing, ranked
from app.warnings import AnswerWarning
from model.inference.decoding.options import FinishReason
from model.storage.checkpoint import Checkpoint
from model.tasks import Head

Warnings = Annotated[
    list[AnswerWarning] | SkipJsonSchema[None],
    Field(description="Reasons not to trust the answer; absent when there are none."),
]
CheckpointName = Annotated[str, Field(description="The checkpoint that answered.", examples=["tiny"])]


class ChunkDetail(BaseModel):
    """What came of one chunk of the text, code points `start` to `end` of it as it was sent."""

    start: int = Field(examples=[0])
    end: int = Field(examples=[1874])
    summary: str | SkipJsonSchema[None] = Field(
        default=None, description="Of the chunk alone; absent if not requested."
    )
    scores: dict[str, list[Score]] | SkipJsonSchema[None] = Field(
        default=None, description="By head, the scores of all labels, best first; absent without heads."
    )


Details = Annotated[
    list[ChunkDetail] | SkipJsonSchema[None], Field(description="What came of each chunk; absent unless requested.")
]


class SummaryAnswer(BaseModel):
    """A summary, and the tokens that it was made from and of."""

    summary: str = Field(examples=["Shares of the chip maker rose 12% after record profits."])
    finish_reason: FinishReason = Field(description="stop: it is complete; length: max_new_tokens came first.")
    input_tokens: int = Field(description="Tokens read, prompt and end token included.", examples=[61])
    output_tokens: int = Field(examples=[17])
    chunks: int = Field(description="Parts in which the text was read.", examples=[1])
    model: CheckpointName
    support: Support | SkipJsonSchema[None] = Field(
        default=None, description="What backs the summary in the text; absent unless requested."
    )
    rounds: int | SkipJsonSchema[None] = Field(
        default=None, description='With on_long "reduce": how often summaries were made, the first of the text itself.'
    )
    details: Details = None
    warnings: Warnings = None


class EmotionsAnswer(BaseModel):
    """The emotions that reach their thresholds, best first."""

    emotions: list[Score]
    model: CheckpointName
    warnings: Warnings = None


class TopicAnswer(BaseModel):
    """The topic, and the scores of all, best first."""

    topic: str = Field(examples=["Business"])
    score: float = Field(examples=[0.88])
    scores: list[Score]
    model: CheckpointName
    warnings: Warnings = None


class LabelsAnswer(BaseModel):
    """For a multi-label head: the labels that reach their thresholds, best first."""

    labels: list[Score]
    model: CheckpointName
    warnings: Warnings = None


class LabelAnswer(BaseModel):
    """For a single-label head: the best label, and the scores of all, best first."""

    label: str = Field(examples=["politics"])
    score: float = Field(examples=[0.88])
    scores: list[Score]
    model: CheckpointName
    warnings: Warnings = None


HeadAnswer = EmotionsAnswer | TopicAnswer | LabelsAnswer | LabelAnswer


class AnalyzeAnswer(BaseModel):
    """The answer of each task, further heads under their names; tasks that were not requested are absent."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, LabelsAnswer | LabelAnswer] = Field(init=False)

    summary: SummaryAnswer | None = None
    emotions: EmotionsAnswer | None = None
    topic: TopicAnswer | None = None
    details: Details = None
    warnings: Warnings = None


@dataclass(frozen=True)
class TextResult:
    """The result of a `TextRequest` for one text: the summary or None, and of each head the probability of each label.

    The probabilities are in the order of the head's labels. `warnings` are of the text, `head_warnings` of its labels;
    `details` of its chunks, where they are wanted.
    """

    summary: SummaryAnswer | None
    scores: Mapping[str, tuple[float, ...]]
    warnings: tuple[AnswerWarning, ...] = ()
    head_warnings: Mapping[str, tuple[AnswerWarning, ...]] = field(default_factory=dict)
    details: tuple[ChunkDetail, ...] | None = None

    def warnings_of(self, *heads: str) -> list[AnswerWarning] | None:
        """Those of the text and of `heads`; None when there are none."""
        return [*self.warnings, *(one for head in heads for one in self.head_warnings.get(head, ()))] or None


def summary_answer(_: Checkpoint, result: TextResult) -> SummaryAnswer:
    """The summary, which must have been requested, as `/summarize` gives it."""
    assert result.summary is not None
    details = None if result.details is None else list(result.details)
    return result.summary.model_copy(update={"warnings": result.warnings_of(), "details": details})


def head_answer(
    checkpoint: Checkpoint, head: Head, result: TextResult, top_k: int | None = None, threshold: float | None = None
) -> LabelsAnswer | LabelAnswer:
    """Of a single-label head the best label, and the `top_k` best with their scores, or all.

    Of a multi-label head the labels that `passing` selects.
    """
    probabilities, warnings = result.scores[head.name], result.warnings_of(head.name)
    if head.kind == "multi_label":
        labels = passing(head, probabilities, top_k, threshold)
        return LabelsAnswer(labels=labels, model=checkpoint.name, warnings=warnings)
    scores = ranked(head.labels, probabilities)
    best = scores[0]
    return LabelAnswer(
        label=best.label, score=best.score, scores=scores[:top_k], model=checkpoint.name, warnings=warnings
    )


def emotions_answer(
    checkpoint: Checkpoint, result: TextResult, top_k: int | None = None, threshold: float | None = None
) -> EmotionsAnswer:
    """The emotions as `/emotions` gives them."""
    emotions = passing(checkpoint.tasks.head("emotions"), result.scores["emotions"], top_k, threshold)
    return EmotionsAnswer(emotions=emotions, model=checkpoint.name, warnings=result.warnings_of("emotions"))


def topic_answer(checkpoint: Checkpoint, result: TextResult, top_k: int | None = None) -> TopicAnswer:
    """The topic as `/topic` gives it."""
    scores = ranked(checkpoint.tasks.head("topic").labels, result.scores["topic"])
    return TopicAnswer(
        topic=scores[0].label,
        score=scores[0].score,
        scores=scores[:top_k],
        model=checkpoint.name,
        warnings=result.warnings_of("topic"),
    )


_BUILT_IN: dict[str, Callable[[Checkpoint, TextResult], HeadAnswer]] = {
    "emotions": emotions_answer,
    "topic": topic_answer,
}


def analyze_answer(checkpoint: Checkpoint, result: TextResult) -> AnalyzeAnswer:
    """Every part of the result, each as its own route gives it; warnings of the text are given once."""
    part = replace(result, warnings=())
    heads = {
        name: _BUILT_IN[name](checkpoint, part)
        if name in _BUILT_IN
        else head_answer(checkpoint, checkpoint.tasks.head(name), part)
        for name in result.scores
    }
    whole = {"details": result.details and list(result.details), "warnings": result.warnings_of()}
    return AnalyzeAnswer.model_validate({"summary": result.summary, **heads, **whole})
