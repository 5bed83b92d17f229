"""What a training or dev example is, and the reading of each data set into examples. No tokenizer, no torch.

Layout of the data folder (UTF-8, `.jsonl.gz`): `emotion/`, `topic/` and `summarization/`, each with `train` and `dev`.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.tasks import EMOTIONS, TOPICS
from training.errors import DataError


@dataclass(frozen=True)
class Example:
    """One source and whatever is known about it: a summary, its emotions (label numbers), its topic (label number)."""

    source: str
    origin: str
    summary: str | None = None
    emotions: tuple[int, ...] | None = None
    topic: int | None = None


def read_emotions(root: Path, split: str) -> list[Example]:
    """GoEmotions rows: `text`, `labels` (names)."""
    return [
        Example(
            row["text"],
            "goemotions",
            emotions=tuple(label_number(EMOTIONS, name, where) for name in row["labels"]),
        )
        for row, where in rows(root / "emotion" / f"{split}.jsonl.gz", "text", "labels")
    ]


def read_topics(root: Path, split: str) -> list[Example]:
    """AG News rows, `title`, `description`, `label`: title and description together, as a reader sees them."""
    return [
        Example(
            f"{row['title']}. {row['description']}" if row.get("title") else row["description"],
            "ag_news",
            topic=label_number(TOPICS, row["label"], where),
        )
        for row, where in rows(root / "topic" / f"{split}.jsonl.gz", "description", "label")
    ]


def read_headlines(root: Path, split: str) -> list[Example]:
    """AG News rows that have a title: the description is the source, the title its summary; the topic as well."""
    return [
        Example(
            row["description"], "ag_headline", summary=row["title"], topic=label_number(TOPICS, row["label"], where)
        )
        for row, where in rows(root / "topic" / f"{split}.jsonl.gz", "description", "label")
        if row.get("title") and len(row["description"].split()) >= 12
    ]


def read_summaries(root: Path, split: str) -> list[Example]:
    """Document and summary pairs of every source in `summarization/`."""
    return [
        Example(row["document"], row["source"], summary=row["summary"])
        for row, _ in rows(root / "summarization" / f"{split}.jsonl.gz", "document", "summary", "source")
    ]


def rows(path: Path, *columns: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row of a `.jsonl.gz` file with where it stands (`file:line`).

    Raises:
        DataError: the file is missing or damaged, or a row lacks one of `columns`.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; give a folder that has it (data.root, --data), laid out as training/README.md says"
        )
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                where = f"{path}:{number}"
                yield _row(line, where, columns), where
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: damaged or truncated ({error})") from error


def _row(line: str, where: str, columns: tuple[str, ...]) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict) or any(column not in row for column in columns):
        raise DataError(f"{where}: the row lacks one of the columns {list(columns)}")
    return row


def label_number(labels: tuple[str, ...], name: str, where: str) -> int:
    """The place of `name` among `labels`.

    Raises:
        DataError: it is none of them; names the row.
    """
    if name not in labels:
        raise DataError(f"{where}: label {name!r} is none of {list(labels)}")
    return labels.index(name)
