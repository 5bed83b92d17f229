"""How a command ends that has no answer: one line on standard error, and a code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from model.errors import OptionsError

LOAD_FAILED = 1
BAD_INPUT = 2
MODEL_FAILED = 3
SOME_REFUSED = 4  # the others were answered
INTERRUPTED = 130  # as a shell has it for SIGINT


@contextmanager
def refused_options() -> Iterator[None]:
    """A decoding option that is refused in the block ends the command."""
    try:
        yield
    except OptionsError as error:
        fail(f"--{error.field.replace('_', '-')}: {error.message}")


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """End the command with one line on standard error."""
    say(" ".join(message.split()))  # a library's message may have several lines
    raise typer.Exit(code)


def say(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"leximind: {message}", err=True)
