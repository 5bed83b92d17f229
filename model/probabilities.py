"""How a head's logits become probabilities, and how those of a long text's chunks become its own; by kind."""

from collections.abc import Sequence

from torch import Tensor

from model.tasks import HeadKind


def probabilities(logits: Tensor, kind: HeadKind, temperature: float = 1.0) -> Tensor:
    """(…, labels) to float32 in [0, 1]: each label for itself, or a distribution over them (`single_label`).

    `temperature` divides the logits (Guo et al. 2017): above 1 it makes probabilities less extreme.
    """
    scaled = logits.float() / temperature
    return scaled.sigmoid() if kind == "multi_label" else scaled.softmax(dim=-1)


def energy(logits: Tensor) -> Tensor:
    """How well any label fits, (…, labels) to (…): log Σ exp, the negative free energy of Liu et al. 2020.

    High for texts as a single-label head has learned from, low for others, of which the probabilities say nothing: they
    add up to 1 whatever the text.
    """
    return logits.float().logsumexp(dim=-1)


def joined(chunks: Sequence[tuple[int, tuple[float, ...]]], kind: HeadKind) -> tuple[float, ...]:
    """The probabilities of a text from its chunks' number of tokens and probabilities.

    `multi_label`: of each label the highest. A text in which one passage is angry has anger in it, however calm the
    rest; a mean would drown it. `single_label`: the mean by tokens. A text's label is what most of it is about.
    """
    columns = zip(*(values for _, values in chunks), strict=True)
    if kind == "multi_label":
        return tuple(map(max, columns))
    weights = [weight for weight, _ in chunks]
    return tuple(mean_by_tokens(list(zip(weights, column, strict=True))) for column in columns)


def mean_by_tokens(chunks: Sequence[tuple[int, float]]) -> float:
    """The mean of the chunks' values, each counted as often as it has tokens."""
    return sum(weight * value for weight, value in chunks) / sum(weight for weight, _ in chunks)
