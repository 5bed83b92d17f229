"""Texts answered in this process, without a server: what the commands of the command line share.

Knows no HTTP.
"""

import asyncio
import contextlib
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
import typer

from app.answers import TextResult
from app.bulk.columns import answer_columns, answer_names
from app.bulk.inputs import Inputs, table_files, table_sources
from app.bulk.job import BulkJob, write_part
from app.bulk.pipeline import answered
from app.bulk.records import json_line
from app.bulk.rows import ERROR, Answer, InputError, Row, Shard, Source, cut_into_shards
from app.documents import Progress
from app.engine.request import EngineError, EngineStopped
from app.exits import INTERRUPTED, LOAD_FAILED, MODEL_FAILED, SOME_REFUSED, fail, refused_options, say
from app.flags import SettingsError, settings_from
from app.limits import limit_options
from app.planning import TextError, UnsupportedTask
from app.progress import Bar, progress
from app.service import Service, device_and_precision
from app.settings import Settings
from app.tables import AnyAnswer, print_answers
from app.telemetry import configure_logging
from app.text_request import TextRequest
from app.version import VERSION
from model.choices import Precision
from model.errors import ModelError
from model.storage.checkpoint import Checkpoint, read_checkpoint
from model.tasks import BUILT_IN

# There are no other clients, and how much is begun is bounded by the pipeline: no text waits for or is refused by the
# limits of a queue, and no stream is to be kept from stuttering.
_ALONE = {"max_queued_requests": 10**9, "max_queued_tokens": 10**9, "max_tokenizer_bytes": 10**12, "max_stall_s": 3600}

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """What to ask of every text, and the answer that `shape` makes of the result.

    A request without tasks is for all of the checkpoint. `has_length`: its `max_new_tokens` was given. `facts` are what
    else the answer depends on.
    """

    shape: Callable[[Checkpoint, TextResult], AnyAnswer]
    request: TextRequest
    has_length: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """Why a row has no answer."""

    reason: str


@dataclass(frozen=True)
class Output:
    """Where answers go: a folder that a later run goes on with, else standard output."""

    folder: Path | None = None
    overwrite: bool = False
    shard_rows: int = 1000
    prefix: str = ""
    as_json: bool = False


@dataclass(frozen=True)
class Resolved:
    """A query, and what its answers depend on beside the texts; the weights need not be loaded."""

    query: Query
    settings: Settings
    checkpoint: Checkpoint
    device: torch.device
    precision: Precision

    @cached_property
    def request(self) -> TextRequest:
        """With the tasks and lengths that are meant where none are given.

        Exits if the checkpoint does not have a task, or an option is outside its range.
        """
        request, known = self.query.request, self.checkpoint.tasks
        tasks = request.tasks or known.names
        if unknown := [task for task in tasks if not known.has(task) and task not in BUILT_IN]:
            names = ", ".join(head.name for head in known.heads) or "none"
            fail(f"{unknown[0]}: the checkpoint {self.checkpoint.name} has no head of that name; it has {names}")
        with refused_options():
            options = limit_options(self.settings, request.options, is_given=self.query.has_length)
        return replace(request, tasks=tasks, options=options)


class Asker:
    """Asks a loaded service one query about any number of texts at once."""

    def __init__(self, service: Service, query: Query) -> None:
        self.deployment = service.deployment
        self.checkpoint = self.deployment.checkpoint
        backend = self.checkpoint.backend
        self.resolved = Resolved(query, service.settings, self.checkpoint, backend.device, backend.precision)
        self.request = self.resolved.request
        self.describe: Callable[[str], None] = lambda _: None  # is told what is done of a long text that is alone
        self._num_running = 0

    async def __call__(self, row: Row) -> AnyAnswer | Refused:
        """The answer to a row.

        Raises:
            EngineStopped: the model has failed for good.
        """
        if row.error is not None:
            return Refused(row.error)
        try:
            return self.resolved.query.shape(self.checkpoint, await self._result(row.text))
        except TextError as error:
            return Refused(f"{row.place} {error.message}")
        except EngineStopped:
            raise
        except EngineError as error:
            return Refused(str(error))

    async def _result(self, text: str) -> TextResult:
        documents = self.deployment.documents
        plans = await documents.plan([text], self.request, math.inf)
        self._num_running += 1
        try:
            try:
                [result] = await documents.run(plans, self._show)
            except EngineStopped:
                raise
            except EngineError:  # the batch failed, perhaps for a text beside it
                [result] = await documents.run(plans, self._show)
        finally:
            self._num_running -= 1
        return result

    def _show(self, progress: Progress) -> None:
        if self._num_running > 1 or progress.chunks == 1:
            self.describe("answering")
            return
        further = f", round {progress.round}" if progress.round > 1 else ""
        self.describe(f"answering{further}: {progress.done} of {progress.chunks} chunks")


# Answers shards and puts their files into the folder, telling how many rows are done; how many of them were refused.
Fill = Callable[[Sequence[Shard], Bar], Awaitable[int]]
# The same by other processes, which load the checkpoint themselves.
FillElsewhere = Callable[[Resolved, Output, Sequence[Shard], Callable[[int], None]], Awaitable[int]]


def ask(query: Query, inputs: Inputs, output: Output, flags: Mapping[str, Any]) -> None:
    """Answer `inputs`, on standard output or into a folder."""
    if output.folder is not None and (inputs.here or inputs.stream):
        fail("--output: what is read once cannot be gone on with; give --file, --lines FILE or --jsonl FILE")

    async def run(service: Service) -> int:
        asker = Asker(service, query)
        if output.folder is None:
            return await _print(asker, inputs, output)
        return await _fill(asker.resolved, inputs.sources, output, _filling(asker, output))

    _end(run_service(flags, run, f"with --output FOLDER {_GOES_ON}" if output.folder is None else _GOES_ON))


def ask_tables(
    query: Query,
    names: Sequence[str],
    text_column: str,
    output: Output,
    flags: Mapping[str, Any],
    fill_elsewhere: FillElsewhere | None = None,
) -> None:
    """Answer the rows of the tables of these names into a folder, by this process or by `fill_elsewhere`."""

    async def job(resolved: Resolved, fill_folder: Fill) -> int:
        request = resolved.request
        extras = ["support"] if request.support else []
        columns = answer_columns(resolved.checkpoint.tasks, request.tasks, output.prefix, extras)
        added = answer_names(request.tasks, output.prefix)
        return await _fill(resolved, table_sources(names, text_column, added, columns), output, fill_folder)

    async def here(service: Service) -> int:
        asker = Asker(service, query)
        return await job(asker.resolved, _filling(asker, output))

    async def elsewhere(fill_elsewhere: FillElsewhere) -> int:
        resolved = await _resolve(query, _settings(flags))
        return await job(resolved, lambda shards, bar: fill_elsewhere(resolved, output, shards, bar.advance))

    try:
        table_files(names)  # before the checkpoint is loaded
    except InputError as error:
        fail(str(error))
    _end(_run(elsewhere(fill_elsewhere), _GOES_ON) if fill_elsewhere else run_service(flags, here, _GOES_ON))


_GOES_ON = "the same command goes on where it stopped"


def _end(num_refused: int) -> None:
    if num_refused:
        say(f"{num_refused} {'row has' if num_refused == 1 else 'rows have'} no answer; each says why under {ERROR}")
        raise typer.Exit(SOME_REFUSED)


async def _print(asker: Asker, inputs: Inputs, output: Output) -> int:
    """Answers on standard output as they come, or, for a person at a terminal, as a table; how many were refused."""
    is_table = _is_terminal() and not output.as_json
    kept: list[tuple[str, AnyAnswer | str]] = []
    lines: list[bytes] = []
    num_refused = 0
    shows_progress = is_table or not _is_terminal()  # answers at a terminal are progress enough
    with progress("answering") if shows_progress else contextlib.nullcontext(Bar()) as bar:
        asker.describe = bar.describe
        async with contextlib.aclosing(answered(inputs.rows(), asker)) as pairs:
            async for row, answer in pairs:
                bar.advance(1)
                if isinstance(answer, Refused):
                    if not inputs.keeps_bad_rows:
                        fail(answer.reason)
                    num_refused += 1
                if is_table:
                    kept.append((row.label, answer.reason if isinstance(answer, Refused) else answer))
                    continue
                lines.append(json_line(row, as_json(row, answer, output.prefix)))
                if inputs.keeps_bad_rows:
                    typer.echo(lines.pop(), nl=False)
    if is_table:
        print_answers(kept)
    typer.echo(b"".join(lines), nl=False)
    return num_refused


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _filling(asker: Asker, output: Output) -> Fill:
    """Answers by `asker`."""

    async def fill_here(shards: Sequence[Shard], bar: Bar) -> int:
        assert output.folder is not None
        asker.describe = bar.describe
        return await fill(output.folder, shards, asker, output.prefix, bar.advance)

    return fill_here


async def _fill(resolved: Resolved, sources: Sequence[Source], output: Output, fill_folder: Fill) -> int:
    """Fill the folder of a job with the shards that it does not have; how many rows were refused."""
    assert output.folder is not None
    job = open_job(resolved, sources, output, output.folder)
    try:
        unfinished = job.unfinished
        if not unfinished:
            job.succeed()
            say(f"{output.folder} has all {len(job.shards)} files; there is nothing to do")
            return 0
        if len(unfinished) < len(job.shards):
            say(f"{len(job.shards) - len(unfinished)} of {len(job.shards)} files are there; going on")
        num_rows = sum(shard.num_rows for shard in unfinished)
        with progress("answering", num_rows) as bar:
            num_refused = await fill_folder(unfinished, bar)
        job.succeed()
        say(f"{output.folder} has {len(job.shards)} files with {sum(shard.num_rows for shard in job.shards)} rows")
        return num_refused
    finally:
        job.close()


def open_job(resolved: Resolved, sources: Sequence[Source], output: Output, folder: Path) -> BulkJob:
    """The job of these sources in `folder`.

    Raises:
        InputError: a source cannot be read or has no rows, or the folder holds something else.
    """
    num_bytes = sum(source.num_bytes for source in sources)
    with progress("reading", num_bytes, is_counted=False) as bar:
        shards = list(cut_into_shards(sources, output.shard_rows, bar.advance))
    if not shards:
        raise InputError("there are no rows; give an input that has some")
    facts = {
        "version": VERSION,
        "checkpoint": resolved.checkpoint.id,
        "dtype": resolved.precision,
        **asdict(resolved.request),
        **resolved.query.facts,
        "prefix": output.prefix,
        "shard_rows": output.shard_rows,
        "inputs": [f"{type(source).__name__} {source.digest}" for source in sources],
    }
    return BulkJob(folder, facts, shards, overwrite=output.overwrite)


async def fill(
    folder: Path, shards: Sequence[Shard], asker: Asker, prefix: str, advance: Callable[[int], None] = lambda _: None
) -> int:
    """Answer `shards` and put their files into `folder`, a job's; how many rows were refused.

    Raises:
        InputError: a source has changed.
        EngineStopped: the model has failed for good; what is finished stays.
    """
    num_refused = 0
    rows: list[Row] = []
    answers: list[Answer] = []
    waiting = iter(shards)
    shard = next(waiting)
    async with contextlib.aclosing(answered(_rows_of(shards), asker)) as pairs:
        async for row, answer in pairs:
            rows.append(row)
            answers.append(as_json(row, answer, prefix))
            num_refused += isinstance(answer, Refused)
            advance(1)
            if len(rows) == shard.num_rows:
                await asyncio.to_thread(write_part, folder, shard, rows, answers)
                rows, answers = [], []
                shard = next(waiting, shard)
    return num_refused


async def _rows_of(shards: Iterable[Shard]) -> AsyncIterator[Row]:
    for shard in shards:
        num_rows = 0
        for row in shard.source.read(shard):
            yield row
            num_rows += 1
        if num_rows != shard.num_rows:
            raise InputError("an input has become shorter while it was read; give one that stays, with --overwrite")


def as_json(row: Row, answer: AnyAnswer | Refused, prefix: str = "") -> Answer:
    """What an answer adds to its row."""
    if isinstance(answer, Refused):
        return {ERROR: answer.reason}
    added = {prefix + name: value for name, value in answer.model_dump(mode="json", exclude_none=True).items()}
    if taken := sorted(added.keys() & row.columns.keys()):  # a head of its own, that no one knew before
        return {ERROR: f"{row.place} has a field {taken[0]}, as the answer has; name the answer's otherwise: --prefix"}
    return added


def run_service(flags: Mapping[str, Any], run: Callable[[Service], Awaitable[T]], on_interrupt: str = "") -> T:
    """What `run` makes of a loaded service; its failures are one line and an exit code."""
    return _run(_with_service(flags, run), on_interrupt)


def _run(work: Coroutine[Any, Any, T], on_interrupt: str) -> T:
    """What `work` returns; its failures are one line and an exit code."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        fail(f"stopped{on_interrupt and '; ' + on_interrupt}", INTERRUPTED)
    except (InputError, TextError, UnsupportedTask) as error:
        fail(str(error))
    except EngineError as error:
        fail(str(error), MODEL_FAILED)
    except BrokenPipeError:
        raise  # who read the answers has left
    except OSError as error:  # such as a full disk
        place = f"{error.filename}: " if error.filename else ""
        fail(f"{place}{error.strerror}; mend it and run the same command again", MODEL_FAILED)


async def _with_service(flags: Mapping[str, Any], run: Callable[[Service], Awaitable[T]]) -> T:
    service = Service(_settings(flags))
    with progress(f"loading {service.settings.checkpoint.name}"):
        await service.load()
    if service.failure is not None:
        fail(service.failure, LOAD_FAILED)
    try:
        return await run(service)
    finally:
        await service.drain(0.0)


async def _resolve(query: Query, settings: Settings) -> Resolved:
    """What the answers of `query` will depend on, from the checkpoint's folder alone."""
    with progress(f"reading {settings.checkpoint.name}"):
        try:
            device, precision = device_and_precision(settings)
            checkpoint = await asyncio.to_thread(read_checkpoint, settings.checkpoint)
        except ModelError as error:
            fail(str(error), LOAD_FAILED)
    return Resolved(query, settings, checkpoint, device, precision)


def _settings(flags: Mapping[str, Any]) -> Settings:
    try:
        settings = settings_from({**flags, **_ALONE})
    except SettingsError as error:
        fail(str(error))
    configure_logging("critical", as_json=False)  # failures are one line, by `fail`
    return settings
