"""`leximind`: serve, run tasks at the command line, import, inform. A refusal is one line and an exit code.

Knows nothing of HTTP. A command imports what it needs when it runs: torch alone takes longer than who asks for help, or
a shell that completes a word, should wait.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.exits import LOAD_FAILED, MODEL_FAILED, fail, refused_options
from app.flags import SettingsError, options_from, settings_from, with_decoding_flags, with_flags, with_input_flags
from app.text_request import ON_LONG, OnLong, TextRequest
from app.thresholds import MAX_THRESHOLD, MIN_THRESHOLD, MIN_TOP_K
from app.version import VERSION

if TYPE_CHECKING:  # what runs a model: a command imports it when it runs
    from app.answers import TextResult
    from app.bench import Figure
    from app.doctor import Finding
    from app.local import FillElsewhere
    from app.service import Service
    from app.tables import AnyAnswer
    from model.storage.checkpoint import Checkpoint

# The settings of the commands that run here.
_LOCAL = ("checkpoint", "device", "dtype", "kernels", "threads")
_DOCTOR = (*_LOCAL, "host", "port")
_BULK = (*_LOCAL, "max_batch_tokens", "max_decode_rows")

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _examples(*lines: str) -> str:
    r"""The end of a command's help; \b keeps the lines as they are."""
    return "\b\n" + "\n".join(("Examples:", *(f"  {line}" for line in lines)))


Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT]...", help="A text each; - or nothing at all: standard input is one text."),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of lines.")]
OnLongText = Annotated[OnLong, typer.Option(help=ON_LONG)]
TargetTokens = Annotated[
    int | None, typer.Option(min=1, help="With --on-long reduce: longest summary of the whole, in tokens.")
]
DetailFlag = Annotated[bool, typer.Option("--detail", help="With --json: what came of each chunk too.")]
SupportFlag = Annotated[
    bool,
    typer.Option("--support", help="Say what backs the summary: nearest passages, names and numbers without one."),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=MIN_THRESHOLD, max=MAX_THRESHOLD, help="Minimum score of all labels, instead of their own thresholds."
    ),
]
TopK = Annotated[int | None, typer.Option(min=MIN_TOP_K, help="The k best labels.")]


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


@app.command(
    epilog=_examples(
        "leximind serve",
        "leximind serve --host 0.0.0.0 --port 9000 --checkpoint runs/base",
        "leximind serve --dtype int8 --threads 2 --api-keys-file keys.txt",
    ),
)
@with_flags()
def serve(**flags: Any) -> None:
    """Serve over HTTP. Every flag is an environment variable too; a flag wins."""
    from app import server
    from app.keys import KeysError

    try:
        server.serve(settings_from(flags))
    except (SettingsError, KeysError, server.AddressError) as error:
        fail(str(error))
    except server.ServingFailed as error:
        fail(str(error), MODEL_FAILED if error.has_served else LOAD_FAILED)


@app.command(epilog=_examples("leximind demo", "leximind demo --url http://127.0.0.1:8000 --port 7000"))
def demo(
    url: Annotated[
        str | None,
        typer.Option(envvar="LEXIMIND_URL", help="Service to ask. [default: one that is started beside the page]"),
    ] = None,
    shown_url: Annotated[
        str | None,
        typer.Option(help="Where people reach the service, for the calls that the page shows. [default: --url]"),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="LEXIMIND_API_KEY", help="Key for it; as a flag, others on this machine can see it."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """A page to try it in the browser."""
    try:
        from app.demo import run
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; the page needs it: pip install 'leximind[serve,demo]'")
    try:
        run.run(url, api_key, host, port, shown_url)
    except run.DemoError as error:
        fail(str(error), LOAD_FAILED)


@app.command(
    epilog=_examples(
        "leximind summarize --file article.txt",
        "leximind summarize --num-beams 4 --max-new-tokens 60 - < article.txt",
        "leximind summarize --file 'articles/**/*.txt' --output summaries/",
        "leximind summarize --jsonl news.jsonl --text-column body > summaries.jsonl",
    ),
)
@with_flags(_LOCAL)
@with_decoding_flags
@with_input_flags
def summarize(
    texts: Texts = None,
    on_long: OnLongText = "chunk",
    target_tokens: TargetTokens = None,
    detail: DetailFlag = False,
    support: SupportFlag = False,
    **flags: Any,
) -> None:
    """Summarize texts."""
    from app.answers import SummaryAnswer, summary_answer

    request = _request(("summarize",), on_long, target_tokens, detail, support)
    _run(texts, summary_answer, request, SummaryAnswer.model_fields, flags)


@app.command(
    epilog=_examples(
        'leximind emotions "Thank you so much, I love it!"',
        "leximind emotions --top-k 3 --lines reviews.txt > emotions.jsonl",
    ),
)
@with_flags(_LOCAL)
@with_input_flags
def emotions(texts: Texts = None, top_k: TopK = None, threshold: Threshold = None, **flags: Any) -> None:
    """Detect the emotions in texts."""
    from app.answers import EmotionsAnswer, emotions_answer

    def shape(checkpoint: "Checkpoint", result: "TextResult") -> "AnyAnswer":
        return emotions_answer(checkpoint, result, top_k, threshold)

    facts = {"top_k": top_k, "threshold": threshold}
    _run(texts, shape, TextRequest(("emotions",)), EmotionsAnswer.model_fields, flags, facts)


@app.command(
    epilog=_examples(
        'leximind topic "Shares rose on Monday after the bank raised its forecast."',
        "tail -f headlines.log | leximind topic --lines -",
    ),
)
@with_flags(_LOCAL)
@with_input_flags
def topic(texts: Texts = None, top_k: TopK = None, **flags: Any) -> None:
    """Detect the topic of texts."""
    from app.answers import TopicAnswer, topic_answer

    def shape(checkpoint: "Checkpoint", result: "TextResult") -> "AnyAnswer":
        return topic_answer(checkpoint, result, top_k)

    _run(texts, shape, TextRequest(("topic",)), TopicAnswer.model_fields, flags, {"top_k": top_k})


@app.command(
    epilog=_examples(
        'leximind classify intent "Where is my parcel?" --checkpoint runs/intent',
    ),
)
@with_flags(_LOCAL)
@with_input_flags
def classify(
    head: Annotated[str, typer.Argument(metavar="HEAD", help="A head of the checkpoint; `leximind info` lists them.")],
    texts: Texts = None,
    top_k: TopK = None,
    threshold: Threshold = None,
    **flags: Any,
) -> None:
    """Classify texts with any head of the checkpoint."""
    from app.answers import LabelAnswer, LabelsAnswer, head_answer

    def shape(checkpoint: "Checkpoint", result: "TextResult") -> "AnyAnswer":
        found = checkpoint.tasks.head(head)
        if threshold is not None and found.kind == "single_label":
            fail(f"--threshold is {threshold} with {head}, which has one label a text; leave it out, or give --top-k")
        return head_answer(checkpoint, found, result, top_k, threshold)

    added = {**LabelAnswer.model_fields, **LabelsAnswer.model_fields}
    facts = {"top_k": top_k, "threshold": threshold}
    _run(texts, shape, TextRequest((head,)), added, flags, facts)


@app.command(
    epilog=_examples(
        "leximind analyze --file article.txt",
        "leximind analyze --file articles/ --output answers/",
    ),
)
@with_flags(_LOCAL)
@with_decoding_flags
@with_input_flags
def analyze(
    texts: Texts = None,
    on_long: OnLongText = "chunk",
    target_tokens: TargetTokens = None,
    detail: DetailFlag = False,
    support: SupportFlag = False,
    **flags: Any,
) -> None:
    """Run every task of the checkpoint."""
    from app.answers import AnalyzeAnswer, analyze_answer

    request = _request((), on_long, target_tokens, detail, support)
    _run(texts, analyze_answer, request, AnalyzeAnswer.model_fields, flags)


@app.command(
    epilog=_examples(
        "leximind bulk news.jsonl answers/",
        "leximind bulk news.csv answers/ --text-column body --tasks summarize,topic",
        "leximind bulk 'crawl/*.parquet' answers/ --shard-rows 10000 --prefix model_",
        "leximind bulk 'crawl/*.parquet' answers/ --ray --ray-actors 8",
    ),
)
@with_flags(_BULK)
@with_decoding_flags
def bulk(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="JSON Lines, CSV or Parquet: a file, a folder, or a pattern in quotes."),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the rows with their answers.")],
    tasks: Annotated[
        str, typer.Option(metavar="<names>", help="What to answer, by commas; by default all of the checkpoint.")
    ] = "",
    text_column: Annotated[str, typer.Option(metavar="<name>", help="The column that holds the text.")] = "text",
    prefix: Annotated[str, typer.Option(metavar="<text>", help="Put before the name of every column added.")] = "",
    shard_rows: Annotated[
        int, typer.Option(min=1, metavar="<whole number>", help="Most rows in a file of OUTPUT.")
    ] = 1000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew in OUTPUT.")] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Share the files among actors of Ray, on RAY_ADDRESS or on this machine.")
    ] = False,
    ray_actors: Annotated[
        int | None,
        typer.Option(min=1, metavar="<whole number>", help="Actors of --ray, by default as many as there is room for."),
    ] = None,
    on_long: OnLongText = "chunk",
    target_tokens: TargetTokens = None,
    support: SupportFlag = False,
    **flags: Any,
) -> None:
    """Answer every row of a table; stopped in any way, the same command goes on where it stopped."""
    from app.answers import analyze_answer
    from app.local import Output, Query, ask_tables

    if ray_actors is not None and not ray:
        fail(f"--ray-actors is {ray_actors} without --ray; give both, or neither")
    with refused_options():
        options, has_length = options_from(flags)
    named = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    request = replace(_request(named, on_long, target_tokens, detail=False, support=support), options=options)
    output = Output(target, overwrite, shard_rows, prefix)
    query = Query(analyze_answer, request, has_length, {"text_column": text_column})
    ask_tables(query, [source], text_column, output, flags, _on_ray(ray_actors) if ray else None)


def _on_ray(num_actors: int | None) -> "FillElsewhere":
    from app.bulk.rows import InputError
    from app.pool import filling_by_ray

    try:
        return filling_by_ray(num_actors)
    except InputError as error:
        fail(str(error))


def _request(
    tasks: tuple[str, ...], on_long: OnLong, target_tokens: int | None, detail: bool, support: bool
) -> TextRequest:
    if target_tokens is not None and on_long != "reduce":
        fail(f"--target-tokens is {target_tokens} with --on-long {on_long}; it bounds reduce only")
    if detail and on_long == "truncate":
        fail("--detail with --on-long truncate, which makes no chunks; leave one of them out")
    return TextRequest(tasks, on_long=on_long, target_tokens=target_tokens, detail=detail, support=support)


@app.command(
    name="import",
    epilog=_examples(
        "leximind import google/flan-t5-base runs/base",
        "leximind import folder/in/the/published/layout runs/base --overwrite",
    ),
)
def import_checkpoint(
    source: Annotated[str, typer.Argument(help="A FLAN-T5 folder in the published layout, or a hub id.")],
    target: Annotated[Path, typer.Argument(help="Where the checkpoint folder goes.")],
    overwrite: Annotated[bool, typer.Option(help="Replace TARGET and all that is in it.")] = False,
) -> None:
    """Make a checkpoint of a published FLAN-T5."""
    from model.errors import ModelError
    from model.storage.flan_t5 import import_flan_t5

    if target.exists() and not overwrite:
        fail(f"{target} is there already; name another folder, or replace it with all that is in it by --overwrite")
    try:
        import_flan_t5(source, target)
    except ModelError as error:
        fail(str(error))
    typer.echo(f"{target}: serve it with leximind serve --checkpoint {target}")


@app.command(
    epilog=_examples(
        "leximind info",
        "leximind info --checkpoint runs/base --json",
    ),
)
@with_flags(_LOCAL)
def info(as_json: AsJson = False, **flags: Any) -> None:
    """What the checkpoint is and can do."""
    from app.local import run_service

    facts = run_service(flags, _facts)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        typer.echo("\n".join(f"{name}: {_shown(value)}" for name, value in facts.items() if value is not None))


def _shown(value: object) -> str:
    if not isinstance(value, list):
        return str(value)
    words = [f"{one['name']} ({one['kind']}, {len(one['labels'])})" if isinstance(one, dict) else one for one in value]
    return ", ".join(words) or "none"


async def _facts(service: "Service") -> dict[str, Any]:
    checkpoint = service.deployment.checkpoint
    labels = {head.name: list(head.labels) for head in checkpoint.tasks.heads}
    return {
        "version": VERSION,
        "checkpoint": str(checkpoint.folder),
        "terms": checkpoint.terms,
        "parameters": checkpoint.num_parameters,
        "device": str(checkpoint.backend.device),
        "dtype": checkpoint.backend.precision,
        "kernels": checkpoint.backend.kernels,
        "why_no_kernels": checkpoint.why_no_kernels,
        "max_source_tokens": checkpoint.tasks.max_source_tokens,
        "tasks": list(checkpoint.tasks.names),
        "emotions": labels.get("emotions", []),
        "topics": labels.get("topic", []),
        "heads": [
            {"name": head.name, "kind": head.kind, "labels": labels[head.name]} for head in checkpoint.tasks.heads
        ],
    }


@app.command(
    epilog=_examples(
        "leximind doctor",
        "leximind doctor --checkpoint runs/base --dtype int8",
    ),
)
@with_flags(_DOCTOR)
def doctor(as_json: AsJson = False, **flags: Any) -> None:
    """Look at this machine and the checkpoint, and say what to do about what is wrong."""
    from app.doctor import checkpoint_findings, machine_findings
    from app.progress import progress
    from app.service import Service
    from app.telemetry import configure_logging

    try:
        settings = settings_from(flags)
    except SettingsError as error:
        fail(str(error))
    findings: list[Finding] = []

    def show(ones: "list[Finding]") -> None:
        findings.extend(ones)
        for one in () if as_json else ones:
            typer.echo(f"{one.state:8} {one.name}: {one.value}")
            if one.state != "ok":
                typer.echo(f"{'':8} -> {one.remedy}")

    async def look() -> None:
        show(machine_findings(settings))
        service = Service(settings)
        with progress(f"loading {settings.checkpoint.name}"):
            show(await checkpoint_findings(service))
        await service.drain(0.0)

    configure_logging("critical", as_json=False)
    asyncio.run(look())
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in findings], indent=2))
    if any(one.state == "failure" for one in findings):
        raise typer.Exit(LOAD_FAILED)


@app.command(
    epilog=_examples(
        "leximind bench",
        "leximind bench --dtype int8 --threads 2 --json",
    ),
)
@with_flags(_BULK)
def bench(
    seconds: Annotated[float, typer.Option(min=1, metavar="<number>", help="How long it may take, about.")] = 60.0,
    as_json: AsJson = False,
    **flags: Any,
) -> None:
    """Measure how fast this machine answers with the checkpoint, in about a minute."""
    import torch

    from app.bench import NEW_TOKENS, loads, measure
    from app.local import run_service
    from app.progress import progress
    from app.tables import print_figures

    async def run(service: "Service") -> "list[Figure]":
        deployment = service.deployment
        checkpoint, backend = deployment.checkpoint, deployment.checkpoint.backend
        if not as_json:
            typer.echo(
                f"{deployment.id}, {backend.precision} on {backend.device}, {torch.get_num_threads()} threads, "
                f"{checkpoint.num_parameters:,} parameters; {NEW_TOKENS} new tokens a summary"
            )
        chosen = loads(checkpoint.tasks.names)
        figures: list[Figure] = []
        with progress("measuring", len(chosen)) as bar:
            for load in chosen:
                figures.append(await measure(deployment, load, seconds / len(chosen)))
                bar.advance(1)
        return figures

    figures = run_service(flags, run)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in figures], indent=2))
    else:
        print_figures(figures)


def _run(
    texts: list[str] | None,
    shape: "Callable[[Checkpoint, TextResult], AnyAnswer]",
    request: TextRequest,
    added: Collection[str],
    flags: dict[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Ask `request` of `texts` and of those that the flags name; an answer, by `shape`, adds the fields `added`.

    `facts` are what else the answer depends on.
    """
    from app.bulk.inputs import Given, inputs_of
    from app.bulk.rows import InputError
    from app.local import Output, Query, ask

    prefix = flags.pop("prefix")
    output = Output(flags.pop("output"), flags.pop("overwrite"), prefix=prefix, as_json=flags.pop("json"))
    named = {name: flags.pop(name) or () for name in ("file", "lines", "jsonl")}
    given = Given(texts or (), **named, text_column=flags.pop("text_column"))
    with refused_options():
        options, has_length = options_from(flags)
    try:
        inputs = inputs_of(given, [prefix + name for name in added])
    except InputError as error:
        fail(str(error))
    query = Query(
        shape, replace(request, options=options), has_length, {**(facts or {}), "text_column": given.text_column}
    )
    ask(query, inputs, output, flags)


if __name__ == "__main__":
    main()
