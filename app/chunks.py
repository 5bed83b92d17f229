"""A long text as several sources, cut at sentence ends. Knows the tokenizer, nothing of tasks or answers.

The tokenizer gets one block at a time: a call holds the interpreter's lock to its end, and a character may be many
tokens.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

# After a sentence's end mark and its closing quotes, at whitespace; at a line's end; after a full-width end mark.
# Every alternative starts at a fixed character, so that a text of nothing but spaces or quotes stays linear.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”’»)\]]*\s+|\n\s*|(?<=[。！？])""")

_WORD = re.compile(r"\S+")

_HEADING = re.compile(
    r"^[ \t]{0,40}((?:chapter|part|book|volume|act|scene|letter|canto|section)[ \t]{1,4}"
    r"(?:[ivxlcdm]{1,9}|\d{1,4}|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|the[ \t][a-z]{3,12}))"
    r"(?:[.:—–-][^\n]{0,80}|[ \t]{2,4}\S[^\n]{0,80}|[ \t\r]{0,4})$",
    re.IGNORECASE | re.MULTILINE,
)
_MIN_CHAPTER = 200  # characters of text that make a chapter of a heading
_CONTENTS = 3  # headings in a row

# In characters of English, which take the tokenizer half a millisecond.
_BLOCK_COST = 2_000
# Normalised, a character of three bytes may be eighteen of two bytes each (U+FDFA); an ASCII one is never more.
_COST_PER_FURTHER_BYTE = 11


class TextEncoder(Protocol):
    """The part of a tokenizer that is used here."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without the end token."""


def tokenizing_cost(text: str) -> int:
    """The cost of tokenizing `text` at worst, in characters of English."""
    if text.isascii():
        return len(text)
    num_bytes = len(text.encode("utf-8", "surrogatepass"))
    return len(text) + _COST_PER_FURTHER_BYTE * (num_bytes - len(text))


def encode_in_blocks(tokenizer: TextEncoder, text: str) -> Iterator[list[int]]:
    """Token ids of `text`, block by block, cut between words; a word that is longer than a block is cut too."""
    start = 0
    while start < len(text):
        end = _end_of_block(text, start)
        space = text.rfind(" ", start, end) if end < len(text) else -1
        end = space if space > start else end
        yield tokenizer.encode(text[start:end])
        start = end + (end == space)


def _end_of_block(text: str, start: int) -> int:
    end = min(start + _BLOCK_COST, len(text))
    if tokenizing_cost(text[start:end]) <= _BLOCK_COST:
        return end
    num_fitting = bisect_right(range(start + 1, end), _BLOCK_COST, key=lambda end: tokenizing_cost(text[start:end]))
    return start + max(1, num_fitting)


class Chunk(NamedTuple):
    """A part of a text: its token ids, and the code points from which and to which it reaches."""

    token_ids: list[int]
    start: int
    end: int


def cut_into_chunks(tokenizer: TextEncoder, text: str, max_tokens: int) -> list[Chunk]:
    """`text` in order, in about as few chunks of at most `max_tokens` tokens as chapters and sentence ends allow.

    The chunks of a chapter are of similar length, because a last chunk of three words has a poor summary. A sentence
    longer than a chunk is cut between words, a word longer than a chunk between tokens; no token is lost.
    """
    return [chunk for start, end in chapters(text) for chunk in _chunks(tokenizer, text, start, end, max_tokens)]


def chapters(text: str) -> list[tuple[int, int]]:
    """Where the parts of `text` that have headings begin and end; the whole is one where there are none.

    A heading is a line such as `CHAPTER IV. A Title`. Of headings that follow each other without a text between them,
    two are of a part and its first chapter, which stay together; more are a list of contents, unless the last begins
    the count again. What stands before the first chapter is a part if it is long enough to be one.
    """
    cuts: list[int] = []
    row: list[re.Match[str]] = []  # headings without a text between them
    for match in _HEADING.finditer(text):
        if row and match.start() - row[-1].end() > _MIN_CHAPTER:
            cuts += _cut_at(row)
            row = []
        row.append(match)
    if row and len(text) - row[-1].end() > _MIN_CHAPTER:
        cuts += _cut_at(row)
    starts = [0, *(cut for cut in cuts if cut > _MIN_CHAPTER)]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def _cut_at(row: Sequence[re.Match[str]]) -> list[int]:
    if len(row) < _CONTENTS:
        return [row[0].start()]
    *before, last = (" ".join(match[1].lower().split()) for match in row)
    return [row[-1].start()] if last in before else []


def _chunks(tokenizer: TextEncoder, text: str, start: int, end: int, max_tokens: int) -> list[Chunk]:
    pieces = [piece for piece in _pieces(tokenizer, text, start, end, max_tokens) if piece.token_ids]
    num_tokens = sum(len(piece.token_ids) for piece in pieces)
    target = math.ceil(num_tokens / max(1, math.ceil(num_tokens / max_tokens)))
    groups: list[list[Chunk]] = []
    length = 0  # of the last
    for piece in pieces:
        if not groups or length >= target or length + len(piece.token_ids) > max_tokens:
            groups.append([])
            length = 0
        groups[-1].append(piece)
        length += len(piece.token_ids)
    return [
        Chunk([token_id for piece in group for token_id in piece.token_ids], group[0].start, group[-1].end)
        for group in groups
    ]


def _pieces(tokenizer: TextEncoder, text: str, start: int, end: int, max_tokens: int) -> Iterator[Chunk]:
    """Sentences, the words of one that is too long, parts of a word that is too long."""
    for first, last in _sentences(text, start, end):
        token_ids: list[int] = []
        for block in encode_in_blocks(tokenizer, text[first:last]):
            token_ids += block
            if len(token_ids) > max_tokens:
                break
        else:
            part = text[first:last]
            yield Chunk(token_ids, last - len(part.lstrip()), first + len(part.rstrip()))
            continue
        for word in _WORD.finditer(text, first, last):
            token_ids = [token_id for block in encode_in_blocks(tokenizer, word[0]) for token_id in block]
            for place in range(0, len(token_ids), max_tokens):
                yield Chunk(token_ids[place : place + max_tokens], word.start(), word.end())


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for match in _SENTENCE_END.finditer(text, start, end):
        yield start, match.end()
        start = match.end()
    yield start, end
