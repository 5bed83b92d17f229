"""An answer's numbers → the JSON that each route gives, by the labels and thresholds of the checkpoint's heads."""

from collections.abc import Callable

from app.api.schemas import (
    AnalyzeAnswer,
    EmotionsAnswer,
    HeadAnswer,
    LabelAnswer,
    LabelsAnswer,
    Score,
    SummaryAnswer,
    TopicAnswer,
)
from app.documents import Answer, Summary
from model.storage.checkpoint import Checkpoint
from model.tasks import Head


def summary_answer(checkpoint: Checkpoint, summary: Summary) -> SummaryAnswer:
    """The summary as `/summarize` gives it."""
    return SummaryAnswer(
        summary=summary.text,
        finish_reason=summary.finish_reason,
        input_tokens=summary.input_tokens,
        output_tokens=summary.output_tokens,
        chunks=summary.chunks,
        model=checkpoint.name,
    )


def head_answer(
    checkpoint: Checkpoint,
    head: Head,
    probabilities: tuple[float, ...],
    top_k: int | None = None,
    threshold: float | None = None,
) -> LabelsAnswer | LabelAnswer:
    """Of a single-label head the best label, and the `top_k` best with their scores, or all.

    Of a multi-label head the `top_k` best, or those at or above `threshold`, or else at or above each label's own.
    """
    ranked = scores(head.labels, probabilities)
    if head.kind == "single_label":
        best = ranked[0]
        return LabelAnswer(label=best.label, score=best.score, scores=ranked[:top_k], model=checkpoint.name)
    if top_k is not None:
        return LabelsAnswer(labels=ranked[:top_k], model=checkpoint.name)
    own = dict(zip(head.labels, head.thresholds, strict=True))
    passing = [one for one in ranked if one.score >= (own[one.label] if threshold is None else threshold)]
    return LabelsAnswer(labels=passing, model=checkpoint.name)


def emotions_answer(
    checkpoint: Checkpoint, emotions: tuple[float, ...], top_k: int | None = None, threshold: float | None = None
) -> EmotionsAnswer:
    """The emotions as `/emotions` gives them."""
    answer = head_answer(checkpoint, checkpoint.tasks.head("emotions"), emotions, top_k, threshold)
    assert isinstance(answer, LabelsAnswer)
    return EmotionsAnswer(emotions=answer.labels, model=answer.model)


def topic_answer(checkpoint: Checkpoint, topic: tuple[float, ...], top_k: int | None = None) -> TopicAnswer:
    """The topic as `/topic` gives it."""
    answer = head_answer(checkpoint, checkpoint.tasks.head("topic"), topic, top_k)
    assert isinstance(answer, LabelAnswer)
    return TopicAnswer(topic=answer.label, score=answer.score, scores=answer.scores, model=answer.model)


_OWN_SHAPE: dict[str, Callable[[Checkpoint, tuple[float, ...]], HeadAnswer]] = {
    "emotions": emotions_answer,
    "topic": topic_answer,
}


def analyze_answer(checkpoint: Checkpoint, answer: Answer) -> AnalyzeAnswer:
    """What was asked, each as its own route gives it."""
    heads = {
        name: _OWN_SHAPE[name](checkpoint, found)
        if name in _OWN_SHAPE
        else head_answer(checkpoint, checkpoint.tasks.head(name), found)
        for name, found in answer.scores.items()
    }
    return AnalyzeAnswer.model_validate(
        {"summary": answer.summary and summary_answer(checkpoint, answer.summary), **heads}
    )


def scores(labels: tuple[str, ...], probabilities: tuple[float, ...]) -> list[Score]:
    """Every label with its probability, best first; equals stay in the order of the labels."""
    pairs = zip(labels, probabilities, strict=True)
    return [Score(label=label, score=score) for label, score in sorted(pairs, key=lambda pair: -pair[1])]
