"""What a training or dev example is, and the reading of each data set into examples. No tokenizer, no torch.

Layout of the data folder (UTF-8, `.jsonl.gz`): `emotion/`, `topic/`, `summarization/` and `heads/NAME/`, each with
`train` and `dev`.
"""

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from model.tasks import EMOTIONS, TOPICS
from training.errors import DataError

_BOM = "\ufeff"
_LISTS = ("labels",)  # columns that hold a list of texts; every other one that a reader asks for holds a text
_OPTIONAL = ("title",)  # a text where there is one

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One source and whatever is known about it: a summary, and by the name of a head the numbers of its labels."""

    source: str
    origin: str
    summary: str | None = None
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_emotions(root: Path, split: str) -> list[Example]:
    """GoEmotions rows: `text`, `labels` (names)."""
    return [
        Example(
            row["text"],
            "goemotions",
            labels={"emotions": tuple(label_number(EMOTIONS, name, where) for name in row["labels"])},
        )
        for row, where in rows(root / "emotion" / f"{split}.jsonl.gz", "text", "labels")
    ]


def read_topics(root: Path, split: str) -> list[Example]:
    """AG News rows, `title`, `description`, `label`: title and description together, as a reader sees them."""
    return [
        Example(
            f"{row['title']}. {row['description']}" if row.get("title") else row["description"],
            "ag_news",
            labels=topic_of(row, where),
        )
        for row, where in rows(root / "topic" / f"{split}.jsonl.gz", "description", "label")
    ]


def read_headlines(root: Path, split: str) -> list[Example]:
    """AG News rows that have a title: the description is the source, the title its summary; the topic as well."""
    return [
        Example(row["description"], "ag_headline", summary=row["title"], labels=topic_of(row, where))
        for row, where in rows(root / "topic" / f"{split}.jsonl.gz", "description", "label")
        if row.get("title") and len(row["description"].split()) >= 12
    ]


@dataclass(frozen=True)
class HeadData:
    """Where the rows of a built-in head are: folder, and the reader of them with the name that a group has for it."""

    folder: str
    reader: str
    read: Callable[[Path, str], list[Example]]


HEAD_DATA: Mapping[str, HeadData] = {
    "emotions": HeadData("emotion", "emotions", read_emotions),
    "topic": HeadData("topic", "topics", read_topics),
}


def read_summaries(root: Path, split: str) -> list[Example]:
    """Document and summary pairs of every source in `summarization/`."""
    return [
        Example(row["document"], row["source"], summary=row["summary"])
        for row, _ in rows(root / "summarization" / f"{split}.jsonl.gz", "document", "summary", "source")
    ]


def topic_of(row: Mapping[str, Any], where: str) -> dict[str, tuple[int, ...]]:
    """The labels of a row of AG News.

    Raises:
        DataError: its `label` is none of the topics.
    """
    return {"topic": (label_number(TOPICS, row["label"], where),)}


def rows(path: Path, *columns: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row of a `.jsonl.gz` file with where it stands (`file:line`).

    Blank lines and byte order marks, which editors and joined files leave, are passed over and counted in a warning.

    Raises:
        DataError: the file is missing or damaged, or a row lacks one of `columns` or holds no text there.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; give a folder that has it (data.root, --data), laid out as training/README.md "
            "says, or leave its group out (data.only)"
        )
    blank = marks = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                marks += line.startswith(_BOM)
                text = line.removeprefix(_BOM).strip()
                blank += not text
                if text:
                    where = f"{path}:{number}"
                    yield _row(text, where, columns), where
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated ({error})") from error
    if blank or marks:
        _warn_passed_over(path, blank, marks)


@cache  # a file is read by several readers
def _warn_passed_over(path: Path, blank: int, marks: int) -> None:
    _log.warning("%s: passed over %d blank lines and %d byte order marks", path, blank, marks)


def _row(line: str, where: str, columns: tuple[str, ...]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict) or any(column not in row for column in columns):
        raise DataError(f"{where}: the row lacks one of the columns {list(columns)}")
    for column in (*columns, *(name for name in _OPTIONAL if row.get(name))):
        _check_cell(row[column], column, where)
    return row


def _check_cell(value: Any, column: str, where: str) -> None:
    if column in _LISTS:
        if not isinstance(value, list):
            raise DataError(f'{where}: {column} is {_shown(value)}; it must be a list of names, such as ["joy"]')
        for one in value:
            _check_cell(one, f"a name in {column}", where)
    elif not isinstance(value, str):
        raise DataError(f"{where}: {column} is {_shown(value)}; it must be a text in quotes")
    elif not value.strip():
        raise DataError(f"{where}: {column} is empty; give it a text or remove the row")
    else:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: {column} holds half of a surrogate pair; correct or remove the row") from error


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def label_number(labels: tuple[str, ...], name: str, where: str) -> int:
    """The place of `name` among `labels`.

    Raises:
        DataError: it is none of them; names the row.
    """
    if name not in labels:
        raise DataError(f"{where}: label {name!r} is none of {list(labels)}")
    return labels.index(name)
