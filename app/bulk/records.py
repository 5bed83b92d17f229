"""Rows of a text file: a text a line, JSON Lines, CSV. Reads bytes, so that a bad one costs its own row only."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from app.bulk.columns import flat
from app.bulk.rows import ERROR, Answer, InputError, Row, Shard, Source

_BOM = b"\xef\xbb\xbf"
_OTHER_FORMATS = {
    b"\xff\xfe": "is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)",
    b"\x1f\x8b": "is compressed by gzip; unpack it (gunzip -k)",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it (zstd -d)",
    b"PK\x03\x04": "is a zip archive; unpack it (unzip)",
    b"PAR1": "is Parquet; name it .parquet and use leximind bulk",
}
csv.field_size_limit(2**31 - 1)  # of a CSV's fields; the module's own limit is 128 KiB


class NotUtf8(Exception):
    """Bytes that are no UTF-8; the message says where."""


@dataclass(frozen=True)
class Record:
    """One row as it lies in the file: its bytes, that of them which is first, and the line on which it begins."""

    raw: bytes
    offset: int
    line: int


def decoded(raw: bytes, offset: int = 0) -> str:
    """`raw` as text; `offset` is where it begins in its file.

    Raises:
        NotUtf8: it is none.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise NotUtf8(f"byte {at} (0x{raw[error.start]:02x}) is not UTF-8; convert the text to UTF-8") from None


def check_is_text(name: str, start: bytes) -> None:
    """Refuse what begins like another format.

    Raises:
        InputError: it does; says which.
    """
    for magic, message in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise InputError(f"{name} {message}")


class RecordFile(Source):
    """A text file with a row a record. `name` is what messages call it; without a path it is standard input."""

    suffix = ".jsonl"
    columns: tuple[str, ...] = ()

    def __init__(self, path: Path | None, name: str) -> None:
        self._path = path
        self._name = name
        self._digest = ""

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        assert self._path is not None, "standard input is not cut"
        return self._path.stat().st_size if self._path.exists() else 0  # `cut` says that it is missing

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return self._digest

    def cut(self, num_rows: int, advance: Callable[[int], None]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Each start is an offset and a line."""
        digest = hashlib.sha256()

        def hashed(file: BinaryIO) -> Iterator[bytes]:
            for line in file:
                digest.update(line)
                advance(len(line))
                yield line

        with self._open() as file:
            records = self._records(hashed(file), 0, 1)
            while first := next(records, None):
                yield (first.offset, first.line), 1 + sum(1 for _ in islice(records, num_rows - 1))
        self._digest = digest.hexdigest()

    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of `shard`."""
        offset, line = shard.start
        with self._open() as file:
            file.seek(offset)
            yield from map(self._row, islice(self._records(iter(file), offset, line), shard.num_rows))

    def stream(self, file: BinaryIO) -> Iterator[Row]:
        """All rows of `file`, as they come."""
        yield from map(self._row, self._records(iter(file), 0, 1))

    def rows(self) -> Iterator[Row]:
        """All rows of the file."""
        with self._open() as file:
            yield from self.stream(file)

    def write(self, path: Path, shard: Shard, rows: Sequence[Row], answers: Sequence[Answer]) -> None:  # noqa: ARG002
        """JSON Lines."""
        write_json_lines(path, rows, answers)

    def _open(self) -> BinaryIO:
        assert self._path is not None, "standard input is streamed"
        try:
            file = self._path.open("rb")
        except OSError as error:
            raise InputError(f"{self._name}: {error.strerror}; give a file that can be read") from None
        try:
            check_is_text(self._name, file.peek(4))
        except InputError:
            file.close()
            raise
        return file

    def _records(self, lines: Iterator[bytes], offset: int, line: int) -> Iterator[Record]:
        """A record a line; blank lines are none."""
        for raw in lines:
            if text := _without_bom(raw, offset).strip():
                yield Record(text, offset + raw.index(text), line)
            offset, line = offset + len(raw), line + 1

    def _place(self, record: Record) -> str:
        return f"{self._name}:{record.line}"

    def _row(self, record: Record) -> Row:
        raise NotImplementedError


class TextLines(RecordFile):
    """A text a line. The columns are the file's name, unless it is standard input, and the line's number."""

    @property
    def digest(self) -> str:
        """Of the content and of the name, which is in the rows."""
        return f"{self._digest} {self._name}"

    def _row(self, record: Record) -> Row:
        columns = {**({"file": self._name} if self._path else {}), "line": record.line}
        try:
            return Row(self._place(record), columns, decoded(record.raw, record.offset))
        except NotUtf8 as error:
            return Row(self._place(record), columns, error=f"{self._place(record)}: {error}")


class JsonLines(RecordFile):
    """An object a line, with the text under `text_column`; what else it holds is kept.

    `added` are the names that an answer adds, which no object may have.
    """

    def __init__(self, path: Path | None, name: str, text_column: str, added: Sequence[str]) -> None:
        super().__init__(path, name)
        self._text_column = text_column
        self._added = frozenset((*added, ERROR))

    def _row(self, record: Record) -> Row:
        place = self._place(record)
        try:
            value = json.loads(decoded(record.raw, record.offset))
        except NotUtf8 as error:
            raw = record.raw.decode("utf-8", "backslashreplace")
            return Row(place, {"input": raw}, error=f"{place}: {error}")
        except (ValueError, RecursionError) as error:
            raw = record.raw.decode()
            return Row(place, {"input": raw}, error=f"{place} is no JSON: {error}; write an object a line")
        if not isinstance(value, dict):
            return Row(place, {"input": value}, error=f"{place} is no object; write an object a line")
        if taken := sorted(self._added & value.keys()):
            kept = {"input": value}
            return Row(place, kept, error=f"{place} has a field {taken[0]}, as the answer has; {_PREFIX_REMEDY}")
        return row_of(place, value, self._text_column)


_PREFIX_REMEDY = "name the answer's otherwise: --prefix model_"


def row_of(place: str, columns: Mapping[str, Any], text_column: str) -> Row:
    """A row of named columns, of which one is the text."""
    if text_column not in columns:
        names = ", ".join(columns) or "none"
        return Row(place, columns, error=f"{place} has no field {text_column}, but {names}; name it: --text-column")
    text = columns[text_column]
    if not isinstance(text, str):
        return Row(place, columns, error=f"{place}: {text_column} is {json.dumps(text, default=str)}, not a text")
    return Row(place, columns, text)


def check_columns(name: str, columns: Sequence[str], text_column: str, added: Sequence[str]) -> None:
    """Refuse a table without the text, or with a column that the answers add.

    Raises:
        InputError: says which, and the remedy.
    """
    if text_column not in columns:
        raise InputError(f"{name} has no column {text_column}, but {', '.join(columns)}; name it: --text-column")
    if taken := [column for column in columns if column in (*added, ERROR)]:
        raise InputError(f"{name} has a column {taken[0]}, as the answer has; {_PREFIX_REMEDY}")
    if len(set(columns)) < len(columns):
        raise InputError(f"{name} has a column twice: {', '.join(columns)}; rename one")


class Csv(RecordFile):
    """Comma-separated values with a header; quoted fields may hold line ends.

    `added` are the columns of an answer, in order.

    Raises:
        InputError: there is no header, or it does not have the text.
    """

    suffix = ".csv"

    def __init__(self, path: Path, name: str, text_column: str, added: Sequence[str]) -> None:
        super().__init__(path, name)
        self._text_column = text_column
        self._added = (*added, ERROR)
        with self._open() as file:
            header = next(self._records(iter(file), 0, 1), None)
        if header is None:
            raise InputError(f"{name} is empty; give it a header and rows")
        try:
            self.columns = tuple(_fields(decoded(header.raw, header.offset)))
        except (NotUtf8, csv.Error) as error:
            raise InputError(f"{name}: its header cannot be read ({error})") from None
        check_columns(name, self.columns, text_column, added)

    def write(self, path: Path, shard: Shard, rows: Sequence[Row], answers: Sequence[Answer]) -> None:  # noqa: ARG002
        """CSV with a header; what is a list in JSON is one here too, in its cell."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, (*self.columns, *self._added), lineterminator="\n")
            writer.writeheader()
            for row, answer in zip(rows, answers, strict=True):
                writer.writerow({**row.columns, **{name: _cell(value) for name, value in flat(answer).items()}})
            flush(file)

    def _records(self, lines: Iterator[bytes], offset: int, line: int) -> Iterator[Record]:
        """A record a row, whose bytes are all of its lines; a header that is known is none."""
        taken: list[bytes] = []

        def texts() -> Iterator[str]:
            for raw in lines:
                taken.append(raw)
                yield raw.decode("utf-8", "surrogateescape")  # `_row` decodes strictly

        reader = csv.reader(texts(), strict=True)
        is_header = offset == 0 and bool(self.columns)
        while True:
            try:
                next(reader)
            except StopIteration:
                return
            except csv.Error:
                pass  # `_row` meets it again
            raw = b"".join(taken)
            if (text := _without_bom(raw, offset)).strip():
                if not is_header:
                    yield Record(text, offset, line)
                is_header = False
            offset, line = offset + len(raw), line + len(taken)
            taken.clear()

    def _row(self, record: Record) -> Row:
        place = self._place(record)
        raw = record.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
        try:
            fields = _fields(decoded(record.raw, record.offset))
        except NotUtf8 as error:
            return Row(place, error=f"{place}: {error}: {raw}")
        except csv.Error as error:
            return Row(place, error=f"{place} is no CSV ({error}): {raw}")
        if len(fields) != len(self.columns):
            return Row(place, error=f"{place} has {len(fields)} fields, the header has {len(self.columns)}: {raw}")
        return row_of(place, dict(zip(self.columns, fields, strict=True)), self._text_column)


def write_json_lines(path: Path, rows: Sequence[Row], answers: Sequence[Answer]) -> None:
    """A line for each row: its columns, then its answer."""
    with path.open("wb") as file:
        for row, answer in zip(rows, answers, strict=True):
            file.write(json_line(row, answer))
        flush(file)


def json_line(row: Row, answer: Answer) -> bytes:
    """The line of one row, with its end."""
    value = {**row.columns, **answer}
    try:
        line = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape and UTF-8 cannot hold
        line = json.dumps(value).encode()
    return line + b"\n"


def flush(file: Any) -> None:
    """To the disk: a name that is given afterwards never stands for less."""
    file.flush()
    os.fsync(file.fileno())


def _fields(text: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline="\n"), strict=True))


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _without_bom(raw: bytes, offset: int) -> bytes:
    return raw.removeprefix(_BOM) if offset == 0 else raw
