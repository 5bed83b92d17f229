"""A result as JSON and as a page that a person reads."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from training.evaluation.result import TUNED_ON, Result
from training.evaluation.scores import ROUGE, Score, compare

_SUMMARY_SCORES = dict(
    zip(
        (*ROUGE, "bleu", "bertscore"),
        ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-Lsum", "BLEU", "BERTScore"),
        strict=True,
    )
)


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
        if name in other.scores and ".lead." not in name and len(score.rows) == len(other.scores[name].rows)
    }


def to_markdown(result: Result) -> str:
    """The tables of the report, without a title."""
    parts = [_summaries(result)] if sources(result) else []
    if "emotions" in result.rows:
        parts.append(_emotions(result))
    if "topic" in result.rows:
        parts.append(_topics(result))
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
            )
        )
        lead = (f"{result.scores[f'{prefix}.lead.{name}'].value:.3f}" for name in given)
        rows.append((f"its lead-{fact['lead_k']}", *lead, "", ""))
    head = ("source (rows)", *(_SUMMARY_SCORES[name] for name in given), "different", "new bigrams")
    return "## Summaries\n\n" + table(head, rows)


def _emotions(result: Result) -> str:
    fact, scores = result.facts["emotions"], result.scores
    averages = [
        ("macro F1", "macro_f1"),
        ("micro F1", "micro_f1"),
        ("sample F1", "samples_f1"),
        ("macro F1, all thresholds .5", "macro_f1_at_half"),
    ]
    labels = [
        (label, f"{threshold:.2f}", str(fact["support"][label]), _figure(scores[f"emotions.label.{label}"]))
        for label, threshold in fact["thresholds"].items()
    ]
    return "\n\n".join(
        (
            "## Emotions",
            _tuned(result),
            table(("average", "95 % interval"), [(name, _figure(scores[f"emotions.{key}"])) for name, key in averages]),
            table(("label", "threshold", "rows", "F1"), labels),
            _calibration(fact),
        )
    )


def _tuned(result: Result) -> str:
    rows = result.rows["emotions"]
    if result.split == TUNED_ON:
        return f"Thresholds tuned on one half of {result.split}, scored on the other ({rows} rows)."
    return f"Thresholds as the checkpoint serves them; nothing was tuned on {result.split} ({rows} rows)."


def _topics(result: Result) -> str:
    fact, scores = result.facts["topic"], result.scores
    confusion = [(f"**{label}**", *map(str, row)) for label, row in zip(fact["labels"], fact["confusion"], strict=True)]
    return "\n\n".join(
        (
            f"## Topic\n\n{result.rows['topic']} rows: accuracy {_figure(scores['topic.accuracy'])}, "
            f"macro F1 {_figure(scores['topic.macro_f1'])}.",
            table(("true ↓ predicted →", *fact["labels"]), confusion),
            _calibration(fact),
        )
    )


def _calibration(fact: Mapping[str, Any]) -> str:
    error = f"Calibration error {fact['calibration_error']:.3f}"
    if "temperature" not in fact:
        return f"{error}."
    return (
        f"{error}; {fact['calibration_error_at_temperature']:.3f} at the fitted temperature {fact['temperature']:.2f}."
    )
