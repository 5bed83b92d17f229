"""Comments with strong words, and what counts as the opposite of one."""

import numpy as np
import pytest

from model.tasks import EMOTIONS, Head
from training.evaluation.comments import VALENCE, has_valences, read_comments, score_comments

HEAD = Head("emotions", "multi_label", tuple(EMOTIONS), thresholds=(0.5,) * len(EMOTIONS))


def logits(**high: str) -> np.ndarray:
    """For each valence of a comment the labels, by spaces, that are found in it."""
    rows = np.full((len(read_comments()), len(EMOTIONS)), -5.0, np.float32)
    for row, comment in zip(rows, read_comments(), strict=True):
        for label in high[comment["valence"]].split():
            row[EMOTIONS.index(label)] = 1.0
    return rows


def test_there_are_fifty_long_comments_of_both_kinds() -> None:
    comments = read_comments()
    assert len({comment["text"] for comment in comments}) == 50
    assert {comment["valence"] for comment in comments} == set(VALENCE)
    assert all(len(comment["text"].split()) >= 15 for comment in comments)


@pytest.mark.parametrize(
    ("negative", "positive", "share"),
    [
        ("anger", "joy", 1.0),
        ("anger approval", "joy fear", 1.0),  # its own is among them
        ("neutral", "surprise", 1.0),  # says nothing, which is not the opposite
        ("caring", "joy", 0.4),
        ("caring neutral", "anger", 0.0),
    ],
)
def test_an_answer_of_the_other_valence_alone_is_the_opposite(negative: str, positive: str, share: float) -> None:
    score, opposites = score_comments(HEAD, logits(negative=negative, positive=positive))
    assert score.value == pytest.approx(share)
    assert len(opposites) == round(50 * (1 - share))


def test_without_a_label_that_reaches_its_threshold_the_nearest_one_is_the_answer() -> None:
    below = logits(negative="anger", positive="anger") - 2
    assert score_comments(HEAD, below)[0].value == pytest.approx(0.6)


def test_heads_of_other_labels_are_not_scored_by_them() -> None:
    assert has_valences(HEAD)
    assert not has_valences(Head("category", "multi_label", ("a", "b"), thresholds=(0.5, 0.5)))
