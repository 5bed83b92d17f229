"""Scores of predictions against references: ROUGE, F1, accuracy, and the tuning of thresholds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer

_ROUGE = ("rouge1", "rouge2", "rougeL")
_GRID = np.arange(0.02, 0.9, 0.01)


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-1, -2 and -L F (Lin 2004), Porter-stemmed, in [0, 1]."""
    scorer = RougeScorer(list(_ROUGE), use_stemmer=True)
    scores = [scorer.score(r, p) for p, r in zip(predictions, references, strict=True)]
    return {name: float(np.mean([score[name].fmeasure for score in scores])) for name in _ROUGE}


def macro_f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Mean over labels of F1, (rows, labels) each; a label that is neither there nor predicted counts 0."""
    hits = (predicted & truth).sum(0)
    total = predicted.sum(0) + truth.sum(0)
    return float(np.mean(2 * hits / np.maximum(total, 1)))


def tune_thresholds(probabilities: NDArray[np.float32], truth: NDArray[np.bool_]) -> tuple[float, ...]:
    """For each label the threshold on a grid that gives the best F1 on these rows."""
    best = []
    for label in range(truth.shape[1]):
        predicted = probabilities[:, label, None] >= _GRID
        hits = (predicted & truth[:, label, None]).sum(0)
        scores = 2 * hits / np.maximum(predicted.sum(0) + truth[:, label].sum(), 1)
        best.append(round(float(_GRID[int(scores.argmax())]), 2))
    return tuple(best)
