"""A small data folder in the documented layout, so that training and evaluation run in a second or two."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

_WHO = ("council", "company", "captain", "astronomer", "bank", "library")
_WHAT = ("a new bridge", "record profits", "the final match", "water on a planet", "higher rates", "longer hours")
_EMOTIONS = (["joy"], ["anger"], ["neutral"], ["joy", "love"], ["sadness"])
_TOPICS = ("World", "Sports", "Business", "Sci/Tech")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """`rows` as a `.jsonl.gz` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_data(root: Path, num_rows: int = 24) -> Path:
    """A data folder with `num_rows` rows a task and split."""
    for split, shift in (("train", 0), ("dev", 1)):
        phrases = [
            (_WHO[(n + shift) % 6], _WHAT[(n // 2 + shift) % 6], n)  # rows differ, words repeat
            for n in range(num_rows)
        ]
        write_jsonl(
            root / "summarization" / f"{split}.jsonl.gz",
            (
                {
                    "document": f"The {who} spoke about {what} on day {n}. Nobody had expected it. More will follow.",
                    "summary": f"The {who} spoke about {what}.",
                    "source": ("dialogsum", "cnn_dailymail")[n % 2],
                }
                for who, what, n in phrases
            ),
        )
        write_jsonl(
            root / "emotion" / f"{split}.jsonl.gz",
            ({"text": f"I feel so about {what} {n}", "labels": _EMOTIONS[n % 5]} for _, what, n in phrases),
        )
        write_jsonl(
            root / "topic" / f"{split}.jsonl.gz",
            (
                {
                    "title": f"{who.title()} and {what}",
                    "description": f"The {who} said on Monday that {what} would come on day {n} of the year at last.",
                    "label": _TOPICS[n % 4],
                }
                for who, what, n in phrases
            ),
        )
    return root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder; not to be written to."""
    return write_data(tmp_path_factory.mktemp("data"))
