"""Scores as sums over rows, so that one resampling of rows gives the interval of any of them.

A score keeps, for each row, numbers that add up over rows (hits, lengths, an F value), and how their sums become
one figure. Bootstrap (Efron 1979) then is a product with a matrix of row counts, and two systems on the same rows are
compared under the same counts (paired bootstrap, Koehn 2004).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from training.data.extracts import sentences

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
RESAMPLES = 1000
logging.getLogger("absl").setLevel(logging.WARNING)  # rouge_score reports its tokenizer at every call
_SEED = 0


@dataclass(frozen=True)
class Score:
    """`rows` (N, K) adds up over rows; `combine` turns sums (…, K), and the number of rows, into figures (…)."""

    rows: Floats
    combine: Callable[[Floats, int], Floats]

    @property
    def value(self) -> float:
        """The figure on all rows."""
        return float(self.combine(self.rows.sum(0), len(self.rows)))

    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap interval."""
        low, high = np.percentile(self.resampled(), [2.5, 97.5])
        return float(low), float(high)

    def resampled(self) -> Floats:
        """The figure on each of `RESAMPLES` draws of rows with replacement; the same draws for equal N."""
        return self.combine(_counts(len(self.rows)) @ self.rows, len(self.rows))


@dataclass(frozen=True)
class Difference:
    """How much the first of two systems is better, the 95 % interval, and how often resampling turns the sign."""

    value: float
    low: float
    high: float
    p: float


def compare(one: Score, other: Score) -> Difference:
    """Paired comparison of two systems on the same rows; `p` is two-sided."""
    assert len(one.rows) == len(other.rows)
    drawn = one.resampled() - other.resampled()
    value = one.value - other.value
    low, high = np.percentile(drawn, [2.5, 97.5])
    against = np.mean(drawn <= 0) if value > 0 else np.mean(drawn >= 0)
    return Difference(value, float(low), float(high), min(1.0, 2 * float(against)))


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Score]:
    """ROUGE-1, -2, -L and -Lsum F (Lin 2004), Porter-stemmed, in [0, 1]; Lsum counts sentence by sentence."""
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scored = [
        scorer.score("\n".join(sentences(reference)), "\n".join(sentences(prediction)))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {name: mean([row[name].fmeasure for row in scored]) for name in ROUGE}


def bleu(predictions: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus BLEU-4 (Papineni et al. 2002) as sacrebleu computes it, in [0, 1]."""
    metric = BLEU(effective_order=True)
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        one = metric.sentence_score(prediction, [reference])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])

    def combine(sums: Floats, _: int) -> Floats:
        flat = sums.reshape(-1, sums.shape[-1]).round().astype(int)
        scores = [
            BLEU.compute_bleu(r[:4].tolist(), r[4:8].tolist(), int(r[8]), int(r[9]), smooth_method="exp") for r in flat
        ]
        return np.array([score.score / 100 for score in scores]).reshape(sums.shape[:-1])

    return Score(np.array(rows, dtype=np.float64), combine)


def mean(values: Sequence[float] | Floats | Flags) -> Score:
    """The mean of one number a row: accuracy, a mean F."""
    return Score(np.asarray(values, dtype=np.float64)[:, None], lambda sums, n: sums[..., 0] / n)


def f1(predicted: Flags, truth: Flags, average: str) -> Score:
    """F1 of (rows, labels): `macro` over labels, `micro` over decisions, `samples` over rows, or one `label:NUMBER`.

    Where nothing is there and nothing is predicted F1 is 0, as in the GoEmotions paper's figures (scikit-learn).
    """
    if average == "samples":
        return mean(_f1((predicted & truth).sum(1), predicted.sum(1) + truth.sum(1)))
    if average.startswith("label:"):
        column = [int(average.removeprefix("label:"))]
        predicted, truth = predicted[:, column], truth[:, column]
    hits, both = (predicted & truth).astype(np.float64), predicted.astype(np.float64) + truth
    if average == "micro":
        hits, both = hits.sum(1, keepdims=True), both.sum(1, keepdims=True)
    width = hits.shape[1]
    return Score(np.hstack([hits, both]), lambda sums, _: _f1(sums[..., :width], sums[..., width:]).mean(-1))


def _f1(hits: Floats, both: Floats) -> Floats:
    scores: Floats = 2 * hits / np.maximum(both, 1)
    return scores


@lru_cache(maxsize=4)
def _counts(num_rows: int) -> Floats:
    rng = np.random.default_rng(_SEED)
    return rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=RESAMPLES).astype(np.float64)
