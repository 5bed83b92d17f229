"""Fifty long comments with strong words, of our own writing: is one answered with the opposite of what it says?

`comments.jsonl` has them, 30 of people who are angry, sad or afraid and 20 of people who are glad. None is in any data
that is learned from.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from model.tasks import Head
from training.evaluation.calibration import Logits, probabilities
from training.evaluation.scores import Score, mean

# The groups of Demszky et al. 2020 (GoEmotions, figure 2); confusion, curiosity, realization and surprise are in none.
VALENCE = {
    "positive": "admiration amusement approval caring desire excitement gratitude joy love optimism pride relief",
    "negative": "anger annoyance disappointment disapproval disgust embarrassment fear grief nervousness remorse "
    "sadness",
}
_FILE = Path(__file__).with_name("comments.jsonl")


def read_comments() -> list[dict[str, str]]:
    """Each with its `text` and `valence`."""
    return [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]


def has_valences(head: Head) -> bool:
    """Whether the labels of `head` are emotions that the comments can be scored by."""
    return all(set(labels.split()) <= set(head.labels) for labels in VALENCE.values())


def score_comments(head: Head, logits: Logits) -> tuple[Score, Any]:
    """The share of comments that are not answered with their opposite, and those that are.

    An answer is the labels that reach their thresholds, or the one nearest to its own where none does. It is the
    opposite of a comment if some are of the other valence and none of its own.

    Args:
        logits: (comments, labels).
    """
    groups = {valence: set(labels.split()) for valence, labels in VALENCE.items()}
    shares = probabilities(logits, head.kind, head.temperature) / np.array(head.thresholds, np.float32)
    kept, opposites = [], []
    for comment, row in zip(read_comments(), shares, strict=True):
        answer = {label for label, share in zip(head.labels, row, strict=True) if share >= 1}
        answer = answer or {head.labels[int(row.argmax())]}
        own = groups[comment["valence"]]
        [other] = (labels for valence, labels in groups.items() if valence != comment["valence"])
        is_opposite = bool(answer & other) and not answer & own
        kept.append(not is_opposite)
        if is_opposite:
            opposites.append({"text": comment["text"], "answer": sorted(answer)})
    return mean(kept), opposites
