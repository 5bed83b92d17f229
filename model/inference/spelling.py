"""How a vocabulary writes what it has no single piece for: bytes of characters, runs of pieces.

The pieces of a word are a run: each but the first begins with a letter, behind a letter.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from model.tokenizer import Tokenizer

NO_RUN = 0  # in the place of a run: what is no word, or padding
END = 0  # the padding id, which is never written: here, that the word may end
WINDOW = 8  # pieces by which a run is told from others, its last ones
_FACTOR = 0x9E3779B97F4A7C15  # odd, and its powers are all over the 64 bits
POWERS = np.array([pow(_FACTOR, age, 2**64) for age in range(WINDOW)], np.uint64).view(np.int64)

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_CACHED_WORDS = 2**16

Run = tuple[int, ...]
Way = tuple[int, int]  # behind which run which piece, or END


class Words:
    """What the pieces of a vocabulary are to words, and the words that are known without a source."""

    def __init__(self, tokenizer: Tokenizer, known: Sequence[str]) -> None:
        """`known` are in lower case; they may have a capital, too."""
        self._tokenizer = tokenizer
        pieces = ["", "", "", *(tokenizer.piece(number) for number in range(3, tokenizer.num_pieces))]
        self.goes_on = np.array([piece[:1].isalpha() for piece in pieces])
        self.ends_in_letter = np.array([piece[-1:].isalpha() for piece in pieces])
        self._is_joined, self._joins = self.goes_on.tolist(), self.ends_in_letter.tolist()  # are faster to ask
        forms = [form for word in known for form in (word, word.capitalize(), f"-{word}")]
        runs = {run for form in forms for run in self._runs(tokenizer.encode(form))}
        self._known = {way for run in runs for way in _ways(run)}
        self.known = np.array(sorted(self._known))  # (n, 2), a Way each
        # Pieces that may not begin a word, or stand alone, unless a source says so.
        self.is_barred = np.array([any(map(_is_of_word, piece.lstrip("▁"))) for piece in pieces])
        self.is_barred[[run[0] for run in runs]] = False
        self._in_any_case = lru_cache(_CACHED_WORDS)(self._runs_in_any_case)

    def of_source(self, token_ids: Sequence[int]) -> tuple[list[Way], list[int]]:
        """How words of a source go on that are not known, in whatever case, and the pieces that begin its words."""
        held = [number for number in token_ids if number < len(self._joins)]
        runs = set(self._runs(held)).union(*map(self._in_any_case, set(_WORD.findall(self._tokenizer.decode(held)))))
        ways = {way for run in runs for way in _ways(run)} - self._known
        return sorted(ways), sorted({run[0] for run in runs})

    def _runs_in_any_case(self, word: str) -> list[Run]:
        forms = dict.fromkeys((word, word.lower(), word.capitalize()))
        # Behind a space, or a mark.
        return [run for form in forms for mark in ("", "-") for run in self._runs(self._tokenizer.encode(mark + form))]

    def _runs(self, token_ids: Sequence[int]) -> Iterator[Run]:
        """Every piece in its run, alone or behind others."""
        begin = 0
        for place in range(1, len(token_ids) + 1):
            if place < len(token_ids) and self._is_joined[token_ids[place]] and self._joins[token_ids[place - 1]]:
                continue
            yield tuple(token_ids[begin:place])
            begin = place


@dataclass(frozen=True)
class Spelling:
    """How a vocabulary writes what it has no single piece for."""

    byte_pieces: tuple[int, ...] = ()  # of bytes 0 to 255, where characters are spelled in bytes; else empty
    words: Words | None = None  # None: any word may be written

    @classmethod
    def of(cls, tokenizer: Tokenizer, words: Sequence[str]) -> "Spelling":
        """That of a checkpoint's vocabulary and list of words; without one, words are spelled freely."""
        return cls(tokenizer.byte_pieces, Words(tokenizer, words) if words else None)


FREE = Spelling()


def _is_of_word(character: str) -> bool:
    return character.isalpha() or not character.isascii()


@lru_cache(_CACHED_WORDS)
def _ways(run: Run) -> tuple[Way, ...]:
    """How each beginning of a run goes on with it.

    A beginning is a number of 64 bits: the sum of its pieces, each times the power of its distance from the last.
    """
    ways, number = [], 0
    for place, token in enumerate(run):
        number = number * _FACTOR + token
        if place >= WINDOW:
            number -= run[place - WINDOW] * _FACTOR**WINDOW
        number %= 2**64
        following = run[place + 1] if place + 1 < len(run) else END
        ways.append((number - 2**64 if number >= 2**63 else number, following))
    return tuple(ways)
