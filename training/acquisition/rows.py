"""A record of a public data set → rows in the layout of `training/data/examples.py`. Pure functions, no files."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model.tasks import EMOTIONS, TOPICS
from training.acquisition.prose import passages

# AG News lost most ampersands of its HTML to spaces, and kept line breaks as backslashes.
_AG_ENTITIES = {
    " #39;": "'",
    "#39;": "'",
    "#36;": "$",
    "&lt;": "<",
    "&gt;": ">",
    "&amp;": "&",
    " amp;": "&",
    "quot;": '"',
    "\\": " ",
}
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


class Unusable(Exception):
    """A record that gives no row; says why."""


@dataclass(frozen=True)
class Row:
    """What is written, and what it is compared by.

    `text` is what a model would read, `target` what it would answer. `book` is the number at Project Gutenberg.
    """

    columns: dict[str, Any]
    text: str
    target: str
    book: str | None = None


def cnn_dailymail(record: Mapping[str, Any]) -> Iterator[Row]:
    """Article and highlights; those are lines that end in ` .` and become sentences of one text."""
    lines = [line.strip().removesuffix(" .") for line in _text(record, "highlights").splitlines()]
    summary = " ".join(line if line.endswith((".", "!", "?")) else f"{line}." for line in lines if line)
    yield _pair(_text(record, "article"), summary, "cnn_dailymail", id=_text(record, "id"))


def booksum(record: Mapping[str, Any]) -> Iterator[Row]:
    """Chapter and one of its summaries; a chapter comes as often as people summarized it."""
    book = _text(record, "bid")
    summary = " ".join(_text(record, "summary_text").split())
    yield _pair(_text(record, "chapter"), summary, "booksum", book=book)


def goemotions(record: Mapping[str, Any]) -> Iterator[Row]:
    """Comment and the names of its emotions."""
    text, labels = _text(record, "text"), record["labels"]
    if not isinstance(labels, list) or not labels:
        raise Unusable(f"labels are {labels!r}; there must be one or more")
    names = [_name(EMOTIONS, number) for number in labels]
    yield Row({"text": text, "labels": names, "id": record["id"]}, text, " ".join(names))


def ag_news(record: Mapping[str, Any]) -> Iterator[Row]:
    """Title and description, which this edition has run together, and the topic."""
    text = _text(record, "text")
    for written, meant in _AG_ENTITIES.items():
        text = text.replace(written, meant)
    text, topic = " ".join(_TAG.sub(" ", text).split()), _name(TOPICS, record["label"])
    yield Row({"description": text, "label": topic}, text, topic)


def gutenberg(record: Mapping[str, Any]) -> Iterator[Row]:
    """Some passages of a book that is in the public domain."""
    book, facts = _text(record, "id"), record["metadata"]
    terms = facts.get("license") if isinstance(facts, dict) else None
    if terms != "Public Domain":
        raise Unusable(f"the book's licence is {terms!r}, not 'Public Domain'")
    chosen = passages(_text(record, "text"))
    if not chosen:
        raise Unusable("the book has no passage of prose")
    for text in chosen:
        yield Row({"document": text, "source": "gutenberg", "book": book}, text, "", book)


def _pair(document: str, summary: str, source: str, book: str | None = None, **more: str) -> Row:
    extra = more if book is None else {"book": book}
    return Row({"document": document, "summary": summary, "source": source, **extra}, document, summary, book)


def _text(record: Mapping[str, Any], column: str) -> str:
    value = record[column]
    if not isinstance(value, str):
        raise Unusable(f"{column} is {value!r}; it must be a text")
    if not value.strip():
        raise Unusable(f"{column} is empty")
    return value.strip()


def _name(names: tuple[str, ...], number: Any) -> str:
    if not isinstance(number, int) or not 0 <= number < len(names):
        raise Unusable(f"label {number!r} is none of 0 to {len(names) - 1}")
    return names[number]
