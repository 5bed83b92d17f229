"""Answers as HTML. Whatever comes from a text, a service or a file is escaped here, and only here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

MAX_PASSAGES = 64  # as many as `styles` can connect
_STRONGEST = 6
_STYLES = Path(__file__).with_name("styles.css")
_NOTHING = '<p class="lm-quiet">{}</p>'


Scores = Mapping[str, float]  # by label, best first


@dataclass(frozen=True)
class Segment:
    """A part of a long text: its code points `start` to `end`, and by the name of a head the scores of its labels."""

    start: int
    end: int
    scores: Mapping[str, Scores]


def note(text: str) -> str:
    """A quiet line."""
    return _NOTHING.format(escape(text))


def failure(text: str) -> str:
    """What went wrong, announced to screen readers."""
    return f'<div class="lm-failure" role="alert">{escape(text)}</div>'


def partial_summary(text: str) -> str:
    """A summary that is still being written."""
    caret = '<span class="lm-caret" aria-hidden="true"></span>'
    return f'<p class="lm-summary" aria-busy="true">{escape(text)}{caret}</p>'


def summary(answer: Mapping[str, Any]) -> str:
    """A whole summary: each sentence leads to what backs it, and what the text does not have is marked."""
    text, support = answer["summary"], answer.get("support")
    warnings = "".join(f"<li>{escape(one['message'])}</li>" for one in answer.get("warnings", ()))
    shown = f'<ul class="lm-warnings" aria-label="Warnings">{warnings}</ul>' if warnings else ""
    if not text:
        return shown + note("The summary is empty: the text gives nothing to summarize.")
    body = "".join(_sentences(text, support)) if support else escape(text)
    return f'<p class="lm-summary">{body}</p>{shown}{_precision(support) if support else ""}'


def source(text: str, answer: Mapping[str, Any]) -> str:
    """The text that was summarized, with the passages that back the summary."""
    support = answer.get("support")
    parts, place = [], 0
    for number, (start, end) in enumerate(_passages(support) if support else []):
        parts += [
            escape(text[place:start]),
            f'<span class="lm-passage" id="lm-passage-{number}" tabindex="-1">{escape(text[start:end])}</span>',
        ]
        place = end
    parts.append(escape(text[place:]))
    return f'<div class="lm-source" tabindex="0" role="region" aria-label="The text">{"".join(parts)}</div>'


def labels(head: Mapping[str, Any], scores: Scores) -> str:
    """The best labels of a head as bars, best first; with the threshold of each, where it has one, as a mark.

    `head` as in `/info`.
    """
    thresholds = dict(zip(head["labels"], head["thresholds"], strict=False))
    rows = []
    for number, (label, score) in enumerate(list(scores.items())[:_STRONGEST]):
        threshold = thresholds.get(label)
        is_found = number == 0 if threshold is None else score >= threshold
        tick, said = "", f"{score:.0%}"
        if threshold is not None:
            tick = f'<span class="lm-threshold" style="left:{threshold:.1%}"></span>'
            said += f", threshold {threshold:.0%}, {'found' if is_found else 'not found'}"
        rows.append(
            f'<li class="lm-label{" lm-found" if is_found else ""}" aria-label="{escape(label)} {said}" title="{said}">'
            f'<span class="lm-name">{escape(label)}</span>'
            f'<span class="lm-bar"><span class="lm-fill" style="width:{score:.1%}"></span>{tick}</span>'
            f'<span class="lm-score">{score:.0%}</span></li>'
        )
    name = escape(head["name"])
    return (
        f'<section id="lm-{name}"><h3>{name.capitalize()}</h3>'
        f'<ul class="lm-labels" aria-label="{name}">{"".join(rows)}</ul></section>'
    )


def timeline(heads: Sequence[Mapping[str, Any]], segments: Sequence[Segment], num_chars: int) -> str:
    """The strongest labels of each head over a long text, a column a part."""
    columns = "".join(f'<th scope="col">{one.start / num_chars:.0%}</th>' for one in segments)
    rows = [row for head in heads for row in _timeline_rows(head, [one.scores[head["name"]] for one in segments])]
    return (
        '<div class="lm-scroll" tabindex="0" role="region" aria-label="Labels over the text">'
        f'<table class="lm-timeline"><thead><tr><th scope="col">from</th>{columns}</tr></thead>{"".join(rows)}</table>'
        "</div>"
    )


def _timeline_rows(head: Mapping[str, Any], segments: Sequence[Scores]) -> Iterator[str]:
    strongest = sorted(head["labels"], key=lambda label: -max(one[label] for one in segments))[:_STRONGEST]
    yield f'<tbody class="lm-{escape(head["kind"])}" aria-label="{escape(head["name"])}">'
    for label in strongest:
        cells = "".join(
            f'<td style="--lm-share:{one[label]:.3f}" title="{escape(label)} {one[label]:.0%}">'
            f'<span class="lm-unseen">{one[label]:.0%}</span></td>'
            for one in segments
        )
        yield f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>'
    yield "</tbody>"


def _sentences(text: str, support: Mapping[str, Any]) -> Iterator[str]:
    numbers = {passage: number for number, passage in enumerate(_passages(support))}
    place = 0
    for one in support["sentences"]:
        yield escape(text[place : one["start"]])
        place = one["end"]
        body = "".join(_claims(text, one["start"], one["end"], support["unsupported"]))
        passage = one.get("source")
        number = numbers.get((passage["start"], passage["end"])) if passage else None
        if number is None:
            yield f'<span class="lm-unbacked" title="No sentence of the text is near to this one.">{body}</span>'
        else:
            near = f"{passage['rouge_l']:.0%} of its words in order"
            yield (
                f'<a class="lm-sentence lm-to-{number}" href="#lm-passage-{number}" '
                f'aria-describedby="lm-passage-{number}" title="Nearest passage: {near}">{body}</a>'
            )
    yield escape(text[place:])


def _claims(text: str, start: int, end: int, unsupported: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    place = start
    for claim in unsupported:
        if start <= claim["start"] and claim["end"] <= end:
            yield escape(text[place : claim["start"]])
            yield (
                f'<mark class="lm-unsupported" title="The text does not have this.">'
                f'{escape(text[claim["start"] : claim["end"]])}<span class="lm-unseen"> (not in the text)</span></mark>'
            )
            place = claim["end"]
    yield escape(text[place:end])


def _passages(support: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Where the passages are, in the order of the text, each once; those that overlap an earlier one are left out."""
    found: list[tuple[int, int]] = []
    for span in sorted(
        {(one["source"]["start"], one["source"]["end"]) for one in support["sentences"] if one.get("source")}
    ):
        if not found or span[0] >= found[-1][1]:
            found.append(span)
    return found[:MAX_PASSAGES]


def _precision(support: Mapping[str, Any]) -> str:
    unsupported = support["unsupported"]
    if support.get("entity_precision") is None:
        return note("The summary has no names and no numbers to compare with the text.")
    if not unsupported:
        return note("Every name and number of the summary is in the text.")
    return note(
        f"{support['entity_precision']:.0%} of the names and numbers of the summary are in the text; the others are "
        "marked."
    )


def styles() -> str:
    """The style sheet: a sentence that is pointed at or has the focus shows its passage in the text."""
    pointed = ":is(:hover, :focus-visible)"
    connected = ", ".join(f"body:has(.lm-to-{n}{pointed}) #lm-passage-{n}" for n in range(MAX_PASSAGES))
    return f"{_STYLES.read_text()}\n{connected}, .lm-passage:target {{ background: var(--lm-strong); }}\n"
