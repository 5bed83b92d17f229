"""What pydantic finds wrong with a request, in a client's words: field, value, limit, remedy; never the text itself."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from app.limits import FieldError

_SHOWN_CHARS = 40
_SHOWN_ERRORS = 20  # a body of 2 MB can have a million, and answering with all of them would take the service down


def field_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """One line for each of pydantic's errors, as far as anyone would read."""
    shown = [_field_error(error) for error in errors[:_SHOWN_ERRORS]]
    if further := len(errors) - len(shown):
        shown.append(FieldError("body", f"has {further} further errors; mend these first"))
    return shown


def _field_error(error: Mapping[str, Any]) -> FieldError:
    place = _place(error["loc"])
    context = error.get("ctx", {})
    match error["type"]:
        case "options":  # two fields that exclude each other; the message has values and limits
            return FieldError(f"{place}.{context['field']}".removeprefix("body."), context["message"])
        case "too_many_fields":
            limit = context["limit"]
            return FieldError(place, f"has {context['count']} fields, at most {limit} are allowed; /docs shows them")
        case "extra_forbidden":
            return FieldError(place, "is not known here; remove it, or see /docs for what is")
        case "missing":
            return FieldError(place, "is missing; send it")
        case "string_unicode":
            return FieldError(place, "has a lone surrogate, which is no character; remove it")
        case "model_attributes_type" | "model_type":
            return FieldError(place, f"is {_shown(error['input'])}; it must be a JSON object")
        case "string_type" if error["loc"][-1] == "<text>":
            return FieldError(place, f"{_shown(error['input'])} is not allowed; it must be a text or a list of texts")
    message = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return FieldError(place, f"{_shown(error['input'])} is not allowed; it must be {message}")


def _place(loc: Sequence[int | str]) -> str:
    """`text[3]` of `("body", "text", "<list>", 3)`."""
    place = ""
    for part in loc[1:]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not part.startswith("<"):  # the tag of a union in the schemas
            place += f".{part[:_SHOWN_CHARS]}"
    return place.removeprefix(".") or str(loc[0])


def _shown(value: object) -> str:
    """A number or a short word as it is, anything else by its type: it may be someone's text."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)[:_SHOWN_CHARS]
    if isinstance(value, str) and len(value) <= _SHOWN_CHARS:
        return repr(value)
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
