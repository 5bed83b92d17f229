"""Rows, and the shards that an input is cut into. Knows no file format and no model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Answer = Mapping[str, Any]  # as JSON; of a row without one only `error`, the reason
ERROR = "error"


class InputError(Exception):
    """An input that cannot be read at all; the message says which, why and the remedy."""


@dataclass(frozen=True)
class Row:
    """A text, or the reason why there is none; `columns` go into the output beside the answer.

    `place` is what messages call it.
    """

    place: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    error: str | None = None

    @property
    def label(self) -> str:
        """What a table calls it: its id if it has one."""
        return str(self.columns.get("id", self.place))


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of one source, whose answers become one file; `start` is a place that the source knows."""

    number: int
    source: "Source"
    start: tuple[int, ...]
    num_rows: int


class Source(ABC):
    """An input that can be read again from any of its shards; equal content makes equal shards."""

    suffix: str  # of the file of a shard
    columns: tuple[str, ...]  # that every row has, as far as they are known beforehand

    @abstractmethod
    def cut(self, num_rows: int, advance: Callable[[int], None]) -> Iterator[tuple[tuple[int, ...], int]]:
        """Start and number of rows of each shard, which has `num_rows` at most.

        `advance` gets the number of bytes as they are read. After the last one `digest` is that of what was read.

        Raises:
            InputError: it cannot be read.
        """

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """As many `cut` reads."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of the whole content, once it is cut."""

    @abstractmethod
    def read(self, shard: Shard) -> Iterator[Row]:
        """The rows of `shard`.

        Raises:
            InputError: it cannot be read, or has changed.
        """

    @abstractmethod
    def write(self, path: Path, shard: Shard, rows: Sequence[Row], answers: Sequence[Answer]) -> None:
        """The file of `shard`: each row's columns with its answer."""


def cut_into_shards(
    sources: Sequence[Source], num_rows: int, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Shard]:
    """All shards of all sources, numbered from 0; no shard has rows of two.

    Raises:
        InputError: a source cannot be read.
    """
    number = 0
    for source in sources:
        for start, num_found in source.cut(num_rows, advance):
            yield Shard(number, source, start, num_found)
            number += 1
