"""Turning logits into decisions and honest probabilities: thresholds, a temperature, and the error that is left.

Everything is fitted on one half of a split and measured on the other (`halves`), never on the same rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluation.scores import Flags

Logits = NDArray[np.floating[Any]]

_THRESHOLDS = np.arange(0.02, 0.9, 0.01)
_TEMPERATURES = np.geomspace(0.25, 4.0, 81)  # 1.0 is among them
_BINS = 15


def halves(num_rows: int) -> tuple[slice, slice]:
    """The rows to tune on and the rows to score on: every second one each."""
    assert num_rows > 1
    return slice(0, None, 2), slice(1, None, 2)


def tune_thresholds(probabilities: Logits, truth: Flags) -> tuple[float, ...]:
    """For each label the threshold on a grid that gives the best F1 on these rows (rows, labels)."""
    best = []
    for label in range(truth.shape[1]):
        predicted = probabilities[:, label, None] >= _THRESHOLDS
        hits = (predicted & truth[:, label, None]).sum(0)
        scores = 2 * hits / np.maximum(predicted.sum(0) + truth[:, label].sum(), 1)
        best.append(round(float(_THRESHOLDS[int(scores.argmax())]), 2))
    return tuple(best)


def sigmoid(logits: Logits) -> Logits:
    """Independent probabilities."""
    out: Logits = 1 / (1 + np.exp(-logits))
    return out


def softmax(logits: Logits) -> Logits:
    """Probabilities that exclude each other, along the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    out: Logits = powers / powers.sum(-1, keepdims=True)
    return out


def fit_temperature(logits: Logits, truth: Flags, *, exclusive: bool) -> float:
    """The divisor of the logits with the best likelihood of `truth` (rows, labels) (Guo et al. 2017).

    `exclusive`: one label a row (softmax); otherwise each label for itself (sigmoid).
    """

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        if exclusive:
            return float(-np.log(np.maximum(softmax(scaled)[truth], 1e-12)).mean())
        return float((np.logaddexp(0, scaled) - scaled * truth).mean())

    return float(min(_TEMPERATURES, key=loss))


def calibration_error(probabilities: Logits, truth: Flags) -> float:
    """Expected calibration error: mean distance of stated probability and observed share, over 15 equal bins."""
    stated, observed = probabilities.ravel(), truth.ravel()
    bins = np.minimum((stated * _BINS).astype(int), _BINS - 1)
    totals = np.bincount(bins, stated - observed, minlength=_BINS)
    return float(np.abs(totals).sum() / len(stated))


def reliability(probabilities: Logits, truth: Flags) -> list[tuple[float, float, int]]:
    """For each bin that holds something: mean stated probability, observed share, number."""
    stated, observed = probabilities.ravel(), truth.ravel()
    bins = np.minimum((stated * _BINS).astype(int), _BINS - 1)
    return [
        (float(stated[inside].mean()), float(observed[inside].mean()), int(inside.sum()))
        for inside in (bins == number for number in range(_BINS))
        if inside.any()
    ]
