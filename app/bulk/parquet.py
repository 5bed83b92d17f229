"""Rows of a Parquet file; their columns and types stay as they are. Needs pyarrow, the extra `parquet`."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.bulk.columns import Kind, flat
from app.bulk.records import check_columns, flush
from app.bulk.rows import ERROR, Answer, InputError, Row, Shard, Source

try:
    import pyarrow
    import pyarrow.parquet
except ImportError:  # the extra is not installed; `Parquet` says so
    pyarrow = None

_BLOCK = 2**20


class Parquet(Source):
    """A Parquet file. A row group at a time is in memory; no shard has rows of two.

    `added` are the columns of an answer, in order.

    Raises:
        InputError: pyarrow is missing, it is no Parquet file, or it does not have the text.
    """

    suffix = ".parquet"

    def __init__(self, path: Path, name: str, text_column: str, added: Mapping[str, Kind]) -> None:
        if pyarrow is None:
            raise InputError(f"{name} is Parquet, which needs pyarrow: pip install 'leximind[parquet]'")
        self._path = path
        self._name = name
        self._text_column = text_column
        self._added: dict[str, Kind] = {**added, ERROR: "text"}
        self._digest = ""
        self._group: tuple[int, Any] | None = None  # the row group that was read last
        self._unwritten: dict[int, Any] = {}  # shards that were read, which another thread writes
        with self._file() as file:
            self.columns = tuple(file.schema_arrow.names)
        check_columns(name, self.columns, text_column, list(added))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_group": None, "_unwritten": {}}

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return self._path.stat().st_size

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return self._digest

    def cut(self, num_rows: int, advance: Callable[[int], None]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Each start is a row group and a row in it."""
        with self._file() as file:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        for number, size in enumerate(sizes):
            for start in range(0, size, num_rows):
                yield (number, start), min(num_rows, size - start)
        digest = hashlib.sha256()
        with self._path.open("rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
                advance(len(block))
        self._digest = digest.hexdigest()

    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of `shard`; `write`, which must follow, adds their columns."""
        group, start = shard.start
        table = self._unwritten[shard.number] = self._table(shard)
        texts = table.column(self._text_column).to_pylist()
        for index, text in enumerate(texts, start + 1):
            place = f"{self._name}: row {index} of row group {group + 1}"
            if isinstance(text, str):
                yield Row(place, text=text)
            else:
                yield Row(place, error=f"{place}: {self._text_column} is {text!r}, not a text")

    def write(self, path: Path, shard: Shard, rows: Sequence[Row], answers: Sequence[Answer]) -> None:  # noqa: ARG002
        """Parquet, with the columns and the metadata of the input."""
        table = self._unwritten.pop(shard.number)
        added = [flat(answer) for answer in answers]
        for name, kind in self._added.items():
            values = [_cell(one.get(name), kind) for one in added]
            table = table.append_column(name, pyarrow.array(values, _arrow_type(kind)))
        with path.open("wb") as file:
            pyarrow.parquet.write_table(table, file)
            flush(file)

    def _table(self, shard: Shard) -> Any:
        group, start = shard.start
        if self._group is None or self._group[0] != group:
            with self._file() as file:
                self._group = group, file.read_row_group(group)
        return self._group[1].slice(start, shard.num_rows)

    def _file(self) -> Any:
        try:
            return pyarrow.parquet.ParquetFile(self._path)
        except OSError as error:
            raise InputError(f"{self._name}: {error.strerror or error}; give a file that can be read") from None
        except pyarrow.ArrowException as error:
            raise InputError(f"{self._name} is no Parquet file that can be read: {error}") from None


def _cell(value: object, kind: Kind) -> object:
    return json.dumps(value, ensure_ascii=False) if kind == "json" and value is not None else value


def _arrow_type(kind: Kind) -> Any:
    if kind == "scores":
        return pyarrow.list_(pyarrow.struct({"label": pyarrow.string(), "score": pyarrow.float64()}))
    return {"text": pyarrow.string, "integer": pyarrow.int64, "number": pyarrow.float64, "json": pyarrow.string}[kind]()
