"""A fetched file → its records, each with the place where it stands (`source/file:row`). Parquet, CSV or JSON Lines."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet

from training.acquisition.rows import Unusable
from training.errors import DataError

_LONGEST_FIELD = 2**31 - 1  # csv's own limit of 128 KiB is below a chapter


def records(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | Unusable]]:
    """Number and content of every record, counted from 1; a line that cannot be read comes as `Unusable`.

    Raises:
        DataError: the file is damaged or lacks one of `columns` altogether.
    """
    read = {".parquet": _parquet, ".csv": _csv, ".gz": _json_lines}[path.suffix]
    try:
        yield from read(path, columns)
    except (arrow.ArrowException, csv.Error, zlib.error, EOFError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it and run the command again") from error


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with parquet.ParquetFile(path) as file:
        _require(path, columns, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=list(columns)):
            for record in batch.to_pylist():
                number += 1
                yield number, record


def _csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | Unusable]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        _require(path, columns, list(reader.fieldnames or ()))
        for number, record in enumerate(reader, 1):
            cut_off = None in record or any(value is None for value in record.values())
            yield number, Unusable("the row has another number of fields than the head") if cut_off else record


def _json_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | Unusable]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                yield number, Unusable(f"not JSON ({error})")
                continue
            if isinstance(record, dict) and all(column in record for column in columns):
                yield number, record
            else:
                yield number, Unusable(f"the row lacks one of the columns {list(columns)}")


def _require(path: Path, columns: Sequence[str], found: Sequence[str]) -> None:
    if missing := [column for column in columns if column not in found]:
        raise DataError(
            f"{path}: no column {', '.join(missing)} among {', '.join(found)}; "
            "delete the file and run the command again, and check the pinned revision if that does not help"
        )
