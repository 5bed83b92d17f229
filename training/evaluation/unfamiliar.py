"""From where on a checkpoint warns that a text is not of the kind it knows: bounds fitted on dev, and whom they strike.

Both bounds are a share of the texts that the checkpoint is for, given up on purpose: `OWN_BELOW` of a head's own texts
lie below its least energy, and `PLAIN_BELOW` of all texts below the least share of known words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model.probabilities import energy
from model.tasks import Head
from model.vocabulary_words import MIN_WORDS, count_words
from training.data.examples import Example
from training.evaluation.calibration import Logits, halves

OWN_BELOW = 0.05
PLAIN_BELOW = 0.01
_MOST_TEXTS = 400  # of each origin, to see whom a bound strikes


def others(
    head: str, summaries: Mapping[str, Sequence[Example]], heads: Mapping[str, Sequence[Example]]
) -> list[Example]:
    """Texts of a split that are not of `head`, the first ones of each origin."""
    own = {example.source for example in heads[head]}
    found: list[Example] = []
    for examples in (*summaries.values(), *(rows for name, rows in heads.items() if name != head)):
        found += [example for example in examples if example.source not in own][:_MOST_TEXTS]
    return found


def energies(logits: Logits) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(texts, labels) to (texts,)."""
    found: np.ndarray[Any, np.dtype[np.float32]] = energy(torch.from_numpy(np.asarray(logits, np.float32))).numpy()
    return found


def fit_energy(
    head: Head, own: Logits, logits: Logits, examples: Sequence[Example], *, tunes: bool
) -> tuple[Head, Any]:
    """`head` with its bound, and the share of texts below it: of its `own`, and by the origin of `examples`.

    `tunes`: the bound is fitted on one half of `own` and measured on the other; else it is the head's, if it has one.
    """
    tuned, rest = halves(len(own))
    found = energies(own)
    if tunes:
        head = replace(head, min_energy=round(float(np.quantile(found[tuned], OWN_BELOW)), 3))
    if head.min_energy is None:
        return head, None
    below = {head.name: float((found[rest if tunes else slice(None)] < head.min_energy).mean())}
    return head, {
        "min_energy": head.min_energy,
        "below": below | _by_origin(energies(logits) < head.min_energy, examples),
    }


def fit_known_words(vocabulary: frozenset[str], examples: Sequence[Example]) -> tuple[float, dict[str, float]]:
    """The share of known words that only `PLAIN_BELOW` of every second text is below, and the same share by origin."""
    counted = [(example, count_words(example.source, vocabulary)) for example in examples]
    counted = [(example, count) for example, count in counted if count[0] >= MIN_WORDS]
    if len(counted) < 2:
        return 0.0, {}
    shares = np.array([known / words for _, (words, known) in counted])
    tuned, rest = halves(len(shares))
    bound = round(float(np.quantile(shares[tuned], PLAIN_BELOW)), 2)
    return bound, _by_origin(shares[rest] < bound, [example for example, _ in counted][rest])


def _by_origin(below: np.ndarray[Any, np.dtype[np.bool_]], examples: Sequence[Example]) -> dict[str, float]:
    origins = np.array([example.origin for example in examples])
    return {str(origin): float(below[origins == origin].mean()) for origin in dict.fromkeys(origins.tolist())}
