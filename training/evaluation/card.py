"""`MODEL_CARD.md`, written from what was measured: no figure is typed by hand."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from model.network.leximind import LexiMind
from model.tasks import Head
from training.data.terms import TERMS, is_restricted, terms_of
from training.evaluation.report import sources, table, title, to_markdown
from training.evaluation.result import Result, Sample

_WEAK_F1 = 0.2
_UNSUPPORTED = 0.03
_NO_OTHER = "- {what} other than the {number}: it names one of them for any text, and has no answer for 'none'."
_COUNTED = {"emotions": "emotions", "topic": "topics"}


def model_card(name: str, model: LexiMind, manifest: Mapping[str, Any], result: Result) -> str:
    """The card of checkpoint `name`, whose manifest has the data and the run as far as they were recorded."""
    return (
        "\n\n".join(
            (
                f"# LexiMind: {name}",
                _what(model),
                "## Learned from",
                _data(manifest.get("data", {}).get("origins", {})),
                _run(manifest.get("training", {})),
                to_markdown(result)
                .rstrip()
                .replace("\n## ", "\n### ")
                .replace("## ", f"## Scores on {result.split}\n\n### ", 1),
                f"## The first outputs on {result.split}, unpicked",
                table(("row", "about", "output"), [_row(sample) for sample in samples(result)]),
                "## Not good at",
                _weaknesses(result),
            )
        ).replace("\n\n\n\n", "\n\n")
        + "\n"
    )


def samples(result: Result) -> list[Sample]:
    """The first rows of the source that is answered most in the model's own words.

    The others are answered with sentences of the source, which are not ours to reprint.
    """
    own = [result.facts[f"summaries.{source}"]["new_bigrams"] for source in sources(result)]
    return max(zip(own, result.samples, strict=True), key=lambda pair: pair[0], default=(0.0, []))[1]


def _what(model: LexiMind) -> str:
    config = model.config
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    heads = [f"{count} {_COUNTED.get(name, f'labels of {name}')}" for name, count in config.heads.items()]
    return (
        f"An encoder-decoder of {parameters:.1f} M parameters (width {config.d_model}, "
        f"{config.num_encoder_layers} + {config.num_decoder_layers} layers, {config.num_tokens} tokens) for "
        f"{', '.join(['summaries', *heads])}. English."
    )


def _data(origins: Mapping[str, int]) -> str:
    counts: Counter[tuple[str, str]] = Counter()
    for origin in origins or TERMS:
        counts[terms_of(origin)] += origins.get(origin, 0)
    rows = [(name, f"{number:,}" if number else "not recorded", terms) for (name, terms), number in counts.items()]
    use = (
        "**For research and non-commercial use**: the terms of the data below bind a model that learned from them.\n\n"
    )
    return (use if is_restricted(origins or TERMS) else "") + table(("data", "rows", "terms"), rows)


def _run(training: Mapping[str, Any]) -> str:
    if "command" not in training:
        return ""
    others = [_command(run) + _origin(run) for run in training.get("averaged_with", []) if "command" in run]
    averaged = f" The weights are the mean of this run's and of: {'; '.join(others)}." if others else ""
    return f"Trained with {_command(training)}.{averaged}{_start(training.get('started_from'))}"


def _origin(training: Mapping[str, Any]) -> str:
    return f" from {training['started_from']['checkpoint']}" if "started_from" in training else ""


def _start(source: Mapping[str, Any] | None) -> str:
    if source is None:
        return ""
    origin = source.get("imported_from")
    history = f"Imported from {origin}." if origin else _run(source.get("training", {}))
    return f"\n\nIt started from the weights of {source['checkpoint']}. {history}".rstrip()


def _command(training: Mapping[str, Any]) -> str:
    by_hand = f" (learning rate changed by hand: {training['learning_rate']})" if "learning_rate" in training else ""
    resumed = [f"; resumed at step {run['from_step']} with {_quoted(run)}" for run in training.get("resumed", [])]
    return f"{_quoted(training)}{''.join(resumed)}, {training['step']} steps{by_hand}"


def _quoted(run: Mapping[str, Any]) -> str:
    return "`" + " ".join(run["command"]) + "`"


def _row(sample: Sample) -> tuple[str, str, str]:
    return sample.row, sample.hint, sample.output.replace("|", "\\|").replace("\n", " ")


def _weaknesses(result: Result) -> str:
    lines = ["- Summaries: none were scored here, and it may never have learned to write them."]
    if sources(result):
        lines = ["- Facts, numbers and names in a summary may be wrong or invented: check them against the source."]
    for source in sources(result):
        own, lead = (result.scores[f"summaries.{source}{part}.rougeL"].value for part in ("", ".lead"))
        if own < lead:
            lines.append(
                f"- Summaries of {source} score below its first sentences (ROUGE-L {own:.3f} against {lead:.3f})."
            )
        unsupported = 1 - result.scores[f"summaries.{source}.supported"].value
        if unsupported > _UNSUPPORTED:
            lines.append(f"- {unsupported:.0%} of the summaries of {source} have a name or number that the text lacks.")
    for head in result.heads:
        lines += _weak_labels(result, head) if head.kind == "multi_label" else [_NO_OTHER.format(**_told(head))]
    return "\n".join([*lines, "- Languages other than English."])


def _weak_labels(result: Result, head: Head) -> list[str]:
    prefix = f"{head.name}.label."
    scores = {name.removeprefix(prefix): score for name, score in result.scores.items() if name.startswith(prefix)}
    weak = [label for label, score in scores.items() if score.value < _WEAK_F1]
    return [f"- {title(head)} it seldom gets right (F1 below {_WEAK_F1}): {', '.join(weak)}."] if weak else []


def _told(head: Head) -> dict[str, object]:
    return {"what": "Topics" if head.name == "topic" else title(head), "number": len(head.labels)}
