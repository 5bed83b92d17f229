"""A head's probabilities as ranked labels, and which of them pass: thresholds and `top_k`."""

from pydantic import BaseModel, Field

from model.tasks import Head

MIN_TOP_K = 1
MIN_THRESHOLD, MAX_THRESHOLD = 0, 1


class Score(BaseModel):
    """A label and its probability."""

    label: str = Field(examples=["gratitude"])
    score: float = Field(examples=[0.93])


def ranked(labels: tuple[str, ...], probabilities: tuple[float, ...]) -> list[Score]:
    """Every label with its probability, best first; equal ones in the order of the labels."""
    pairs = zip(labels, probabilities, strict=True)
    return [Score(label=label, score=score) for label, score in sorted(pairs, key=lambda pair: -pair[1])]


def passing(
    head: Head, probabilities: tuple[float, ...], top_k: int | None = None, threshold: float | None = None
) -> list[Score]:
    """Of a multi-label head the `top_k` best labels, or those at or above `threshold`, or above each label's own."""
    scores = ranked(head.labels, probabilities)
    if top_k is not None:
        return scores[:top_k]
    thresholds = dict(zip(head.labels, head.thresholds, strict=True))
    return [one for one in scores if one.score >= (thresholds[one.label] if threshold is None else threshold)]
