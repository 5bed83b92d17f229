"""The names that an answer adds to a row: of an object in JSON, and of a table with their types. Knows no file format.

A table has no nested objects: the first part of a task's answer has the task's name, the others follow it after a dot
(`topic`, `topic.score`, `topic.scores`). The checkpoint's name, which all rows have, is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from app.answers import EmotionsAnswer, LabelAnswer, LabelsAnswer, SummaryAnswer, TopicAnswer
from app.thresholds import Score
from model.tasks import SUMMARIZE, Tasks

Kind = Literal["text", "integer", "number", "scores", "json"]

_LEFT_OUT = ("model",)
_WARNINGS = "warnings"
_KINDS: dict[Any, Kind] = {str: "text", int: "integer", float: "number", list[Score]: "scores"}
_PARTS: dict[str, type[BaseModel]] = {SUMMARIZE: SummaryAnswer, "emotions": EmotionsAnswer, "topic": TopicAnswer}


def answer_names(tasks: Sequence[str], prefix: str) -> list[str]:
    """What an answer to `tasks` adds to an object."""
    return [prefix + name for name in (*map(_part_name, tasks), _WARNINGS)]


def answer_columns(known: Tasks, tasks: Sequence[str], prefix: str, extras: Sequence[str] = ()) -> dict[str, Kind]:
    """What an answer to `tasks` adds to a table, in order; with those of its parts that must be asked for, `extras`."""
    columns: dict[str, Kind] = {}
    for task in tasks:
        part = _PARTS.get(task) or (LabelsAnswer if known.head(task).kind == "multi_label" else LabelAnswer)
        wanted = (*extras, *([] if task == SUMMARIZE else [_WARNINGS]))  # of a summary they are the text's
        first, *others = (
            name
            for name, one in part.model_fields.items()
            if name not in _LEFT_OUT and (one.is_required() or name in wanted)
        )
        name = prefix + _part_name(task)
        columns[name] = _kind(part, first)
        columns |= {f"{name}.{other}": _kind(part, other) for other in others}
    return {**columns, prefix + _WARNINGS: "json"}


def flat(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the columns of a table."""
    columns: dict[str, Any] = {}
    for name, part in answer.items():
        if not isinstance(part, dict):
            columns[name] = part
            continue
        first, *others = (one for one in part if one not in _LEFT_OUT)
        columns[name] = part[first]
        columns |= {f"{name}.{other}": part[other] for other in others}
    return columns


def _part_name(task: str) -> str:
    return "summary" if task == SUMMARIZE else task


def _kind(part: type[BaseModel], name: str) -> Kind:
    if name == "finish_reason":
        return "text"
    return _KINDS.get(part.model_fields[name].annotation, "json")
