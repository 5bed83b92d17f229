"""What is held out, and whether a row repeats a part of it: MinHash to find candidates, the sets themselves to decide.

Two texts are near when their sets of word triples have a Jaccard similarity of 0.7 or more: in a news item of 40
words, one word changed. A shorter window would call short comments equal that differ in what they say, a longer one
would miss a corrected report (compare Lee et al. 2022, who take 5 words and 0.8 for web pages).
"""

import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from training.acquisition.rows import Row

WORDS, SIMILARITY = 3, 0.7
_WORD = re.compile(r"\w+")
# 32 bands of 4: a pair at 0.7 is a candidate with probability 1 - (1 - 0.7⁴)³² = 0.9999.
_BANDS, _ROWS = 32, 4
_BLANK = MinHash(num_perm=_BANDS * _ROWS, hashfunc=int)


@dataclass(frozen=True)
class Duplicate:
    """That a row repeats the held-out row at `where`; `reason` is `exact`, `near` or `book`."""

    reason: str
    where: str
    similarity: float


@dataclass(frozen=True)
class _HeldOut:
    where: str
    split: str
    shingles: NDArray[np.uint32]


class HeldOut:
    """The rows of dev and test of every task."""

    def __init__(self) -> None:
        self._index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
        self._rows: list[_HeldOut] = []
        self._books: dict[tuple[str, str], str] = {}

    def add(self, row: Row, split: str, where: str) -> None:
        """Hold `row` out."""
        shingles = _shingles(row.text)
        self._index.insert(len(self._rows), _sketch(shingles), check_duplication=False)
        self._rows.append(_HeldOut(where, split, shingles))
        if row.book is not None:
            self._books.setdefault((row.book, split), where)

    def duplicate_of(self, row: Row, splits: Collection[str]) -> Duplicate | None:
        """The row of `splits` that `row` repeats most, or one of the same book."""
        for split in splits:
            if where := self._books.get((row.book or "", split)):
                return Duplicate("book", where, 0.0)
        shingles = _shingles(row.text)
        best: Duplicate | None = None
        for number in sorted(self._index.query(_sketch(shingles))):
            held = self._rows[number]
            similarity = _jaccard(shingles, held.shingles) if held.split in splits else 0.0
            if similarity >= max(SIMILARITY, best.similarity + 1e-9 if best else 0.0):
                best = Duplicate("exact" if similarity == 1.0 else "near", held.where, similarity)
        return best


def _shingles(text: str) -> NDArray[np.uint32]:
    words = _WORD.findall(text.lower()) or [text]
    windows = range(max(1, len(words) - WORDS + 1))
    hashes = (zlib.crc32(" ".join(words[start : start + WORDS]).encode()) for start in windows)
    return np.unique(np.fromiter(hashes, np.uint32, len(windows)))


def _sketch(shingles: NDArray[np.uint32]) -> MinHash:
    sketch = _BLANK.copy()
    sketch.update_batch(shingles)
    return sketch


def _jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
