"""What words alone predict: TF-IDF and logistic regression on the rows that a head learned from, to compare with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.tasks import Head
from training.data.examples import Example
from training.evaluation.calibration import Logits

_MOST_TERMS = 200_000
_INVERSE_PENALTY = 10.0  # TF-IDF's vectors have length 1; scikit-learn's 1.0 underfits them
_MOST_ITERATIONS = 1000


def tfidf_probabilities(head: Head, train: Sequence[Example], texts: Sequence[str]) -> Logits:
    """Probabilities of the head's labels for `texts` by their words: (texts, labels)."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import, for heads of one's own alone

    terms = TfidfVectorizer(sublinear_tf=True, max_features=_MOST_TERMS, dtype=np.float32)
    seen, asked = terms.fit_transform([row.source for row in train]), terms.transform(texts)
    known = [row.labels[head.name] for row in train]
    out = np.zeros((len(texts), len(head.labels)), dtype=np.float32)
    if head.kind == "single_label":
        model = _regression().fit(seen, [labels[0] for labels in known])
        out[:, model.classes_] = model.predict_proba(asked)
        return out
    for number in range(len(head.labels)):
        there = [number in labels for labels in known]
        if len(set(there)) == 1:  # in every row or in none: nothing to learn
            out[:, number] = float(there[0])
        else:
            out[:, number] = _regression().fit(seen, there).predict_proba(asked)[:, 1]
    return out


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MOST_ITERATIONS)
