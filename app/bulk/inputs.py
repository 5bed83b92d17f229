"""What a command is given to answer, as sources: arguments, files, lines, JSON Lines, tables, standard input."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.bulk.columns import Kind
from app.bulk.files import TextFiles, found_files, names_a_file, text_of_bytes
from app.bulk.parquet import Parquet
from app.bulk.records import Csv, JsonLines, RecordFile, TextLines
from app.bulk.rows import InputError, Row, Source

STANDARD_INPUT = "-"
_TEXT_FILES, _JSON_LINES, _CSV, _PARQUET = (".txt",), (".jsonl", ".ndjson"), (".csv",), (".parquet",)
_READ_AHEAD = 256


@dataclass(frozen=True)
class Given:
    """The arguments and flags that name texts; `-` is standard input."""

    texts: Sequence[str] = ()
    file: Sequence[str] = ()
    lines: Sequence[str] = ()
    jsonl: Sequence[str] = ()
    text_column: str = "text"


@dataclass(frozen=True)
class Inputs:
    """What to answer: rows that are there, sources, then what comes on standard input.

    With `keeps_bad_rows` a row without an answer is kept with its reason; else it fails all, which are few.
    """

    here: Sequence[Row]
    sources: Sequence[Source]
    stream: RecordFile | None
    keeps_bad_rows: bool

    async def rows(self) -> AsyncIterator[Row]:
        """All of them in order; those of standard input as they come.

        Raises:
            InputError: a source cannot be read.
        """
        for row in self.here:
            yield row
        for source in self.sources:
            assert isinstance(source, RecordFile | TextFiles)
            for row in source.rows():
                yield row
        if self.stream is not None:
            async for row in _streamed(self.stream):
                yield row


def inputs_of(given: Given, added: Sequence[str]) -> Inputs:
    """The texts that a command was given; `added` are the names that an answer adds to an object.

    Raises:
        InputError: there are none, or they cannot be read; a text that is the name of a file.
    """
    kinds = [name for name in ("lines", "jsonl") if getattr(given, name)]
    if len(kinds) + bool(given.texts or given.file) > 1:
        raise InputError(f"--{kinds[-1]} goes with no other texts; give one kind at a time")
    if given.lines:
        return _record_inputs(given.lines, _TEXT_FILES, TextLines)
    if given.jsonl:
        return _record_inputs(
            given.jsonl, _JSON_LINES, lambda path, name: JsonLines(path, name, given.text_column, added)
        )
    for text in given.texts:
        if text != STANDARD_INPUT and names_a_file(text):
            raise InputError(
                f"{text} is the name of a file, not a text: --file {text} reads it (several: --file FOLDER, or "
                "--file '*.txt' in quotes; a text a line: --lines); for the word itself, pipe it in"
            )
    here = [
        Row(f"text {number}", text=_standard_text() if text == STANDARD_INPUT else text)
        for number, text in enumerate(given.texts, 1)
    ]
    if STANDARD_INPUT in given.file:
        here.append(Row("standard input", {"file": STANDARD_INPUT}, _standard_text()))
    paths = found_files([name for name in given.file if name != STANDARD_INPUT])
    for path in paths:
        if path in map(Path, given.file) and not path.is_file():
            reason = "Is a directory" if path.is_dir() else "No such file or directory"
            raise InputError(f"{path}: {reason}; give a file that can be read")
    if not (here or paths):
        here = [Row("text 1", text=_standard_text())]
    return Inputs(here, [TextFiles(paths)] if paths else [], None, keeps_bad_rows=len(paths) > 1)


def table_files(names: Sequence[str]) -> list[Path]:
    """The files of `names` that may be tables.

    Raises:
        InputError: there are none.
    """
    return found_files(names, (*_JSON_LINES, *_CSV, *_PARQUET))


def table_sources(
    names: Sequence[str], text_column: str, added: Sequence[str], columns: Mapping[str, Kind]
) -> list[Source]:
    """The JSON Lines, CSV or Parquet files of `names`; an answer adds the fields `added` or these `columns`.

    Raises:
        InputError: one cannot be read, has no text, or they are of several formats.
    """
    sources = [_table_source(path, text_column, added, columns) for path in table_files(names)]
    if len(suffixes := sorted({source.suffix for source in sources})) > 1:
        raise InputError(f"{', '.join(names)}: files of {' and '.join(suffixes)}; give one format at a time")
    return sources


def _table_source(path: Path, text_column: str, added: Sequence[str], columns: Mapping[str, Kind]) -> Source:
    if path.suffix in _JSON_LINES:
        return JsonLines(path, str(path), text_column, added)
    if path.suffix in _CSV:
        return Csv(path, str(path), text_column, list(columns))
    if path.suffix in _PARQUET:
        return Parquet(path, str(path), text_column, columns)
    allowed = ", ".join((*_JSON_LINES, *_CSV, *_PARQUET))
    raise InputError(f"{path}: the name says no format that is known; it must end in one of {allowed}")


def _record_inputs(
    names: Sequence[str], endings: Sequence[str], make: Callable[[Path | None, str], RecordFile]
) -> Inputs:
    paths = found_files([name for name in names if name != STANDARD_INPUT], endings)
    stream = make(None, "standard input") if STANDARD_INPUT in names else None
    return Inputs((), [make(path, str(path)) for path in paths], stream, keeps_bad_rows=True)


def _standard_text() -> str:
    if sys.stdin.isatty():
        raise InputError("no text: give TEXT, --file FILE, or pipe one in")
    return text_of_bytes(sys.stdin.buffer.read(), "standard input")


async def _streamed(file: RecordFile) -> AsyncIterator[Row]:
    """A thread reads, since a pipe may be slow; it is a daemon, or it would delay the end until a line came."""
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[Row | InputError | None] = asyncio.Queue()
    room = threading.Semaphore(_READ_AHEAD)

    def read() -> None:
        end: InputError | None = None
        try:
            for row in file.stream(_standard_bytes()):
                room.acquire()
                loop.call_soon_threadsafe(items.put_nowait, row)
        except OSError as error:
            end = InputError(f"standard input: {error.strerror}")
        loop.call_soon_threadsafe(items.put_nowait, end)

    threading.Thread(target=read, name="leximind-stdin", daemon=True).start()
    while (item := await items.get()) is not None:
        if isinstance(item, InputError):
            raise item
        room.release()
        yield item


def _standard_bytes() -> BinaryIO:
    try:
        # A reader of its own: the interpreter's is locked by the thread, which its shutdown does not survive.
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except OSError:  # no descriptor is behind it
        return sys.stdin.buffer
