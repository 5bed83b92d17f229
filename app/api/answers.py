"""An answer's numbers → the JSON that each route gives, by the checkpoint's labels and thresholds."""

from app.api.schemas import AnalyzeAnswer, EmotionsAnswer, Score, SummaryAnswer, TopicAnswer
from app.documents import Answer, Summary
from model.checkpoint import Checkpoint


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


def emotions_answer(
    checkpoint: Checkpoint, emotions: tuple[float, ...], top_k: int | None = None, threshold: float | None = None
) -> EmotionsAnswer:
    """The `top_k` best labels, or those at or above `threshold`, or else at or above each label's own, best first."""
    tasks = checkpoint.tasks
    ranked = scores(tasks.emotion_labels, emotions)
    if top_k is not None:
        ranked = ranked[:top_k]
    else:
        own = dict(zip(tasks.emotion_labels, tasks.emotion_thresholds, strict=True))
        ranked = [one for one in ranked if one.score >= (own[one.label] if threshold is None else threshold)]
    return EmotionsAnswer(emotions=ranked, model=checkpoint.name)


def topic_answer(checkpoint: Checkpoint, topic: tuple[float, ...], top_k: int | None = None) -> TopicAnswer:
    """The best topic, and the `top_k` best with their scores, or all."""
    ranked = scores(checkpoint.tasks.topic_labels, topic)
    best = ranked[0]
    return TopicAnswer(topic=best.label, score=best.score, scores=ranked[:top_k], model=checkpoint.name)


def analyze_answer(checkpoint: Checkpoint, answer: Answer) -> AnalyzeAnswer:
    """What was asked, each as its own route gives it."""
    return AnalyzeAnswer(
        summary=None if answer.summary is None else summary_answer(checkpoint, answer.summary),
        emotions=None if answer.emotions is None else emotions_answer(checkpoint, answer.emotions),
        topic=None if answer.topic is None else topic_answer(checkpoint, answer.topic),
    )


def scores(labels: tuple[str, ...], probabilities: tuple[float, ...]) -> list[Score]:
    """Every label with its probability, best first; equals stay in the order of the labels."""
    pairs = zip(labels, probabilities, strict=True)
    return [Score(label=label, score=score) for label, score in sorted(pairs, key=lambda pair: -pair[1])]
