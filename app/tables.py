"""Answers for a person at a terminal."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.answers import (
    AnalyzeAnswer,
    EmotionsAnswer,
    HeadAnswer,
    LabelAnswer,
    LabelsAnswer,
    SummaryAnswer,
    TopicAnswer,
)
from app.bench import Figure
from app.support import Support
from app.thresholds import Score

AnyAnswer = SummaryAnswer | HeadAnswer | AnalyzeAnswer

_NONE = "none reaches its threshold"


def print_answers(answers: Sequence[tuple[str, AnyAnswer | str]]) -> None:
    """One table, a row for each text and task: the text's place, and its answer or why there is none."""
    table = Table(show_lines=True)
    if len(answers) > 1:
        table.add_column("text", overflow="fold")
    table.add_column("task")
    table.add_column("answer", overflow="fold")
    for place, answer in answers:
        for task, cell in [*_rows(answer), *_warnings(answer)]:
            table.add_row(*([Text(place)] if len(answers) > 1 else []), task, Text(cell))  # Text: no markup in texts
    Console().print(table)


def print_figures(figures: Sequence[Figure]) -> None:
    """One table, a row for each load."""
    table = Table()
    table.add_column("what is asked", overflow="fold")
    for name in ("words", "at once", "texts/s", "new tokens/s", "p50, ms", "p95, ms"):
        table.add_column(name, justify="right")
    for one in figures:
        tokens = f"{one.new_tokens_per_s:,.0f}" if one.new_tokens_per_s else ""
        times = (f"{1000 * one.p50_s:,.0f}", f"{1000 * one.p95_s:,.0f}")
        table.add_row(one.name, str(one.num_words), str(one.at_once), f"{one.texts_per_s:,.1f}", tokens, *times)
    Console().print(table)


def _rows(answer: AnyAnswer | str) -> Iterable[tuple[str, str]]:
    match answer:
        case str():
            yield "error", answer
        case SummaryAnswer():
            note = "" if answer.finish_reason == "stop" else " …"
            yield "summary", answer.summary + note
            if answer.support is not None:
                yield "support", _support(answer.support)
        case EmotionsAnswer():
            yield "emotions", _scores(answer.emotions) or _NONE
        case LabelsAnswer():
            yield "labels", _scores(answer.labels) or _NONE
        case TopicAnswer():
            yield "topic", _scores(answer.scores)
        case LabelAnswer():
            yield "label", _scores(answer.scores)
        case AnalyzeAnswer():
            for part in (answer.summary, answer.emotions, answer.topic):
                if part is not None:
                    yield from _rows(part)
            for name, part in (answer.model_extra or {}).items():
                yield from ((name, cell) for _, cell in _rows(part))


def _warnings(answer: AnyAnswer | str) -> Iterable[tuple[str, str]]:
    if isinstance(answer, str):
        return
    parts: list[AnyAnswer | None] = [answer]
    if isinstance(answer, AnalyzeAnswer):
        parts += [answer.emotions, answer.topic, *(answer.model_extra or {}).values()]
    for part in parts:
        for one in (part.warnings if part else None) or ():
            yield "warning", one.message


def _support(support: Support) -> str:
    lines = [
        f"{one.start}-{one.end}: " + (f"{one.source.start}-{one.source.end} of the text ({one.source.rouge_l:.2f})")
        if one.source
        else f"{one.start}-{one.end}: nothing in the text"
        for one in support.sentences
    ]
    if missing := ", ".join(one.text for one in support.unsupported):
        lines.append(f"not in the text: {missing}")
    return "\n".join(lines)


def _scores(scores: Sequence[Score]) -> str:
    return "\n".join(f"{one.score:.3f}  {one.label}" for one in scores)
