"""Which heads a request may name: those of the checkpoint that answers it, known once it is loaded."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Annotated, Any

from fastapi import Depends, Path
from pydantic import WrapValidator
from pydantic_core import PydanticKnownError, core_schema
from starlette.requests import Request

from app.api.context import deployment_of
from app.api.problems import Problem
from model.tasks import BUILT_IN, SUMMARIZE, Head, Tasks

# Of the checkpoint that answers the request being read, or that the schema is written for.
served: ContextVar[Tasks] = ContextVar("served", default=Tasks())  # noqa: B039  # it is frozen


async def _serve(request: Request) -> None:
    served.set(deployment_of(request).checkpoint.tasks)


SERVED = Depends(_serve)  # for every route whose body or query may name a head; resolved before either is read


def head_names() -> tuple[str, ...]:
    """The heads that a body or query may name. The built-in ones are always known: without them the answer is 409."""
    return tuple(dict.fromkeys((*BUILT_IN, *served.get().names[1:])))


def task_names() -> tuple[str, ...]:
    """The tasks that a body may name."""
    return (SUMMARIZE, *head_names())


class _OneOf:
    """A text that is one of some names, refused and described as a `Literal` of them would be."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        self._names = names

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> Any:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {"type": "string", "enum": list(self._names())}

    def _check(self, value: object) -> object:
        if not isinstance(value, str) or value not in self._names():
            *others, last = map(repr, self._names())
            expected = f"{', '.join(others)} or {last}" if others else last
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value


def _each_once(value: object, check: Callable[[object], Any]) -> Any:
    """At most as many items as there are tasks; a list of a million is not read to its end."""
    limit = len(task_names())
    if not isinstance(value, list) or len(value) <= limit:
        return check(value)
    check(value[: limit + 1])
    raise PydanticKnownError("too_long", {"field_type": "List", "max_length": limit, "actual_length": len(value)})


HeadName = Annotated[str, _OneOf(head_names)]
TaskName = Annotated[str, _OneOf(task_names)]
AtMostEveryTask = WrapValidator(_each_once)


class _OfCheckpoint:
    """Lists the checkpoint's heads in the schema; any other name in the path is answered with 404."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        names = [head.name for head in served.get().heads]
        return {**handler(schema), **({"enum": names} if names else {})}


HeadInPath = Annotated[
    str, Path(description="The name of a head of the checkpoint; /info lists them."), _OfCheckpoint()
]


async def _head_in_path(head: HeadInPath, request: Request) -> Head:
    tasks = deployment_of(request).checkpoint.tasks
    if tasks.has(head) and head != SUMMARIZE:
        return tasks.head(head)
    names = ", ".join(one.name for one in tasks.heads)
    found = f"it has {names}" if names else "it has none: train one (python -m training.train)"
    raise Problem(404, f"this checkpoint has no head of that name; {found}", "not_found")


async def _named_in_path(head: Annotated[str, Path(description="Any name: the answer is the same.")]) -> None:
    """For routes that are the same whatever head their path names, and are asked before any is known."""
    del head


PathHead = Annotated[Head, Depends(_head_in_path)]
ANY_HEAD = Depends(_named_in_path)
