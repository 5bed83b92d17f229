"""Heads on a split: what is fitted on one half is scored on the other, by kind; and what words alone predict."""

import math
from dataclasses import replace

import numpy as np
import pytest

from model.tasks import Head
from training.data.examples import Example
from training.evaluation.baseline import tfidf_probabilities
from training.evaluation.heads import labels_of, one_hot, score_baseline, score_head

ONE = Head("ticket", "single_label", ("bill", "bug", "praise"))
SEVERAL = Head("tags", "multi_label", ("late", "rude"), (0.5, 0.5))
TEXTS = {0: "the invoice charges twice", 1: "the screen crashes again", 2: "wonderful friendly staff"}


def rows(head: Head, labels: list[tuple[int, ...]]) -> list[Example]:
    return [Example(" and ".join(TEXTS[n] for n in one) or "nothing", "x", labels={head.name: one}) for one in labels]


def test_labels_are_flags() -> None:
    found = labels_of(SEVERAL, rows(SEVERAL, [(0,), (), (0, 1)]))
    assert found.tolist() == [[True, False], [False, False], [True, True]]
    assert one_hot(np.array([2, 0]), 3).tolist() == [[False, False, True], [True, False, False]]


def test_one_label_is_scored_on_every_row_with_its_confusion() -> None:
    logits = np.log(np.array([[8, 1, 1], [1, 8, 1], [8, 1, 1], [1, 1, 8]], dtype=np.float32) / 10)
    examples = rows(ONE, [(0,), (1,), (1,), (2,)])
    head, num_rows, scores, facts = score_head(ONE, logits, examples, tunes=True)
    assert num_rows == 4
    assert scores["accuracy"].value == 0.75
    assert scores["macro_f1"].value == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert facts["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]  # a true `bug` was taken for `bill`
    assert facts["labels"] == ["bill", "bug", "praise"]
    assert head.temperature == facts["temperature"]


def test_thresholds_are_fitted_on_one_half_and_scored_on_the_other() -> None:
    # On even rows the label is there from probability .2 on; odd rows say the same but for one.
    stated = [0.1, 0.1, 0.3, 0.3, 0.15, 0.15, 0.4, 0.4, 0.12, 0.35]
    there = [False, False, True, True, False, False, True, True, False, False]
    logits = np.array([[math.log(p / (1 - p)), -3.0] for p in stated], dtype=np.float32)
    examples = rows(SEVERAL, [(0,) if one else () for one in there])
    head, num_rows, scores, facts = score_head(SEVERAL, logits, examples, tunes=True)
    assert num_rows == 5
    assert facts["support"] == {"late": 2, "rude": 0}
    assert scores["label.late"].value == pytest.approx(2 * 2 / (3 + 2))  # the odd row that does not fit
    assert scores["macro_f1_at_half"].value == 0  # no probability is .5
    untuned = score_head(SEVERAL, logits, examples, tunes=False)
    assert untuned[0] == SEVERAL
    assert untuned[1] == 10
    assert untuned[2]["label.late"].value == 0
    assert head.thresholds != SEVERAL.thresholds


def test_served_temperature_and_threshold_decide_as_what_was_tuned() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((400, 2)) < 0.3
    logits = (3 * rng.normal(size=(400, 2)) + 4 * truth - 2).astype(np.float32)
    examples = rows(SEVERAL, [tuple(np.flatnonzero(one).tolist()) for one in truth])
    head, _, scores, _ = score_head(SEVERAL, logits, examples, tunes=True)
    served = score_head(head, logits[1::2], examples[1::2], tunes=False)[2]
    assert {name: score.value for name, score in served.items()} == {n: s.value for n, s in scores.items()}
    assert head.temperature != 1.0


@pytest.mark.parametrize("head", [ONE, SEVERAL], ids=lambda head: head.kind)
def test_words_alone_are_learned_from_train_and_scored_on_the_split(head: Head) -> None:
    train = rows(head, [(0,), (1,), (0,), (1,)] * 6)
    scores = score_baseline(head, train, rows(head, [(0,), (1,), (1,), (0,)]), tunes=True)
    assert scores["macro_f1"].value == pytest.approx(1.0 if head is SEVERAL else 2 / 3)  # of three labels one is absent
    assert ("accuracy" in scores) == (head is ONE)


def test_labels_that_train_never_has_are_never_predicted() -> None:
    found = tfidf_probabilities(ONE, rows(ONE, [(0,), (1,)] * 5), [TEXTS[0], TEXTS[2]])
    assert found.shape == (2, 3)
    assert (found[:, 2] == 0).all()
    assert found[0].argmax() == 0
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_labels_in_every_row_or_in_none_need_no_regression() -> None:
    head = replace(SEVERAL, labels=("late", "rude", "kind"), thresholds=(0.5,) * 3)
    train = [Example(TEXTS[n % 2], "x", labels={"tags": (0, *((1,) if n % 2 else ()))}) for n in range(10)]
    found = tfidf_probabilities(head, train, [TEXTS[1], TEXTS[0]])
    assert found[:, 0].tolist() == [1, 1]
    assert found[:, 2].tolist() == [0, 0]
    assert found[0, 1] > 0.5 > found[1, 1]
