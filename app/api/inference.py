"""From a validated body to answers: the steps that all inference routes share."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request

from app.answers import TextResult
from app.api.context import context_of, deployment_of, service_of
from app.api.schemas import SummaryOptions
from app.limits import FieldError, LimitError, check_cost, check_size, check_texts, field_of, limit_options
from app.planning import Plan, TextError
from app.text_request import TextRequest
from model.errors import OptionsError
from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import Checkpoint

T = TypeVar("T")


async def plan_texts(
    request: Request, texts: str | list[str], text_request: TextRequest, place: str = "text"
) -> list[Plan]:
    """`text_request` for each of `texts`, within the limits; `place` is the name of the texts' field.

    Raises:
        LimitError: field by field.
        UnsupportedTask: the checkpoint has no such head.
    """
    settings, context = service_of(request).settings, context_of(request.scope)
    assert context.deadline is not None  # the route's guard has set it
    items, is_list = ([texts], False) if isinstance(texts, str) else (texts, True)
    check_texts(settings, items, place, is_list=is_list)
    text_request = replace(text_request, priority=context.priority)
    try:
        plans = await deployment_of(request).documents.plan(items, text_request, context.deadline)
    except TextError as error:
        raise LimitError(FieldError(field_of(place, error.index, is_list=is_list), error.message)) from None
    check_cost(settings, plans)
    check_size(settings, plans, place)
    context.input_tokens = sum(plan.num_tokens for plan in plans)
    return plans


async def answer_texts(
    request: Request,
    texts: str | list[str],
    text_request: TextRequest,
    shape: Callable[[Checkpoint, TextResult], T],
    place: str = "text",
) -> list[T]:
    """The answers that `shape` makes of the results, in the order of `texts`.

    Raises:
        LimitError, UnsupportedTask: as `plan_texts`.
        EngineError: refused, late or failed.
    """
    plans = await plan_texts(request, texts, text_request, place)
    deployment = deployment_of(request)
    results = await deployment.documents.run(plans)
    context_of(request.scope).output_tokens = sum(one.summary.output_tokens for one in results if one.summary)
    return [shape(deployment.checkpoint, result) for result in results]


def decoding_options(request: Request, options: SummaryOptions, place: str = "") -> DecodingOptions:
    """The options of one summary, within the limits; `place` stands before an option's name in a refusal.

    Raises:
        LimitError: with value and limit.
    """
    is_given = "max_new_tokens" in options.model_fields_set
    try:
        return limit_options(service_of(request).settings, options.decoding, is_given=is_given)
    except OptionsError as error:
        raise LimitError(FieldError(f"{place}{error.field}", error.message)) from None


def mirror(texts: str | list[str], answers: list[T]) -> T | list[T]:
    """One answer for a string, a list for a list."""
    return answers[0] if isinstance(texts, str) else answers
