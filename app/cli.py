"""`leximind`: serve, run tasks at the command line, import, inform. A refusal is one line and an exit code.

Knows nothing of HTTP: only `serve` loads what does, which takes a second.
"""

import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from app.answers import TextResult, analyze_answer, emotions_answer, head_answer, summary_answer, topic_answer
from app.engine.request import EngineError
from app.flags import SettingsError, options_from, settings_from, with_decoding_flags, with_flags
from app.keys import KeysError
from app.limits import limit_options
from app.planning import OnLong, TextError, TextRequest, UnsupportedTask
from app.service import Service
from app.tables import AnyAnswer, print_answers
from app.telemetry import configure_logging
from app.version import VERSION
from model.errors import ModelError, OptionsError
from model.storage.checkpoint import Checkpoint
from model.storage.flan_t5 import import_flan_t5
from model.tasks import BUILT_IN

BAD_INPUT = 2
LOAD_FAILED = 1
MODEL_FAILED = 3

# The settings of the commands that run here.
_LOCAL = ("checkpoint", "device", "dtype", "threads")
A = TypeVar("A")
T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Texts = Annotated[
    list[str] | None, typer.Argument(metavar="[TEXT]...", help="A text each; standard input without any.")
]
Files = Annotated[list[Path] | None, typer.Option("--file", help="A file that holds one text; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, as the server gives it, instead of a table.")]
OnLongText = Annotated[
    OnLong, typer.Option(help="A text longer than the model reads is cut into chunks, truncated, or refused.")
]
SupportFlag = Annotated[
    bool,
    typer.Option("--support", help="Say what backs the summary: nearest passages, names and numbers without one."),
]
Threshold = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Minimum score of all labels, instead of their own thresholds."),
]
TopK = Annotated[int | None, typer.Option(min=1, help="The k best labels.")]


def _print_version(is_given: bool) -> None:
    if is_given:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _common_options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Summaries, emotions and topics of texts."""


def main() -> None:
    """The entry point of the installed command."""
    app()


@app.command()
@with_flags()
def serve(**flags: Any) -> None:
    """Serve over HTTP. Every flag is an environment variable too; a flag wins."""
    from app import server

    try:
        server.serve(settings_from(flags))
    except (SettingsError, KeysError, server.AddressError) as error:
        _fail(str(error))
    except server.ServingFailed as error:
        _fail(str(error), MODEL_FAILED if error.has_served else LOAD_FAILED)


@app.command()
@with_flags(_LOCAL)
@with_decoding_flags
def summarize(
    texts: Texts = None,
    file: Files = None,
    as_json: AsJson = False,
    on_long: OnLongText = "chunk",
    support: SupportFlag = False,
    **flags: Any,
) -> None:
    """Summarize texts."""
    _run(_read(texts, file), ("summarize",), summary_answer, as_json, flags, on_long, support)


@app.command()
@with_flags(_LOCAL)
def emotions(
    texts: Texts = None,
    file: Files = None,
    as_json: AsJson = False,
    top_k: TopK = None,
    threshold: Threshold = None,
    **flags: Any,
) -> None:
    """Detect the emotions in texts."""

    def shape(checkpoint: Checkpoint, result: TextResult) -> AnyAnswer:
        return emotions_answer(checkpoint, result, top_k, threshold)

    _run(_read(texts, file), ("emotions",), shape, as_json, flags)


@app.command()
@with_flags(_LOCAL)
def topic(texts: Texts = None, file: Files = None, as_json: AsJson = False, top_k: TopK = None, **flags: Any) -> None:
    """Detect the topic of texts."""

    def shape(checkpoint: Checkpoint, result: TextResult) -> AnyAnswer:
        return topic_answer(checkpoint, result, top_k)

    _run(_read(texts, file), ("topic",), shape, as_json, flags)


@app.command()
@with_flags(_LOCAL)
def classify(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="A head of the checkpoint; `leximind info` lists them.")],
    texts: Texts = None,
    file: Files = None,
    as_json: AsJson = False,
    top_k: TopK = None,
    threshold: Threshold = None,
    **flags: Any,
) -> None:
    """Classify texts with any head of the checkpoint."""

    def shape(checkpoint: Checkpoint, result: TextResult) -> AnyAnswer:
        found = checkpoint.tasks.head(head)
        if threshold is not None and found.kind == "single_label":
            _fail(f"--threshold is {threshold} with {head}, which has one label a text; leave it out, or give --top-k")
        return head_answer(checkpoint, found, result, top_k, threshold)

    _run(_read(texts, file), (head,), shape, as_json, flags)


@app.command()
@with_flags(_LOCAL)
@with_decoding_flags
def analyze(
    texts: Texts = None,
    file: Files = None,
    as_json: AsJson = False,
    on_long: OnLongText = "chunk",
    support: SupportFlag = False,
    **flags: Any,
) -> None:
    """Run every task of the checkpoint."""
    _run(_read(texts, file), (), analyze_answer, as_json, flags, on_long, support)


@app.command(name="import")
def import_checkpoint(
    source: Annotated[str, typer.Argument(help="A FLAN-T5 folder in the published layout, or a hub id.")],
    target: Annotated[Path, typer.Argument(help="Where the checkpoint folder goes.")],
    overwrite: Annotated[bool, typer.Option(help="Replace TARGET and all that is in it.")] = False,
) -> None:
    """Make a checkpoint of a published FLAN-T5."""
    if target.exists() and not overwrite:
        _fail(f"{target} is there already; name another folder, or replace it with all that is in it by --overwrite")
    try:
        import_flan_t5(source, target)
    except ModelError as error:
        _fail(str(error))
    typer.echo(f"{target}: serve it with leximind serve --checkpoint {target}")


@app.command()
@with_flags(_LOCAL)
def info(as_json: AsJson = False, **flags: Any) -> None:
    """What the checkpoint is and can do."""
    facts = asyncio.run(_with_service(flags, _facts))
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        typer.echo("\n".join(f"{name}: {_shown(value)}" for name, value in facts.items()))


def _shown(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    words = [f"{one['name']} ({one['kind']}, {len(one['labels'])})" if isinstance(one, dict) else one for one in value]
    return ", ".join(words) or "none"


async def _facts(service: Service) -> dict[str, Any]:
    checkpoint = service.deployment.checkpoint
    labels = {head.name: list(head.labels) for head in checkpoint.tasks.heads}
    return {
        "version": VERSION,
        "checkpoint": str(checkpoint.folder),
        "parameters": checkpoint.num_parameters,
        "device": str(checkpoint.backend.device),
        "dtype": checkpoint.backend.precision,
        "max_source_tokens": checkpoint.tasks.max_source_tokens,
        "tasks": list(checkpoint.tasks.names),
        "emotions": labels.get("emotions", []),
        "topics": labels.get("topic", []),
        "heads": [
            {"name": head.name, "kind": head.kind, "labels": labels[head.name]} for head in checkpoint.tasks.heads
        ],
    }


def _run(
    texts: Sequence[str],
    tasks: tuple[str, ...],
    shape: Callable[[Checkpoint, TextResult], AnyAnswer],
    as_json: bool,
    flags: dict[str, Any],
    on_long: OnLong = "chunk",
    support: bool = False,
) -> None:
    """Run `tasks`, all by default, and print the answers that `shape` makes of the results."""
    options, is_given = _or_fail(options_from, flags)

    async def run(service: Service) -> list[AnyAnswer]:
        deployment, limits = service.deployment, service.settings
        known = deployment.checkpoint.tasks
        if unknown := [task for task in tasks if not known.has(task) and task not in BUILT_IN]:
            names = ", ".join(head.name for head in known.heads) or "none"
            _fail(f"{unknown[0]}: the checkpoint {deployment.checkpoint.name} has no head of that name; it has {names}")
        limited = _or_fail(partial(limit_options, limits, is_given=is_given), options)
        request = TextRequest(tasks or known.names, limited, on_long, support)
        plans = await deployment.documents.plan(texts, request, math.inf)
        return [shape(deployment.checkpoint, result) for result in await deployment.documents.run(plans)]

    answers = asyncio.run(_with_service(flags, run))
    if not as_json:
        print_answers(answers)
        return
    objects = [answer.model_dump(mode="json", exclude_none=True) for answer in answers]
    typer.echo(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2, ensure_ascii=False))


async def _with_service(flags: dict[str, Any], run: Callable[[Service], Awaitable[T]]) -> T:
    try:
        settings = settings_from(flags)
    except SettingsError as error:
        _fail(str(error))
    configure_logging("critical", as_json=False)  # failures are one line, by `_fail`
    service = Service(settings)
    await service.load()
    if service.failure is not None:
        _fail(service.failure, LOAD_FAILED)
    try:
        return await run(service)
    except (TextError, UnsupportedTask, EngineError) as error:
        _fail(f"text {error.index + 1} {error}" if isinstance(error, TextError) else str(error))
    finally:
        await service.drain(0.0)


def _or_fail(make: Callable[[A], T], value: A) -> T:
    """`make(value)`, which may refuse a decoding option."""
    try:
        return make(value)
    except OptionsError as error:
        _fail(f"--{error.field.replace('_', '-')}: {error.message}")


def _read(texts: list[str] | None, files: list[Path] | None) -> list[str]:
    """Arguments, then files; standard input when there is neither."""
    try:
        given = [*(texts or []), *(path.read_text("utf-8") for path in files or [])]
        if given:
            return given
        if sys.stdin.isatty():
            _fail("no text: give TEXT, --file FILE, or pipe one in")
        return [sys.stdin.buffer.read().decode("utf-8")]
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}; give a file that can be read")
    except UnicodeDecodeError as error:
        _fail(f"byte {error.start} is not UTF-8; convert the text to UTF-8")


def _fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    typer.echo(f"leximind: {' '.join(message.split())}", err=True)  # a library's message may have several lines
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
