"""A head on one split: its scores and facts by its kind, its thresholds and its temperature fitted on dev.

Scores are named after the head: `NAME.accuracy` and `NAME.macro_f1` of one label a text; `NAME.macro_f1` (…
`micro_f1`, `samples_f1`, `macro_f1_at_half`) and `NAME.label.LABEL` of several, `NAME.not_opposite` of emotions
(`training.evaluation.comments`); the same after `NAME.tfidf.` for the
baseline of a head of one's own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from model.tasks import Head, HeadKind
from training.data.examples import Example
from training.evaluation.baseline import tfidf_probabilities
from training.evaluation.calibration import (
    Logits,
    at_temperature,
    calibration_error,
    fit_temperature,
    halves,
    probabilities,
    reliability,
    tune_thresholds,
)
from training.evaluation.scores import Flags, Score, f1, mean

MAIN_SCORE: dict[HeadKind, str] = {"multi_label": "macro_f1", "single_label": "accuracy"}
SCORES: dict[HeadKind, tuple[str, ...]] = {
    "multi_label": ("macro_f1", "micro_f1", "samples_f1"),
    "single_label": ("accuracy", "macro_f1"),
}
_AVERAGES = {"macro_f1": "macro", "micro_f1": "micro", "samples_f1": "samples"}


def score_head(
    head: Head, logits: Logits, examples: Sequence[Example], *, tunes: bool
) -> tuple[Head, int, dict[str, Score], dict[str, Any]]:
    """Scores of a head by its `logits` (examples, labels).

    `tunes`: thresholds and temperature are fitted on one half of `examples` and scored on the other; else the head is
    scored as it is.

    Returns:
        The head as it was scored, on how many rows, the scores without the head's name, and the facts.
    """
    truth = labels_of(head, examples)
    tuned, rest = halves(len(examples))
    if tunes:
        head = _fitted(head, logits[tuned], truth[tuned])
    scored = rest if tunes else slice(None)
    facts = _calibration(head, logits[scored], truth[scored])
    if head.kind == "single_label":
        # Which label is the best does not depend on what was fitted, so that every row can be scored.
        chosen = logits.argmax(1)
        predicted = one_hot(chosen, len(head.labels))
        confusion = (truth.astype(int).T @ predicted.astype(int)).tolist()  # rows: true, columns: predicted
        facts = {"labels": list(head.labels), "confusion": confusion, **facts}
        return head, len(examples), _of_one_label(predicted, truth), facts
    predicted = probabilities(logits[scored], head.kind, head.temperature) >= np.array(head.thresholds, np.float32)
    scores = _of_several(head, predicted, truth[scored])
    scores["macro_f1_at_half"] = f1(logits[scored] >= 0, truth[scored], "macro")
    facts = {
        "thresholds": dict(zip(head.labels, head.thresholds, strict=True)),
        "support": dict(zip(head.labels, truth[scored].sum(0).tolist(), strict=True)),
        **facts,
    }
    return head, len(predicted), scores, facts


def score_baseline(
    head: Head, train: Sequence[Example], examples: Sequence[Example], *, tunes: bool
) -> dict[str, Score]:
    """The head's scores, as `score_head` has them, of TF-IDF and logistic regression learned from `train`.

    Its thresholds are fitted as the head's are where that `tunes`, and .5 otherwise.
    """
    found = tfidf_probabilities(head, train, [example.source for example in examples])
    truth = labels_of(head, examples)
    if head.kind == "single_label":
        return _of_one_label(one_hot(found.argmax(1), len(head.labels)), truth)
    tuned, rest = halves(len(examples))
    thresholds = tune_thresholds(found[tuned], truth[tuned]) if tunes else (0.5,) * len(head.labels)
    scored = rest if tunes else slice(None)
    return {
        name: f1(found[scored] >= np.array(thresholds, np.float32), truth[scored], average)
        for name, average in _AVERAGES.items()
    }


def labels_of(head: Head, examples: Sequence[Example]) -> Flags:
    """Which labels each example has: (examples, labels)."""
    out = np.zeros((len(examples), len(head.labels)), dtype=bool)
    for number, example in enumerate(examples):
        out[number, list(example.labels[head.name])] = True
    return out


def one_hot(numbers: np.ndarray[Any, Any], width: int) -> Flags:
    """(rows,) to (rows, width)."""
    return np.asarray(numbers[:, None] == np.arange(width))


def _fitted(head: Head, logits: Logits, truth: Flags) -> Head:
    temperature = fit_temperature(logits, truth, head.kind)
    if head.kind == "single_label":
        return replace(head, temperature=temperature)
    thresholds = tune_thresholds(probabilities(logits, head.kind), truth)
    thresholds = tuple(at_temperature(threshold, temperature) for threshold in thresholds)
    return replace(head, temperature=temperature, thresholds=thresholds)


def _of_one_label(predicted: Flags, truth: Flags) -> dict[str, Score]:
    return {"accuracy": mean(np.asarray((predicted & truth).any(1))), "macro_f1": f1(predicted, truth, "macro")}


def _of_several(head: Head, predicted: Flags, truth: Flags) -> dict[str, Score]:
    scores = {name: f1(predicted, truth, average) for name, average in _AVERAGES.items()}
    return scores | {
        f"label.{label}": f1(predicted, truth, f"label:{number}") for number, label in enumerate(head.labels)
    }


def _calibration(head: Head, logits: Logits, truth: Flags) -> dict[str, Any]:
    plain, scaled = (probabilities(logits, head.kind, temperature) for temperature in (1.0, head.temperature))
    return {
        "calibration_error": calibration_error(plain, truth),
        "reliability": reliability(plain, truth),
        "temperature": head.temperature,
        "calibration_error_at_temperature": calibration_error(scaled, truth),
        "reliability_at_temperature": reliability(scaled, truth),
    }
