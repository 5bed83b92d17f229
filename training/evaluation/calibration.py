"""Turning logits into decisions and calibrated probabilities: thresholds, a temperature, and the error that is left.

Everything is fitted on one half of a split and measured on the other (`halves`), never on the same rows.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.probabilities import probabilities as of_tensor
from model.tasks import HeadKind
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


def probabilities(logits: Logits, kind: HeadKind, temperature: float = 1.0) -> Logits:
    """As the server has them (`model.probabilities`), in float32."""
    scaled: Logits = of_tensor(torch.from_numpy(np.asarray(logits, np.float32)), kind, temperature).numpy()
    return scaled


def at_temperature(threshold: float, temperature: float) -> float:
    """What a threshold on probabilities of temperature 1 is on those of `temperature`: σ(logit(t)/T).

    The decisions are the same: both are the same bound on the logit.
    """
    odds = math.log(threshold / (1 - threshold)) / temperature
    return 1 / (1 + math.exp(-odds))


def fit_temperature(logits: Logits, truth: Flags, kind: HeadKind) -> float:
    """The divisor of the logits with the best likelihood of `truth` (rows, labels) (Guo et al. 2017)."""

    def loss(temperature: float) -> float:
        if kind == "single_label":
            return float(-np.log(np.maximum(probabilities(logits, kind, temperature)[truth], 1e-12)).mean())
        scaled = logits / temperature
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
