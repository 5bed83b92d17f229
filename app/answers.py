"""What comes back for a text: its result as the engine's numbers give it, and the JSON answer made of that.

Below the HTTP routes and the command line, which give the same answers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.thresholds import Score, passing, ranked
from model.inference.decoding.options import FinishReason
from model.storage.checkpoint import Checkpoint
from model.tasks import Head

CheckpointName = Annotated[str, Field(description="The checkpoint that answered.", examples=["tiny"])]


class SummaryAnswer(BaseModel):
    """A summary, and the tokens that it was made from and of."""

    summary: str = Field(examples=["Shares of the chip maker rose 12% after record profits."])
    finish_reason: FinishReason = Field(description="stop: it is complete; length: max_new_tokens came first.")
    input_tokens: int = Field(description="Tokens read, prompt and end token included.", examples=[61])
    output_tokens: int = Field(examples=[17])
    chunks: int = Field(description="Parts in which the text was read.", examples=[1])
    model: CheckpointName


class EmotionsAnswer(BaseModel):
    """The emotions that reach their thresholds, best first."""

    emotions: list[Score]
    model: CheckpointName


class TopicAnswer(BaseModel):
    """The topic, and the scores of all, best first."""

    topic: str = Field(examples=["Business"])
    score: float = Field(examples=[0.88])
    scores: list[Score]
    model: CheckpointName


class LabelsAnswer(BaseModel):
    """For a multi-label head: the labels that reach their thresholds, best first."""

    labels: list[Score]
    model: CheckpointName


class LabelAnswer(BaseModel):
    """For a single-label head: the best label, and the scores of all, best first."""

    label: str = Field(examples=["politics"])
    score: float = Field(examples=[0.88])
    scores: list[Score]
    model: CheckpointName


HeadAnswer = EmotionsAnswer | TopicAnswer | LabelsAnswer | LabelAnswer


class AnalyzeAnswer(BaseModel):
    """The answer of each task, further heads under their names; tasks that were not requested are absent."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, LabelsAnswer | LabelAnswer] = Field(init=False)

    summary: SummaryAnswer | None = None
    emotions: EmotionsAnswer | None = None
    topic: TopicAnswer | None = None


@dataclass(frozen=True)
class TextResult:
    """The result of a `TextRequest` for one text: the summary or None, and of each head the probability of each label.

    The probabilities are in the order of the head's labels.
    """

    summary: SummaryAnswer | None
    scores: Mapping[str, tuple[float, ...]]


def summary_answer(_: Checkpoint, result: TextResult) -> SummaryAnswer:
    """The summary, which must have been requested, as `/summarize` gives it."""
    assert result.summary is not None
    return result.summary


def head_answer(
    checkpoint: Checkpoint,
    head: Head,
    probabilities: tuple[float, ...],
    top_k: int | None = None,
    threshold: float | None = None,
) -> LabelsAnswer | LabelAnswer:
    """Of a single-label head the best label, and the `top_k` best with their scores, or all.

    Of a multi-label head the labels that `passing` selects.
    """
    if head.kind == "multi_label":
        return LabelsAnswer(labels=passing(head, probabilities, top_k, threshold), model=checkpoint.name)
    scores = ranked(head.labels, probabilities)
    return LabelAnswer(label=scores[0].label, score=scores[0].score, scores=scores[:top_k], model=checkpoint.name)


def emotions_answer(
    checkpoint: Checkpoint, probabilities: tuple[float, ...], top_k: int | None = None, threshold: float | None = None
) -> EmotionsAnswer:
    """The emotions as `/emotions` gives them."""
    head = checkpoint.tasks.head("emotions")
    return EmotionsAnswer(emotions=passing(head, probabilities, top_k, threshold), model=checkpoint.name)


def topic_answer(checkpoint: Checkpoint, probabilities: tuple[float, ...], top_k: int | None = None) -> TopicAnswer:
    """The topic as `/topic` gives it."""
    scores = ranked(checkpoint.tasks.head("topic").labels, probabilities)
    return TopicAnswer(topic=scores[0].label, score=scores[0].score, scores=scores[:top_k], model=checkpoint.name)


_BUILT_IN: dict[str, Callable[[Checkpoint, tuple[float, ...]], HeadAnswer]] = {
    "emotions": emotions_answer,
    "topic": topic_answer,
}


def analyze_answer(checkpoint: Checkpoint, result: TextResult) -> AnalyzeAnswer:
    """Every part of the result, each as its own route gives it."""
    heads = {
        name: _BUILT_IN[name](checkpoint, probabilities)
        if name in _BUILT_IN
        else head_answer(checkpoint, checkpoint.tasks.head(name), probabilities)
        for name, probabilities in result.scores.items()
    }
    return AnalyzeAnswer.model_validate({"summary": result.summary, **heads})
