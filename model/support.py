"""What of a summary its source backs: its sentences, its names, its numbers. Pure functions on strings.

Names are runs of letters that begin with a capital and open no sentence, in direct speech neither, except `I` and `A`;
numbers are digits with what separates them (`2,500`, `7:30`). The source has a name if it has that run of letters in
any case, and a number if it has the same digits: a number in words, or a name in another form, counts as missing. The
precision of these is that of entities against the source (Nan et al. 2021), with two rules in place of a tagger.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT = re.compile(r"[^\W\d_]+|\d+(?:[.,:]\d+)*")
NO_NAMES = frozenset("ia")  # in lower case
# A full stop after one of these, or after a single letter, ends no sentence; in lower case.
ABBREVIATIONS = frozenset(("mr", "mrs", "ms", "dr", "st"))
_END_MARK = re.compile(r"[.!?…]")
_OPENING = re.compile(r"""[\n。！？]|[,:]\s+["“„«‘']""")  # the last: of direct speech
_SPACE = re.compile(r"\s")
_WORD = re.compile(r"[^\W_]+")

# After a sentence's end mark and its closing quotes, at whitespace that no lower-case letter follows; at a line's end.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”’»)\]]*\s+|\n\s*|(?<=[。！？])""")
_LAST_WORD = re.compile(r"([^\W\d_]+)\.\s*$")
_LONGEST_ABBREVIATION = 8  # characters that are looked at before an end mark

_BLOCK = 256  # sentences of the source whose overlaps are counted together


@dataclass(frozen=True)
class Span:
    """Code points `start` to `end` of a text."""

    start: int
    end: int


@dataclass(frozen=True)
class Passage(Span):
    """A sentence of the source, and how near it is: ROUGE-L's F, above 0 and at most 1 (Lin 2004; no stemming)."""

    rouge_l: float


@dataclass(frozen=True)
class Claims:
    """The names and numbers of a summary: how many, and those that the source does not have, in order."""

    count: int
    unsupported: tuple[Span, ...]

    @property
    def precision(self) -> float | None:
        """The share that the source has; None where there are none."""
        return 1 - len(self.unsupported) / self.count if self.count else None


def unsupported(summary: str, source: str) -> list[str]:
    """The names and numbers of `summary` that `source` does not have, in order."""
    return [summary[span.start : span.end] for span in claims(summary, source).unsupported]


def claims(summary: str, source: str) -> Claims:
    """The names and numbers of `summary` against `source`."""
    held = set(UNIT.findall(folded(source)))
    found = list(names_and_numbers(summary))
    return Claims(len(found), tuple(span for span in found if folded(summary[span.start : span.end]) not in held))


def names_and_numbers(text: str) -> Iterator[Span]:
    """Every name and number of `text`, in order."""
    end, last = 0, ""
    for match in UNIT.finditer(text):
        unit = match[0]
        is_name = unit[0].isupper() and folded(unit) not in NO_NAMES
        if unit[0].isdecimal() or (is_name and not _opens(text[end : match.start()], last)):
            yield Span(*match.span())
        end, last = match.end(), unit


def folded(text: str) -> str:
    """`text` in lower case, character by character, so that parts of it stay parts."""
    return text.lower() if text.isascii() else "".join(map(_lower, text))


def is_abbreviation(word: str) -> bool:
    """Whether a full stop after `word` ends no sentence."""
    return len(word) == 1 or folded(word) in ABBREVIATIONS


def sentence_spans(text: str) -> list[Span]:
    """The sentences of `text`, without the whitespace around them."""
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        is_line_end = "\n" in match[0] or not match[0]
        if is_line_end or not (_goes_on(text, match.end()) or _is_after_abbreviation(text, match)):
            spans.append(_stripped(text, start, match.end()))
            start = match.end()
    spans.append(_stripped(text, start, len(text)))
    return [span for span in spans if span.start < span.end]


def nearest_passages(
    summary: str, source: str, before_block: Callable[[], None] = lambda: None
) -> list[tuple[Span, Passage | None]]:
    """Each sentence of `summary` with the sentence of `source` that is nearest to it; None where none has a word of it.

    All sentences of the summary are compared at once: each is a field of one long integer, in which the longest common
    subsequence with a sentence of the source is found a word at a time (Hyyrö 2004). The time is that of the source's
    words, times the summary's in machine words. `before_block` is called now and then, and may raise to end it.
    """
    ours = [(span, _words(summary, span)) for span in sentence_spans(summary)]
    fields = [words for _, words in ours if words]
    places: dict[str, int] = {}
    starts, length = [], 0
    for words in fields:
        starts.append(length)
        for place, word in enumerate(words, length):
            places[word] = places.get(word, 0) | 1 << place
        length += len(words) + 1  # one bit that stays 0, so that no sum reaches the next field
    best = _Best(starts, np.array([len(words) for words in fields]), length)
    if fields:
        theirs = sentence_spans(source)
        for first in range(0, len(theirs), _BLOCK):
            before_block()
            block = theirs[first : first + _BLOCK]
            best.compare(block, [_words(source, span) for span in block], places)
    found = iter(best.passages)
    return [(span, next(found) if words else None) for span, words in ours]


class _Best:
    """The best passage so far of each of the summary's sentences that have words."""

    def __init__(self, starts: list[int], lengths: NDArray[np.int64], num_bits: int) -> None:
        self.passages: list[Passage | None] = [None] * len(starts)
        self._starts = starts
        self._lengths = lengths
        self._num_bytes = num_bits // 8 + 1
        separators = sum(1 << int(start + length) for start, length in zip(starts, lengths, strict=True))
        self._all = (1 << num_bits) - 1 - separators

    def compare(self, spans: list[Span], words: list[list[str]], places: dict[str, int]) -> None:
        unmatched = b"".join(self._unmatched(one, places).to_bytes(self._num_bytes, "little") for one in words)
        bits = np.unpackbits(np.frombuffer(unmatched, np.uint8).reshape(len(words), -1), axis=1, bitorder="little")
        common = self._lengths - np.add.reduceat(bits, self._starts, axis=1, dtype=np.int64)  # (block, fields)
        scores = 2 * common / (self._lengths + np.array([[len(one)] for one in words]))
        for number, row in enumerate(scores.argmax(0)):
            score, before = float(scores[row, number]), self.passages[number]
            if score > (before.rouge_l if before else 0.0):
                self.passages[number] = Passage(spans[row].start, spans[row].end, score)

    def _unmatched(self, words: list[str], places: dict[str, int]) -> int:
        rest = self._all
        for word in words:
            if here := rest & places.get(word, 0):
                rest = ((rest + here) | (rest - here)) & self._all
        return rest


def _words(text: str, span: Span) -> list[str]:
    return _WORD.findall(folded(text[span.start : span.end]))


def _lower(character: str) -> str:
    lower = character.lower()
    return lower if len(lower) == 1 else character


def _opens(gap: str, last: str) -> bool:
    """Whether a unit opens a sentence that comes after the unit `last` and `gap`; `last` is empty at the start."""
    if not last:
        return True
    is_abbreviated = gap.startswith(".") and last[0].isalpha() and is_abbreviation(last)
    mark = _END_MARK.search(gap, int(is_abbreviated))
    return _OPENING.search(gap) is not None or (mark is not None and _SPACE.search(gap, mark.end()) is not None)


def _goes_on(text: str, end: int) -> bool:
    return text[end : end + 1].islower()


def _is_after_abbreviation(text: str, end_mark: re.Match[str]) -> bool:
    word = _LAST_WORD.search(text[max(0, end_mark.start() - _LONGEST_ABBREVIATION) : end_mark.start()])
    return end_mark[0].isspace() and word is not None and is_abbreviation(word[1])


def _stripped(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return Span(start + len(part) - len(part.lstrip()), start + len(part.rstrip()))
