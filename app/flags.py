"""The settings as command-line flags and back: one table, `Settings`, for the environment, the flags and the docs."""

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.settings import Settings

Command = TypeVar("Command", bound=Callable[..., None])

_SHOWN: dict[Any, str] = {int: "<whole number>", float: "<number>", Path: "<path>", Path | None: "<path>"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most"}
_READABLE = {"int_parsing": "it must be a whole number", "float_parsing": "it must be a number"}
_SECRET = ("api_keys", "admin_keys")


class SettingsError(Exception):
    """Settings that make no service; the message names each with its value and remedy."""


def with_flags(names: Collection[str] = tuple(Settings.model_fields)) -> Callable[[Command], Command]:
    """Gives a command a flag for each of the settings `names`; they arrive in its `**flags`, None for "not given"."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        flags = [_parameter(name, Settings.model_fields[name]) for name in names]
        command.__signature__ = signature.replace(parameters=own + flags)  # type: ignore[attr-defined]
        return command

    return decorate


def settings_from(flags: Mapping[str, Any]) -> Settings:
    """Settings from flags, else the environment, else their defaults.

    Raises:
        SettingsError: a value outside its range.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_message(one) for one in error.errors(include_url=False))) from None


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    # Values are read by `Settings` alone, from flags as from the environment, so that both are refused in one voice.
    kind, shown = (bool, None) if field.annotation is bool else (str, _SHOWN.get(field.annotation, "<text>"))
    flag = "--" + name.replace("_", "-")
    if kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    help_text = f"{field.description} [{_variable(name)}] [default: {_default(field)}]{_limits(field)}"
    option = typer.Option(flag, help=help_text, metavar=shown)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, tuple):
        return "none"
    return field.default.name if isinstance(field.default, Path) else str(field.default).lower()


def _limits(field: FieldInfo) -> str:
    found = [
        f"{word} {getattr(one, name)}" for one in field.metadata for name, word in _BOUNDS.items() if hasattr(one, name)
    ]
    return f" [{', '.join(found)}]" if found else ""


def _variable(name: str) -> str:
    return f"LEXIMIND_{name.upper()}"


def _message(error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0])
    value = "not allowed" if name in _SECRET else f"{error['input']!r}, which is not allowed"
    plain = error["msg"].removeprefix("Value error, ").replace("Input should be ", "it must be ")
    reason = _READABLE.get(error["type"], plain)
    return f"--{name.replace('_', '-')} ({_variable(name)}) is {value}: {reason}"
