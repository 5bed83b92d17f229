"""Settings and decoding options as command-line flags, and back; made from `Settings` and `DecodingOptions`."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from app.settings import Settings
from model.errors import OptionsError
from model.inference.decoding.options import DecodingOptions

Command = TypeVar("Command", bound=Callable[..., None])

_SHOWN: dict[Any, str] = {int: "<whole number>", float: "<number>", Path: "<path>", Path | None: "<path>"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_READABLE = {"int_parsing": "it must be a whole number", "float_parsing": "it must be a number"}
_EACH = "a file, a folder, a pattern in quotes, or - for standard input; may be repeated."
_INPUTS: dict[str, tuple[Any, Any, str, str | None]] = {
    "file": (list[str], None, f"Texts, one a file: {_EACH}", "<path>"),
    "lines": (list[str], None, f"Texts, one a line, of text files (.txt in a folder): {_EACH}", "<path>"),
    "jsonl": (list[str], None, f"Texts, one a JSON object, of JSON Lines (.jsonl in a folder): {_EACH}", "<path>"),
    "text_column": (str, "text", "Where an object of --jsonl has its text.", "<name>"),
    "prefix": (str, "", "Put before every name that the answer adds to an object of --jsonl.", "<text>"),
    "output": (Path, None, "Folder for the answers, as JSON Lines; stopped, the same command goes on.", "<path>"),
    "overwrite": (bool, False, "Start anew in the folder of --output.", None),
    "json": (bool, False, "JSON Lines, as elsewhere than at a terminal, instead of a table.", None),
}
_SECRET = ("api_keys", "admin_keys")
_OPTIONS = {one.name: one for one in fields(DecodingOptions)}
_OPTION_TYPES = get_type_hints(DecodingOptions)


class SettingsError(Exception):
    """Invalid settings; the message names each with its value and remedy."""


def with_flags(names: Collection[str] = tuple(Settings.model_fields)) -> Callable[[Command], Command]:
    """Gives a command a flag for each of the settings `names`; they arrive in its `**flags`, None for "not given"."""
    return lambda command: _add_flags(command, [_setting_flag(name, Settings.model_fields[name]) for name in names])


def with_decoding_flags(command: Command) -> Command:
    """Gives a command a flag for each decoding option; they arrive in its `**flags`, None for "not given"."""
    return _add_flags(command, [_option_flag(name) for name in _OPTIONS])


def with_input_flags(command: Command) -> Command:
    """Gives a command the flags that name texts and say where answers go; they arrive in its `**flags`."""
    return _add_flags(command, _INPUT_FLAGS)


def settings_from(flags: Mapping[str, Any]) -> Settings:
    """Settings from flags, else the environment, else their defaults.

    Raises:
        SettingsError: a value outside its range.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("; ".join(_message(one) for one in error.errors(include_url=False))) from None


def options_from(flags: dict[str, Any]) -> tuple[DecodingOptions, bool]:
    """The decoding options in `flags`, which are removed there; and whether `max_new_tokens` is among them.

    Raises:
        OptionsError: a value that cannot be read or is outside its range.
    """
    given = {name: value for name in _OPTIONS if (value := flags.pop(name, None)) is not None}
    options = DecodingOptions(**{name: _read_option(name, value) for name, value in given.items()})
    return options, "max_new_tokens" in given


def _add_flags(command: Command, flags: Sequence[inspect.Parameter]) -> Command:
    signature = inspect.signature(command)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    return command


def _input_flag(name: str) -> inspect.Parameter:
    kind, default, help_text, shown = _INPUTS[name]
    option = typer.Option(f"--{name.replace('_', '-')}", help=help_text, metavar=shown)
    annotation = kind if default is not None else kind | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
    )


_INPUT_FLAGS = [_input_flag(name) for name in _INPUTS]


def _setting_flag(name: str, field: FieldInfo) -> inspect.Parameter:
    # Values are parsed by `Settings` alone, from flags as from the environment, so that both are refused alike.
    kind, shown = (bool, None) if field.annotation is bool else (str, _SHOWN.get(field.annotation, "<text>"))
    bounds = {key: getattr(one, key) for one in field.metadata for key in _BOUNDS if hasattr(one, key)}
    help_text = f"{field.description} [{_variable(name)}] [default: {_default(field)}]{_limits(bounds)}"
    return _flag(name, kind, help_text, shown)


def _option_flag(name: str) -> inspect.Parameter:
    option, kind = _OPTIONS[name], _OPTION_TYPES[name]
    help_text = f"{option.metadata['description']} [default: {str(option.default).lower()}]"
    shown = "<true|false|never>" if name == "early_stopping" else _SHOWN.get(kind)
    return _flag(name, kind if kind is bool else str, help_text + _limits(option.metadata["bounds"]), shown)


def _flag(name: str, kind: type, help_text: str, shown: str | None) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    if kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    option = typer.Option(flag, help=help_text, metavar=shown)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _read_option(name: str, value: str | bool) -> Any:
    kind = _OPTION_TYPES[name]
    if kind not in (int, float):
        return {"true": True, "false": False}.get(str(value).lower(), value)
    try:
        return kind(value)
    except ValueError:
        article = "a whole number" if kind is int else "a number"
        raise OptionsError(name, f"{value!r} is not allowed; it must be {article}") from None


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, tuple):
        return "none"
    return field.default.name if isinstance(field.default, Path) else str(field.default).lower()


def _limits(bounds: Mapping[str, object]) -> str:
    found = [f"{_BOUNDS[name]} {bound}" for name, bound in bounds.items()]
    return f" [{', '.join(found)}]" if found else ""


def _variable(name: str) -> str:
    return f"LEXIMIND_{name.upper()}"


def _message(error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0])
    value = "not allowed" if name in _SECRET else f"{error['input']!r}, which is not allowed"
    plain = error["msg"].removeprefix("Value error, ").replace("Input should be ", "it must be ")
    reason = _READABLE.get(error["type"], plain)
    return f"--{name.replace('_', '-')} ({_variable(name)}) is {value}: {reason}"
