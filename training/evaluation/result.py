"""One model on one split: every score by its dotted name, and the facts that are no single figure.

Names: `summaries.SOURCE.rouge1` (… `rouge2`, `rougeL`, `rougeLsum`, `bleu`, `bertscore`), the same after
`summaries.SOURCE.lead.` for the first sentences of the source, `emotions.macro_f1` (… `micro_f1`, `samples_f1`,
`label.NAME`), `topic.accuracy`, `topic.macro_f1`.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from model.decoding.options import DecodingOptions
from model.tasks import TASKS, Task, Tasks
from training.data.examples import Example, read_emotions, read_headlines, read_summaries, read_topics
from training.data.extracts import sentences
from training.errors import DataError
from training.evaluation.calibration import (
    Logits,
    calibration_error,
    fit_temperature,
    halves,
    reliability,
    sigmoid,
    softmax,
    tune_thresholds,
)
from training.evaluation.predict import Predictor
from training.evaluation.scores import Flags, Score, bleu, f1, mean, rouge

Measure = Callable[[Sequence[str], Sequence[str]], Score]  # predictions, references

TUNED_ON = "dev"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Sample:
    """An output as it may be shown: the row by its place in the split, a hint of its subject, never its text."""

    row: str
    hint: str
    output: str


@dataclass(frozen=True)
class Lengths:
    """Words of each row."""

    source: list[int]
    reference: list[int]
    output: list[int]


@dataclass
class Result:
    """What `evaluate` found."""

    split: str
    scores: dict[str, Score] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()
    samples: list[list[Sample]] = field(default_factory=list)  # for each source its first rows
    lengths: dict[str, Lengths] = field(default_factory=dict)  # by source


@dataclass(frozen=True)
class Split:
    """The examples of one split that a checkpoint can be scored on; a task that it cannot do has none."""

    name: str
    summaries: dict[str, list[Example]]  # by source
    emotions: list[Example]
    topics: list[Example]

    def digest(self) -> str:
        """A hash of the rows: scores on others cannot be compared."""
        return sha256(repr(self).encode()).hexdigest()


def read_split(root: Path, name: str, tasks: Tasks, scored: Collection[Task] = TASKS) -> Split:
    """The split `name` of a data folder, as far as it serves to score `scored`.

    Raises:
        DataError: a file of it is missing, damaged or next to empty.
    """

    def wanted(task: Task) -> bool:
        return task in scored and tasks.has(task)

    emotions = _full(read_emotions(root, name), root / "emotion", name) if wanted("emotions") else []
    topics = _full(read_topics(root, name), root / "topic", name) if wanted("topic") else []
    summaries: dict[str, list[Example]] = {}
    if wanted("summarize"):
        headlines = read_headlines(root, name) if topics else []
        if not headlines or (root / "summarization").is_dir():  # headlines alone can be learned, too
            headlines = [*_full(read_summaries(root, name), root / "summarization", name), *headlines]
        for example in headlines:
            summaries.setdefault(example.origin, []).append(example)
    return Split(name, summaries, emotions, topics)


def tasks_of(root: Path) -> set[Task]:
    """What a data folder can be used to score, told by its folders.

    Raises:
        DataError: it has none of them.
    """
    folders: dict[Task, str] = {"summarize": "summarization", "emotions": "emotion", "topic": "topic"}
    if found := {task for task, folder in folders.items() if (root / folder).is_dir()}:
        return found
    raise DataError(
        f"{root}: has none of the folders {', '.join(folders.values())}; give a data folder, laid out as "
        "training/README.md says"
    )


def evaluate(
    predictor: Predictor,
    split: Split,
    rows: int,
    options: DecodingOptions,
    bertscore: Measure | None = None,
    temperatures: Mapping[str, float] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Score all that the checkpoint can do.

    Thresholds and temperatures are fitted on dev only: on one half of it, and scored on the other. Any other split is
    scored whole, with the thresholds that the checkpoint serves and with `temperatures` (by task).

    Args:
        rows: at most so many summaries of each source, the first ones; classification takes every row.
        say: is told what is scored next.
    """
    result = Result(split.name)
    for source, examples in split.summaries.items():
        say(f"{source}: {len(examples[:rows])} summaries")
        _summaries(result, predictor, source, examples[:rows], options, bertscore)
    fitted = None if split.name == TUNED_ON else (temperatures or {})
    if split.emotions:
        say(f"emotions: {len(split.emotions)} texts")
        _emotions(result, predictor, split.emotions, fitted)
    if split.topics:
        say(f"topics: {len(split.topics)} texts")
        _topics(result, predictor, split.topics, fitted)
    return result


def _full(examples: list[Example], folder: Path, split: str) -> list[Example]:
    if len(examples) < 2:
        raise DataError(f"{folder}: {split} has {len(examples)} rows; at least 2 are needed to score anything")
    return examples


def _summaries(
    result: Result,
    predictor: Predictor,
    source: str,
    examples: Sequence[Example],
    options: DecodingOptions,
    bertscore: Measure | None,
) -> None:
    texts = [example.source for example in examples]
    references = [example.summary or "" for example in examples]
    outputs = predictor.summarize(texts, options)
    # As many sentences as a reference has: the baseline that a summary must beat to be worth its time.
    lead_k = max(1, round(float(np.mean([len(sentences(reference)) for reference in references]))))
    leads = [" ".join(sentences(text)[:lead_k]) for text in texts]
    for prefix, predictions in ((f"summaries.{source}", outputs), (f"summaries.{source}.lead", leads)):
        result.scores |= {f"{prefix}.{name}": score for name, score in rouge(predictions, references).items()}
        result.scores[f"{prefix}.bleu"] = bleu(predictions, references)
        if bertscore:
            result.scores[f"{prefix}.bertscore"] = bertscore(predictions, references)
    result.rows[f"summaries.{source}"] = len(examples)
    result.facts[f"summaries.{source}"] = {
        "lead_k": lead_k,
        "different_outputs": len(set(outputs)) / len(outputs),
        "new_bigrams": float(np.mean([_new_bigrams(o, t) for o, t in zip(outputs, texts, strict=True)])),
        "mean_words": float(np.mean([len(output.split()) for output in outputs])),
    }
    result.lengths[source] = Lengths(
        *([len(text.split()) for text in column] for column in (texts, references, outputs))
    )
    shown = zip(texts[:10], outputs[:10], strict=True)
    result.samples.append([Sample(f"{source} row {n}", _hint(t), o) for n, (t, o) in enumerate(shown, 1)])


def _emotions(
    result: Result, predictor: Predictor, examples: Sequence[Example], fitted: Mapping[str, float] | None
) -> None:
    labels = predictor.tasks.emotion_labels
    logits = predictor.classify("emotions", [example.source for example in examples])
    truth = _one_hot([example.emotions or () for example in examples], len(labels))
    if fitted is None:
        tuned, scored = halves(len(examples))
        thresholds = tune_thresholds(sigmoid(logits[tuned]), truth[tuned])
        fitted = {"emotions": fit_temperature(logits[tuned], truth[tuned], exclusive=False)}
    else:
        scored, thresholds = slice(None), predictor.tasks.emotion_thresholds
    predicted, there = sigmoid(logits[scored]) >= np.array(thresholds, dtype=np.float32), truth[scored]
    for average in ("macro", "micro", "samples"):
        result.scores[f"emotions.{average}_f1"] = f1(predicted, there, average)
    result.scores["emotions.macro_f1_at_half"] = f1(logits[scored] >= 0, there, "macro")
    for number, label in enumerate(labels):
        result.scores[f"emotions.label.{label}"] = f1(predicted, there, f"label:{number}")
    result.thresholds = thresholds
    result.rows["emotions"] = len(there)
    result.facts["emotions"] = {
        "thresholds": dict(zip(labels, thresholds, strict=True)),
        "support": dict(zip(labels, there.sum(0).tolist(), strict=True)),
        **_calibration(logits[scored], there, sigmoid, fitted.get("emotions")),
    }


def _topics(
    result: Result, predictor: Predictor, examples: Sequence[Example], fitted: Mapping[str, float] | None
) -> None:
    labels = predictor.tasks.topic_labels
    logits = predictor.classify("topic", [example.source for example in examples])
    truth = _one_hot([(example.topic or 0,) for example in examples], len(labels))
    chosen = logits.argmax(1)
    predicted = _one_hot([(int(number),) for number in chosen], len(labels))
    result.scores["topic.accuracy"] = mean(chosen == np.array([example.topic for example in examples]))
    result.scores["topic.macro_f1"] = f1(predicted, truth, "macro")
    scored = slice(None)
    if fitted is None:
        tuned, scored = halves(len(examples))
        fitted = {"topic": fit_temperature(logits[tuned], truth[tuned], exclusive=True)}
    result.rows["topic"] = len(examples)
    result.facts["topic"] = {
        "labels": list(labels),
        "confusion": (truth.astype(int).T @ predicted.astype(int)).tolist(),  # rows: true, columns: predicted
        **_calibration(logits[scored], truth[scored], softmax, fitted.get("topic")),
    }


def _calibration(
    logits: Logits, truth: Flags, normalise: Callable[[Logits], Logits], temperature: float | None
) -> dict[str, Any]:
    plain = normalise(logits)
    fact: dict[str, Any] = {
        "calibration_error": calibration_error(plain, truth),
        "reliability": reliability(plain, truth),
    }
    if temperature is None:
        return fact
    scaled = normalise(logits / temperature)
    return fact | {
        "temperature": temperature,
        "calibration_error_at_temperature": calibration_error(scaled, truth),
        "reliability_at_temperature": reliability(scaled, truth),
    }


def _one_hot(rows: Sequence[tuple[int, ...]], width: int) -> Flags:
    out = np.zeros((len(rows), width), dtype=bool)
    for number, row in enumerate(rows):
        out[number, list(row)] = True
    return out


def _new_bigrams(output: str, source: str) -> float:
    def bigrams(text: str) -> set[tuple[str, str]]:
        words = _WORD.findall(text.lower())
        return set(pairwise(words))

    mine = bigrams(output)
    return len(mine - bigrams(source)) / max(1, len(mine))


def _hint(source: str) -> str:
    """Four words that the source repeats: its subject, not its text."""
    words = Counter(word for word in _WORD.findall(source) if len(word) > 4 and not word.startswith("Person"))
    return ", ".join(word for word, _ in words.most_common(4))
