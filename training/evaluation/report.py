"""A result as JSON and as a page that a person reads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from model.tasks import Head, HeadKind
from training.evaluation.heads import MAIN_SCORE
from training.evaluation.result import TUNED_ON, Result
from training.evaluation.scores import ROUGE, Score, compare

_SUMMARY_SCORES = dict(
    zip(
        (*ROUGE, "bleu", "bertscore"),
        ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "BLEU", "BERTScore"),
        strict=True,
    )
)
_LEGEND = (
    "Supported: summaries without a name or number that their source lacks. Real words: without a word that no text "
    "of the split has."
)

_BASELINE = "TF-IDF and logistic regression"
_MOST_CONFUSED = 12  # labels of a table that a page has room for


def to_json(result: Result) -> dict[str, Any]:
    """Every score with its 95 % interval, every fact, the samples."""
    scores = {}
    for name, score in result.scores.items():
        low, high = score.interval()
        scores[name] = {"value": score.value, "low": low, "high": high}
    return {
        "split": result.split,
        "rows": result.rows,
        "scores": scores,
        "facts": result.facts,
        "samples": [[asdict(sample) for sample in source] for source in result.samples],
    }


def comparison(result: Result, other: Result) -> dict[str, dict[str, float]]:
    """How much `result` is better than `other` on each score that both have on the same rows."""
    return {
        name: asdict(compare(score, other.scores[name]))
        for name, score in result.scores.items()
        if name in other.scores and not is_baseline(name) and len(score.rows) == len(other.scores[name].rows)
    }


def to_markdown(result: Result) -> str:
    """The tables of the report, without a title."""
    parts = [_summaries(result)] if sources(result) else []
    parts += [_of_kind[head.kind](result, head) for head in result.heads]
    parts += [_known_words(result.facts["known_words"])] if "known_words" in result.facts else []
    return "\n\n".join(parts) + "\n"


def comparison_markdown(differences: Mapping[str, Mapping[str, float]]) -> str:
    """A table of `comparison`."""
    rows = [
        (name, f"{d['value']:+.4f}", f"{d['low']:+.4f} … {d['high']:+.4f}", f"{d['p']:.3f}")
        for name, d in differences.items()
        if ".label." not in name
    ]
    return "## Against the other checkpoint\n\n" + table(("score", "difference", "95 % interval", "p"), rows) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sources(result: Result) -> list[str]:
    """The sources of summaries, in order."""
    return [name.removeprefix("summaries.") for name in result.rows if name.startswith("summaries.")]


def _figure(score: Score) -> str:
    low, high = score.interval()
    return f"{score.value:.3f} ({low:.3f}–{high:.3f})"


def _summaries(result: Result) -> str:
    rows = []
    given = [name for name in _SUMMARY_SCORES if any(key.endswith(f".{name}") for key in result.scores)]
    for source in sources(result):
        fact = result.facts[f"summaries.{source}"]
        prefix = f"summaries.{source}"
        rows.append(
            (
                f"{source} ({result.rows[prefix]})",
                *(_figure(result.scores[f"{prefix}.{name}"]) for name in given),
                f"{fact['different_outputs']:.0%}",
                f"{fact['new_bigrams']:.0%}",
                *(f"{result.scores[f'{prefix}.{name}'].value:.1%}" for name in ("supported", "real_words")),
            )
        )
        lead = (f"{result.scores[f'{prefix}.lead.{name}'].value:.3f}" for name in given)
        rows.append((f"its lead-{fact['lead_k']}", *lead, "", "", "", ""))
    head = ("source (rows)", *(_SUMMARY_SCORES[name] for name in given), "different", "new bigrams")
    return "\n\n".join(("## Summaries", table((*head, "supported", "real words"), rows), _LEGEND))


def title(head: Head) -> str:
    """The head's name as a heading."""
    return head.name.replace("_", " ").capitalize()


def is_baseline(score: str) -> bool:
    """Whether a score is not the model's own."""
    return ".lead." in score or ".tfidf." in score


def _several_labels(result: Result, head: Head) -> str:
    fact, scores = result.facts[head.name], result.scores
    averages = [
        ("macro F1", "macro_f1"),
        ("micro F1", "micro_f1"),
        ("sample F1", "samples_f1"),
        ("macro F1, all thresholds .5", "macro_f1_at_half"),
    ]
    labels = [
        (_cell(label), f"{threshold:.2f}", str(fact["support"][label]), _figure(scores[f"{head.name}.label.{label}"]))
        for label, threshold in fact["thresholds"].items()
    ]
    averages_table = [(name, _figure(scores[f"{head.name}.{key}"])) for name, key in averages]
    return "\n\n".join(
        (
            f"## {title(head)}",
            _tuned(result, head),
            table(("average", "95 % interval"), averages_table + _baseline(result, head)),
            table(("label", "threshold", "rows", "F1"), labels),
            _calibration(fact),
            *([_opposites(fact["opposites"], scores[f"{head.name}.not_opposite"])] if "opposites" in fact else []),
        )
    )


def _opposites(opposites: Sequence[Mapping[str, Any]], kept: Score) -> str:
    found = "; ".join(f'"{one["text"]}" ({", ".join(one["answer"])})' for one in opposites)
    line = f"Of {len(kept.rows)} long comments with strong words, of our own writing, {len(opposites)} "
    return f"{line}{'is' if len(opposites) == 1 else 'are'} answered with the opposite{found and ': ' + found}."


def _tuned(result: Result, head: Head) -> str:
    rows = result.rows[head.name]
    if result.split == TUNED_ON:
        return f"Thresholds tuned on one half of {result.split}, scored on the other ({rows} rows)."
    return f"Thresholds as the checkpoint serves them; nothing was tuned on {result.split} ({rows} rows)."


def _one_label(result: Result, head: Head) -> str:
    fact, scores = result.facts[head.name], result.scores
    baseline = [f"{name} {figure}" for name, figure in _baseline(result, head)]
    parts = [
        f"## {title(head)}",
        f"{result.rows[head.name]} rows: accuracy {_figure(scores[f'{head.name}.accuracy'])}, "
        f"macro F1 {_figure(scores[f'{head.name}.macro_f1'])}." + "".join(f" {one}." for one in baseline),
        _confusion(fact),
        _calibration(fact),
        *([_unfamiliar(fact["unfamiliar"])] if "unfamiliar" in fact else []),
    ]
    return "\n\n".join(parts)


_of_kind: dict[HeadKind, Callable[[Result, Head], str]] = {"multi_label": _several_labels, "single_label": _one_label}


def _baseline(result: Result, head: Head) -> list[tuple[str, str]]:
    """Name and figure of what words alone score, to compare a head of one's own with."""
    score = MAIN_SCORE[head.kind]
    found = result.scores.get(f"{head.name}.tfidf.{score}")
    return [(f"{_BASELINE}: {score.replace('_f1', ' F1')}", _figure(found))] if found else []


def _confusion(fact: Mapping[str, Any]) -> str:
    labels, counts = list(map(_cell, fact["labels"])), fact["confusion"]
    if len(labels) <= _MOST_CONFUSED:
        rows = [(f"**{label}**", *map(str, row)) for label, row in zip(labels, counts, strict=True)]
        return table(("true ↓ predicted →", *labels), rows)
    rows = []
    for number, (label, row) in enumerate(zip(labels, counts, strict=True)):
        missed = max((count, other) for other, count in zip(labels, row, strict=True) if other != label)
        taken = f"{missed[1]} ({missed[0]})" if missed[0] else ""
        rows.append((label, str(sum(row)), f"{row[number] / max(1, sum(row)):.3f}", taken))
    return table(("label", "rows", "recall", "most often taken for"), rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _unfamiliar(fact: Mapping[str, Any]) -> str:
    return (
        f"A text of an energy below {fact['min_energy']:.2f} is answered with a warning that no label may fit. "
        f"Such are: {_shares(fact['below'])}."
    )


def _known_words(fact: Mapping[str, Any]) -> str:
    return "\n\n".join(
        (
            "## Texts of other kinds",
            f"A text of whose words the vocabulary has less than {fact['min_known_words']:.0%} is answered with a "
            f"warning that it is unlike what was learned from. Such are: {_shares(fact['below'])}.",
        )
    )


def _shares(below: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.1%} of {_cell(origin)}" for origin, share in below.items())


def _calibration(fact: Mapping[str, Any]) -> str:
    error = f"Calibration error {fact['calibration_error']:.3f}"
    if "temperature" not in fact:
        return f"{error}."
    return (
        f"{error}; {fact['calibration_error_at_temperature']:.3f} at the fitted temperature {fact['temperature']:.2f}."
    )
