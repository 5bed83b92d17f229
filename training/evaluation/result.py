"""One model on one split: every score by its dotted name, and the facts that are no single figure.

Names: `summaries.SOURCE.rouge1` (… `rouge2`, `rougeL`, `rougeLsum`, `bleu`, `bertscore`), the same after
`summaries.SOURCE.lead.` for the first sentences of the source, `summaries.SOURCE.supported` (share of summaries without
a name or number that the source lacks) and `.real_words` (without a word that is none); those of heads as
`training.evaluation.heads` says.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from model.inference.decoding.options import DecodingOptions
from model.support import unsupported
from model.tasks import SUMMARIZE, Head, Tasks
from training.data.examples import HEAD_DATA, Example, read_headlines, read_summaries
from training.data.extracts import sentences
from training.data.more import CHATS, read_chats
from training.data.own import FOLDER, read_own
from training.data.real_words import no_words, words
from training.errors import DataError
from training.evaluation.comments import has_valences, read_comments, score_comments
from training.evaluation.heads import score_baseline, score_head
from training.evaluation.predict import Predictor
from training.evaluation.scores import Score, bleu, mean, rouge
from training.evaluation.unfamiliar import fit_energy, fit_known_words, others

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
    heads: list[Head] = field(default_factory=list)  # as they were scored: with what was fitted
    samples: list[list[Sample]] = field(default_factory=list)  # for each source its first rows
    lengths: dict[str, Lengths] = field(default_factory=dict)  # by source
    min_known_words: float | None = None  # as fitted; None: nothing was


@dataclass(frozen=True)
class Split:
    """The examples of one split that a checkpoint can be scored on; a task that it cannot do has none."""

    name: str
    summaries: dict[str, list[Example]]  # by source
    heads: dict[str, list[Example]]  # by name
    train: dict[str, list[Example]] = field(default_factory=dict, repr=False)  # of heads of one's own, for the baseline
    _baselines: dict[str, dict[str, Score]] = field(default_factory=dict, repr=False)

    def digest(self) -> str:
        """A hash of the rows: scores on others cannot be compared."""
        return sha256(repr(self).encode()).hexdigest()

    def baseline(self, head: Head) -> dict[str, Score]:
        """Scores of what words alone predict of a head, computed once; nothing for those that are built in."""
        if head.name in self.train and head.name not in self._baselines:
            found = score_baseline(head, self.train[head.name], self.heads[head.name], tunes=self.name == TUNED_ON)
            self._baselines[head.name] = found
        return self._baselines.get(head.name, {})


def read_split(root: Path, name: str, tasks: Tasks, scored: Collection[str] | None = None) -> Split:
    """The split `name` of a data folder, as far as it serves to score `scored` (None: all that `tasks` can).

    Raises:
        DataError: a file of it is missing, damaged or next to empty.
    """

    def wanted(task: str) -> bool:
        return tasks.has(task) and (scored is None or task in scored)

    heads: dict[str, list[Example]] = {}
    train: dict[str, list[Example]] = {}
    for head in tasks.heads:
        if not wanted(head.name):
            continue
        if data := HEAD_DATA.get(head.name):
            heads[head.name] = _full(data.read(root, name), root / data.folder, name)
        else:
            heads[head.name] = _full(read_own(root, head, name), root / FOLDER / head.name, name)
            train[head.name] = read_own(root, head, "train")
    summaries: dict[str, list[Example]] = {}
    if wanted(SUMMARIZE):
        headlines = read_headlines(root, name) if "topic" in heads else []
        if not headlines or (root / "summarization").is_dir():  # headlines alone can be learned, too
            headlines = [*_full(read_summaries(root, name), root / "summarization", name), *headlines]
        chats = read_chats(root, name) if name == TUNED_ON and (root / CHATS).is_file() else []
        for example in [*headlines, *chats]:
            summaries.setdefault(example.origin, []).append(example)
    return Split(name, summaries, heads, train)


def tasks_of(root: Path) -> set[str]:
    """What a data folder can be used to score, by its folders.

    Raises:
        DataError: it has none of them.
    """
    folders = {SUMMARIZE: "summarization", **{name: data.folder for name, data in HEAD_DATA.items()}}
    found = {task for task, folder in folders.items() if (root / folder).is_dir()}
    if found := found | {path.name for path in (root / FOLDER).glob("*") if path.is_dir()}:
        return found
    raise DataError(
        f"{root}: has none of the folders {', '.join(folders.values())}, {FOLDER}; give a data folder, laid out as "
        "training/README.md says"
    )


def evaluate(
    predictor: Predictor,
    split: Split,
    rows: int,
    options: DecodingOptions,
    bertscore: Measure | None = None,
    say: Callable[[str], None] = lambda _: None,
    *,
    bounds: bool = False,
) -> Result:
    """Score all that the checkpoint can do.

    Thresholds and temperatures are fitted on dev only: on one half of it, and scored on the other. Any other split is
    scored whole, with those that the checkpoint serves.

    Args:
        rows: at most so many summaries of each source, the first ones; classification takes every row.
        say: takes a line about what is scored next.
        bounds: also find out which texts are of no kind that the checkpoint knows (`training.evaluation.unfamiliar`).
    """
    result = Result(split.name)
    known = _words(split)
    for source, examples in split.summaries.items():
        say(f"{source}: {len(examples[:rows])} summaries")
        _summaries(result, predictor, source, examples[:rows], options, known, bertscore)
    for name, examples in split.heads.items():
        say(f"{name}: {len(examples)} texts")
        head = predictor.tasks.head(name)
        logits = predictor.classify(name, [example.source for example in examples])
        head, num_rows, scores, facts = score_head(head, logits, examples, tunes=split.name == TUNED_ON)
        if bounds and head.kind == "single_label":
            unlike = others(name, split.summaries, split.heads)
            unlike_logits = predictor.classify(name, [example.source for example in unlike])
            head, unfamiliar = fit_energy(head, logits, unlike_logits, unlike, tunes=split.name == TUNED_ON)
            facts |= {"unfamiliar": unfamiliar} if unfamiliar else {}
        if has_valences(head):
            comments = [comment["text"] for comment in read_comments()]
            scores["not_opposite"], opposites = score_comments(head, predictor.classify(name, comments))
            facts["opposites"] = opposites
        result.scores |= {f"{name}.{key}": score for key, score in scores.items()}
        result.scores |= {f"{name}.tfidf.{key}": score for key, score in split.baseline(head).items()}
        result.rows[name], result.facts[name] = num_rows, facts
        result.heads.append(head)
    if bounds and split.name == TUNED_ON:
        texts = [example for rows in (*split.summaries.values(), *split.heads.values()) for example in rows]
        result.min_known_words, below = fit_known_words(predictor.tokenizer.words, texts)
        result.facts["known_words"] = {"min_known_words": result.min_known_words, "below": below}
    return result


def fitted(tasks: Tasks, result: Result) -> Tasks:
    """`tasks` with the heads as `result` has scored them: what was fitted on dev is what will be served."""
    scored = {head.name: head for head in result.heads}
    known = tasks.min_known_words if result.min_known_words is None else result.min_known_words
    return replace(tasks, heads=tuple(scored.get(head.name, head) for head in tasks.heads), min_known_words=known)


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
    known: Set[str],
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
    pairs = list(zip(outputs, texts, strict=True))
    result.scores[f"summaries.{source}.supported"] = mean([not unsupported(output, text) for output, text in pairs])
    result.scores[f"summaries.{source}.real_words"] = mean(
        [not no_words(output, text, known) for output, text in pairs]
    )
    result.rows[f"summaries.{source}"] = len(examples)
    result.facts[f"summaries.{source}"] = {
        "lead_k": lead_k,
        "different_outputs": len(set(outputs)) / len(outputs),
        "new_bigrams": float(np.mean([_new_bigrams(output, text) for output, text in pairs])),
        "mean_words": float(np.mean([len(output.split()) for output in outputs])),
    }
    result.lengths[source] = Lengths(
        *([len(text.split()) for text in column] for column in (texts, references, outputs))
    )
    shown = zip(texts[:10], outputs[:10], strict=True)
    result.samples.append([Sample(f"{source} row {n}", _hint(t), o) for n, (t, o) in enumerate(shown, 1)])


def _words(split: Split) -> set[str]:
    """What counts as a word: whatever some text of the split has."""
    pairs = [text for rows in split.summaries.values() for e in rows for text in (e.source, e.summary or "")]
    return words([*pairs, *(example.source for rows in split.heads.values() for example in rows)])


def _new_bigrams(output: str, source: str) -> float:
    def bigrams(text: str) -> set[tuple[str, str]]:
        words = _WORD.findall(text.lower())
        return set(pairwise(words))

    found = bigrams(output)
    return len(found - bigrams(source)) / max(1, len(found))


def _hint(source: str) -> str:
    """Four words that the source repeats: its subject, not its text."""
    words = Counter(word for word in _WORD.findall(source) if len(word) > 4 and not word.startswith("Person"))
    return ", ".join(word for word, _ in words.most_common(4))
