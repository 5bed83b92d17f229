"""The limits of a request that are settings: texts, tokens, cost. Each refusal says value, limit and remedy.

Knows nothing of HTTP: a refusal is a `LimitError`, which names the fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.engine.admission import half_of
from app.planning import Plan
from app.settings import Settings
from model.errors import OptionsError
from model.inference.decoding.options import DecodingOptions


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of a request; `message` says the value, the limit and the remedy."""

    field: str
    message: str


class LimitError(Exception):
    """A request beyond a limit, or with a value that is not allowed: one `FieldError` for each field."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors


def check_texts(settings: Settings, texts: Sequence[str], place: str, *, is_list: bool) -> None:
    """Check number and length of texts before they are tokenized; `place` is their field's name.

    Raises:
        LimitError: every text that is too long.
    """
    if not texts:
        raise LimitError(FieldError(place, "is an empty list; give it at least one text"))
    if len(texts) > settings.max_items:
        message = f"has {len(texts)} texts, {settings.max_items} are allowed (max_items); send them in several requests"
        raise LimitError(FieldError(place, message))
    errors = [
        FieldError(
            field_of(place, index, is_list=is_list),
            f"has {len(text)} characters, {settings.max_text_chars} are allowed (max_text_chars); send it in parts",
        )
        for index, text in enumerate(texts)
        if len(text) > settings.max_text_chars
    ]
    if errors:
        raise LimitError(*errors)


def limit_options(settings: Settings, options: DecodingOptions, *, is_given: bool) -> DecodingOptions:
    """The options of one summary; a length that was not given is the default, or the limit where that is lower.

    Raises:
        OptionsError: `max_new_tokens` was given and is above the limit.
    """
    limit = settings.max_new_tokens
    if options.max_new_tokens <= limit:
        return options
    if is_given:
        message = f"{options.max_new_tokens} is not allowed; it must be at most {limit} (the setting max_new_tokens)"
        raise OptionsError("max_new_tokens", message)
    return replace(options, max_new_tokens=limit)  # raises where min_new_tokens is above it


def check_cost(settings: Settings, plans: Sequence[Plan]) -> None:
    """Check how much decoding one request needs in all.

    Raises:
        LimitError: it is above the limit.
    """
    cost = sum(plan.cost for plan in plans)
    if cost > settings.max_cost:
        message = (
            f"times num_beams, summed over texts and their chunks, is {cost}, "
            f"{settings.max_cost} are allowed (max_cost); ask for fewer tokens, beams or texts, "
            "or set on_long to truncate"
        )
        raise LimitError(FieldError("max_new_tokens", message))


def check_size(settings: Settings, plans: Sequence[Plan], place: str) -> None:
    """Check that one request takes at most half of the queue, or all others would be refused until it is encoded.

    Raises:
        LimitError: it is above the limit.
    """
    num_sources, num_tokens = sum(len(plan.requests) for plan in plans), sum(plan.num_tokens for plan in plans)
    if num_sources == 1:
        return
    for value, setting, unit in (
        (num_sources, "max_queued_requests", "texts or chunks of texts"),
        (num_tokens, "max_queued_tokens", "tokens"),
    ):
        limit = half_of(getattr(settings, setting))
        if value > limit:
            message = f"is {value} {unit} in all, {limit} are allowed (half of {setting}); send it in several requests"
            raise LimitError(FieldError(place, message))


def field_of(place: str, index: int, *, is_list: bool) -> str:
    """`text[3]`, or `text` where it was no list."""
    return f"{place}[{index}]" if is_list else place
