"""The limits of a request that are settings: texts, tokens, cost. Each refusal says value, limit and remedy."""

from collections.abc import Sequence
from dataclasses import replace

from app.api.problems import FieldError, invalid, invalid_field
from app.api.schemas import SummaryOptions
from app.planning import Plan
from app.settings import Settings, most_of
from model.errors import OptionsError
from model.inference.decoding.options import DecodingOptions


def check_texts(settings: Settings, texts: Sequence[str], place: str, *, is_list: bool) -> None:
    """What can be said of texts before they are tokenized; `place` is their field's name.

    Raises:
        Problem: 422, every text that is wrong.
    """
    if not texts:
        raise invalid_field(place, "is an empty list; give it at least one text")
    if len(texts) > settings.max_items:
        raise invalid_field(
            place,
            f"has {len(texts)} texts, {settings.max_items} are allowed (max_items); send them in several requests",
        )
    errors = [
        FieldError(
            field_of(place, index, is_list=is_list),
            f"has {len(text)} characters, {settings.max_text_chars} are allowed (max_text_chars); send it in parts",
        )
        for index, text in enumerate(texts)
        if len(text) > settings.max_text_chars
    ]
    if errors:
        raise invalid(errors)


def decoding_options(settings: Settings, asked: SummaryOptions, place: str = "") -> DecodingOptions:
    """What is asked of one summary; a length that is not given is the default, or the limit where that is lower.

    Raises:
        Problem: 422 with value and limit; `place` stands before the option's name.
    """
    options, limit = asked.decoding(), settings.max_new_tokens
    if options.max_new_tokens <= limit:
        return options
    if "max_new_tokens" in asked.model_fields_set:
        message = f"{options.max_new_tokens} is not allowed; it must be at most {limit} (this server's max_new_tokens)"
        raise invalid_field(f"{place}max_new_tokens", message)
    try:
        return replace(options, max_new_tokens=limit)
    except OptionsError as error:  # min_new_tokens is above it
        raise invalid_field(f"{place}{error.field}", error.message) from None


def check_cost(settings: Settings, plans: Sequence[Plan]) -> None:
    """What may be asked of one request in all.

    Raises:
        Problem: 422 with value and limit.
    """
    cost = sum(plan.cost for plan in plans)
    if cost > settings.max_cost:
        raise invalid_field(
            "max_new_tokens",
            f"times num_beams, summed over texts and their chunks, is {cost}, "
            f"{settings.max_cost} are allowed (max_cost); ask for fewer tokens, beams or texts, "
            "or set on_long to truncate",
        )


def check_size(settings: Settings, plans: Sequence[Plan], place: str) -> None:
    """What one request may take of the queue: half of it at most, or the others would be refused until it is through.

    Raises:
        Problem: 422 with value and limit.
    """
    num_sources, num_tokens = sum(len(plan.requests) for plan in plans), sum(plan.num_tokens for plan in plans)
    if num_sources == 1:
        return
    for value, setting, unit in (
        (num_sources, "max_queued_requests", "texts or chunks of texts"),
        (num_tokens, "max_queued_tokens", "tokens"),
    ):
        limit = most_of(getattr(settings, setting))
        if value > limit:
            raise invalid_field(
                place,
                f"is {value} {unit} in all, {limit} are allowed (half of {setting}); send it in several requests",
            )


def field_of(place: str, index: int, *, is_list: bool) -> str:
    """`text[3]`, or `text` where it was no list."""
    return f"{place}[{index}]" if is_list else place
