"""From a validated body to answers: the steps that every route for work shares."""

from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request

from app.api.limits import check_cost, check_size, check_texts, field_of
from app.api.problems import invalid_field
from app.documents import Answer
from app.planning import Plan, Question, TextError
from app.service import Loaded, Service
from app.settings import Settings
from model.storage.checkpoint import Checkpoint

T = TypeVar("T")


async def plan_texts(request: Request, texts: str | list[str], question: Question, place: str = "text") -> list[Plan]:
    """`question` about each of `texts`, within the limits; `place` is the name of the texts' field.

    Raises:
        Problem: 422 field by field.
        UnsupportedTask: the checkpoint has no such head.
    """
    settings = settings_of(request)
    items, is_list = ([texts], False) if isinstance(texts, str) else (texts, True)
    check_texts(settings, items, place, is_list=is_list)
    try:
        plans = await loaded_of(request).documents.plan(items, question, request.state.deadline)
    except TextError as error:
        raise invalid_field(field_of(place, error.index, is_list=is_list), error.message) from None
    check_cost(settings, plans)
    check_size(settings, plans, place)
    request.state.input_tokens = sum(plan.num_tokens for plan in plans)
    return plans


async def answer_texts(
    request: Request,
    texts: str | list[str],
    question: Question,
    shape: Callable[[Checkpoint, Answer], T],
    place: str = "text",
) -> list[T]:
    """The shaped answers, in the order of `texts`.

    Raises:
        Problem, UnsupportedTask: as `plan_texts`.
        EngineError: refused, late or failed.
    """
    plans = await plan_texts(request, texts, question, place)
    loaded = loaded_of(request)
    answers = await loaded.documents.answer(plans)
    request.state.output_tokens = sum(answer.summary.output_tokens for answer in answers if answer.summary)
    return [shape(loaded.checkpoint, answer) for answer in answers]


def settings_of(request: Request) -> Settings:
    """The limits that hold for this request."""
    service: Service = request.app.state.service
    return service.settings


def mirror(texts: str | list[str], answers: list[T]) -> T | list[T]:
    """The answer mirrors the question: one for a string, a list for a list."""
    return answers[0] if isinstance(texts, str) else answers


def loaded_of(request: Request) -> Loaded:
    """What answers this request; it was ready when the request came through the door."""
    loaded: Loaded = request.state.loaded
    return loaded
