"""`leximind`: serve, answer at the command line, import, inform. A refusal is one line and an exit code."""

import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from app import server
from app.api.answers import analyze_answer, emotions_answer, head_answer, summary_answer, topic_answer
from app.documents import Answer
from app.engine.request import EngineError
from app.flags import SettingsError, settings_from, with_flags
from app.keys import KeysError
from app.planning import OnLong, Question, TextError, UnsupportedTask
from app.service import Service
from app.tables import AnyAnswer, print_answers
from app.telemetry import configure_logging
from app.version import VERSION
from model.errors import ModelError, OptionsError
from model.inference.decoding.options import DecodingOptions
from model.storage.checkpoint import Checkpoint
from model.storage.flan_t5 import import_flan_t5
from model.tasks import BUILT_IN

BAD_INPUT = 2
LOAD_FAILED = 1
MODEL_FAILED = 3

# What the commands that answer here need of the settings.
_LOCAL = ("checkpoint", "device", "dtype", "threads")
_DEFAULT = DecodingOptions()
T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Texts = Annotated[
    list[str] | None, typer.Argument(metavar="[TEXT]...", help="A text each; standard input without any.")
]
Files = Annotated[list[Path] | None, typer.Option("--file", help="A file that holds one text; may be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, as the server gives it, instead of a table.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest summary, in tokens.")]
MinNewTokens = Annotated[int, typer.Option(help="Shortest summary, in tokens.")]
NumBeams = Annotated[int, typer.Option(help="1 is greedy, more is beam search.")]
OnLongText = Annotated[OnLong, typer.Option(help="What becomes of a long text.")]
Threshold = Annotated[float | None, typer.Option(min=0, max=1, help="Least score of every label.")]
TopK = Annotated[int | None, typer.Option(min=1, help="The k best labels.")]


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _options_of_all(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
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
    try:
        server.serve(settings_from(flags))
    except (SettingsError, KeysError, server.AddressError) as error:
        _fail(str(error))
    except server.ServingFailed as error:
        _fail(str(error), MODEL_FAILED if error.has_served else LOAD_FAILED)


@app.command()
@with_flags(_LOCAL)
def summarize(
    texts: Texts = None,
    file: Files = None,
    as_json: AsJson = False,
    max_new_tokens: MaxNewTokens = _DEFAULT.max_new_tokens,
    min_new_tokens: MinNewTokens = _DEFAULT.min_new_tokens,
    num_beams: NumBeams = _DEFAULT.num_beams,
    on_long: OnLongText = "chunk",
    **flags: Any,
) -> None:
    """Summarise texts."""
    question = Question(("summarize",), _options(max_new_tokens, min_new_tokens, num_beams), on_long)

    def shape(checkpoint: Checkpoint, answer: Answer) -> AnyAnswer:
        assert answer.summary is not None
        return summary_answer(checkpoint, answer.summary)

    _answer(_read(texts, file), question, shape, as_json, flags)


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
    """Tell the emotions in texts."""

    def shape(checkpoint: Checkpoint, answer: Answer) -> AnyAnswer:
        return emotions_answer(checkpoint, answer.scores["emotions"], top_k, threshold)

    _answer(_read(texts, file), Question(("emotions",)), shape, as_json, flags)


@app.command()
@with_flags(_LOCAL)
def topic(texts: Texts = None, file: Files = None, as_json: AsJson = False, top_k: TopK = None, **flags: Any) -> None:
    """Tell the topic of texts."""

    def shape(checkpoint: Checkpoint, answer: Answer) -> AnyAnswer:
        return topic_answer(checkpoint, answer.scores["topic"], top_k)

    _answer(_read(texts, file), Question(("topic",)), shape, as_json, flags)


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
    """Classify texts by any head that the checkpoint has."""

    def shape(checkpoint: Checkpoint, answer: Answer) -> AnyAnswer:
        found = checkpoint.tasks.head(head)
        if threshold is not None and found.kind == "single_label":
            _fail(f"--threshold is {threshold} with {head}, which has one label a text; leave it out, or give --top-k")
        return head_answer(checkpoint, found, answer.scores[head], top_k, threshold)

    _answer(_read(texts, file), Question((head,)), shape, as_json, flags)


@app.command()
@with_flags(_LOCAL)
def analyze(
    texts: Texts = None,
    file: Files = None,
    as_json: AsJson = False,
    max_new_tokens: MaxNewTokens = _DEFAULT.max_new_tokens,
    num_beams: NumBeams = _DEFAULT.num_beams,
    on_long: OnLongText = "chunk",
    **flags: Any,
) -> None:
    """Tell all that the checkpoint can."""
    options = _options(max_new_tokens, _DEFAULT.min_new_tokens, num_beams)
    _answer(_read(texts, file), Question((), options, on_long), analyze_answer, as_json, flags)


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
    checkpoint = service.loaded.checkpoint
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


def _answer(
    texts: Sequence[str],
    question: Question,
    shape: Callable[[Checkpoint, Answer], AnyAnswer],
    as_json: bool,
    flags: dict[str, Any],
) -> None:
    async def ask(service: Service) -> list[AnyAnswer]:
        loaded = service.loaded
        asked, limit = question.options.max_new_tokens, service.settings.max_new_tokens
        if asked > limit:
            _fail(f"--max-new-tokens is {asked}, at most {limit} are allowed (LEXIMIND_MAX_NEW_TOKENS)")
        known = loaded.checkpoint.tasks
        tasks = question.tasks or known.names
        if unknown := [task for task in tasks if not known.has(task) and task not in BUILT_IN]:
            names = ", ".join(head.name for head in known.heads) or "none"
            _fail(f"{unknown[0]}: the checkpoint {loaded.checkpoint.name} has no head of that name; it has {names}")
        plans = await loaded.documents.plan(texts, replace(question, tasks=tasks), deadline=math.inf)
        return [shape(loaded.checkpoint, answer) for answer in await loaded.documents.answer(plans)]

    answers = asyncio.run(_with_service(flags, ask))
    if not as_json:
        print_answers(answers)
        return
    objects = [answer.model_dump(mode="json", exclude_none=True) for answer in answers]
    typer.echo(json.dumps(objects[0] if len(objects) == 1 else objects, indent=2, ensure_ascii=False))


async def _with_service(flags: dict[str, Any], ask: Callable[[Service], Awaitable[T]]) -> T:
    try:
        settings = settings_from(flags)
    except SettingsError as error:
        _fail(str(error))
    configure_logging("critical", as_json=False)  # failures are told as one line, by `_fail`
    service = Service(settings)
    await service.load()
    if service.failure is not None:
        _fail(service.failure, LOAD_FAILED)
    try:
        return await ask(service)
    except (TextError, UnsupportedTask, EngineError) as error:
        _fail(f"text {error.index + 1} {error}" if isinstance(error, TextError) else str(error))
    finally:
        await service.drain(0.0)


def _options(max_new_tokens: int, min_new_tokens: int, num_beams: int) -> DecodingOptions:
    try:
        return DecodingOptions(max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, num_beams=num_beams)
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
