"""Scores against independent references, and what their intervals must do."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu

from training.evaluation.scores import bleu, compare, f1, mean, rouge

PREDICTIONS = ["The council builds a bridge.", "Profits rose at the chip maker.", "They won."] * 4
REFERENCES = ["The council will build a new bridge.", "The chip maker had record profits.", "The home side won."] * 4


def test_rouge_is_the_mean_of_the_library() -> None:
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    expected = [scorer.score(r, p) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]
    scores = rouge(PREDICTIONS, REFERENCES)
    for name in ("rouge1", "rougeL"):
        assert scores[name].value == pytest.approx(np.mean([one[name].fmeasure for one in expected]))


def test_rouge_lsum_goes_sentence_by_sentence() -> None:
    swapped = rouge(["They won. It rained."], ["It rained. They won."])
    assert swapped["rougeLsum"].value == 1.0
    assert swapped["rougeL"].value == 0.5


def test_bleu_is_the_corpus_score_of_sacrebleu() -> None:
    longer = [*PREDICTIONS, "The council will build a new bridge over the river."]
    references = [*REFERENCES, "The council will build a new bridge over the old river."]
    assert bleu(longer, references).value == pytest.approx(corpus_bleu(longer, [references]).score / 100)


def test_f1_by_hand() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 0], [1, 0]], dtype=bool)
    predicted = np.array([[1, 0], [0, 1], [1, 0], [1, 1]], dtype=bool)
    # label 0: 2 hits, 3 predicted, 3 true: 2/3. label 1: 1 hit, 2 predicted, 1 true: 2/3.
    assert f1(predicted, truth, "macro").value == pytest.approx(2 / 3)
    assert f1(predicted, truth, "micro").value == pytest.approx(6 / 9)
    assert f1(predicted, truth, "label:1").value == pytest.approx(2 / 3)
    assert f1(predicted, truth, "samples").value == pytest.approx((1 + 2 / 3 + 0 + 2 / 3) / 4)


def test_a_label_that_is_never_there_counts_zero() -> None:
    truth = np.array([[1, 0], [1, 0]], dtype=bool)
    assert f1(truth, truth, "macro").value == 0.5


def test_interval_holds_the_value_and_narrows_with_rows() -> None:
    rng = np.random.default_rng(0)
    few, many = mean(rng.random(40)), mean(rng.random(4000))
    for score in (few, many):
        low, high = score.interval()
        assert low < score.value < high
    assert np.ptp(many.interval()) < np.ptp(few.interval()) / 5


def test_interval_of_a_mean_is_the_one_of_the_central_limit() -> None:
    values = np.random.default_rng(1).normal(size=2000)
    low, high = mean(values).interval()
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 2000**0.5, rel=0.1)  # 1000 resamples: ± 5 %


def test_paired_comparison_sees_a_small_steady_gain() -> None:
    values = np.random.default_rng(2).random(300)
    better = compare(mean(values + 0.01), mean(values))
    assert better.value == pytest.approx(0.01)
    assert better.low > 0
    assert better.p == 0
    same = compare(mean(values), mean(values))
    assert (same.value, same.p) == (0, 1)
