"""The public data sets: at which commit, which of their files hold which split, and into which task they go.

A commit hash names one content for ever: what is fetched today is what is fetched in a year.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.acquisition import rows
from training.acquisition.rows import Row


@dataclass(frozen=True)
class Source:
    """One data set of the Hugging Face hub.

    `name` is the `source` of its rows and its key in `training.data.terms`. `files` maps a split to paths in the
    repository. Where there is no official dev split, `cut_key` says what is hashed to take one from train.
    """

    name: str
    task: str
    repo: str
    revision: str
    columns: tuple[str, ...]
    convert: Callable[[Mapping[str, Any]], Iterator[Row]] = field(repr=False)
    files: Mapping[str, tuple[str, ...]]
    cut_key: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file."""
        return tuple(path for paths in self.files.values() for path in paths)


SOURCES = (
    Source(
        "cnn_dailymail",
        "summarization",
        "abisee/cnn_dailymail",
        "96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
        ("article", "highlights", "id"),
        rows.cnn_dailymail,
        {
            "train": tuple(f"3.0.0/train-{number:05}-of-00003.parquet" for number in range(3)),
            "dev": ("3.0.0/validation-00000-of-00001.parquet",),
            "test": ("3.0.0/test-00000-of-00001.parquet",),
        },
    ),
    Source(
        "booksum",
        "summarization",
        "kmfoda/booksum",
        "c62321036e5647db5767ecaff139912b554dc938",
        ("bid", "chapter", "summary_text"),
        rows.booksum,
        {"train": ("train.csv",), "dev": ("dev.csv",), "test": ("test.csv",)},
    ),
    Source(
        "goemotions",
        "emotion",
        "google-research-datasets/go_emotions",
        "add492243ff905527e67aeb8b80c082af02207c3",
        ("text", "labels", "id"),
        rows.goemotions,
        {
            "train": ("simplified/train-00000-of-00001.parquet",),
            "dev": ("simplified/validation-00000-of-00001.parquet",),
            "test": ("simplified/test-00000-of-00001.parquet",),
        },
    ),
    Source(
        "ag_news",
        "topic",
        "fancyzhx/ag_news",
        "eb185aade064a813bc0b7f42de02595523103ca4",
        ("text", "label"),
        rows.ag_news,
        {"train": ("data/train-00000-of-00001.parquet",), "test": ("data/test-00000-of-00001.parquet",)},
        cut_key="text",
    ),
    Source(
        "gutenberg",
        "prose",
        "common-pile/project_gutenberg_filtered",
        "3cdf6879c807f4e4e063f2ceb23bc268d8c29ab7",
        ("id", "text", "metadata"),
        rows.gutenberg,
        {"train": ("project_gutenberg-dolma-0000.json.gz",)},  # the first of fifteen: the earliest books
        cut_key="id",
    ),
)
SOURCE_TASKS = tuple(dict.fromkeys(source.task for source in SOURCES))
