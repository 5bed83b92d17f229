"""A long text as several sources, cut at sentence ends. Knows the tokenizer, nothing of tasks or answers.

The tokenizer gets one block at a time: a call holds the interpreter's lock to its end, and a character may be many
tokens.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Protocol

# After a sentence's end mark and its closing quotes, at whitespace; at a line's end; after a full-width end mark.
# Every alternative starts at a fixed character, so that a text of nothing but spaces or quotes stays linear.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”’»)\]]*\s+|\n\s*|(?<=[。！？])""")


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


def cut_into_chunks(tokenizer: TextEncoder, text: str, max_tokens: int) -> list[list[int]]:
    """Token ids of `text` in order, in about as few chunks of at most `max_tokens` as sentence ends allow.

    The chunks are of similar length, because a last chunk of three words has a poor summary. A sentence longer than
    a chunk is cut between words, a word longer than a chunk between tokens; no token is lost.
    """
    pieces = [piece for piece in _pieces(tokenizer, text, max_tokens) if piece]
    num_tokens = sum(len(piece) for piece in pieces)
    target = math.ceil(num_tokens / max(1, math.ceil(num_tokens / max_tokens)))
    chunks: list[list[int]] = [[]]
    for piece in pieces:
        if chunks[-1] and (len(chunks[-1]) >= target or len(chunks[-1]) + len(piece) > max_tokens):
            chunks.append([])
        chunks[-1] += piece
    return chunks


def _pieces(tokenizer: TextEncoder, text: str, max_tokens: int) -> Iterator[list[int]]:
    """Token ids of sentences, of words where the sentence is too long, of parts where the word is too long."""
    for sentence in _sentences(text):
        token_ids: list[int] = []
        for block in encode_in_blocks(tokenizer, sentence):
            token_ids += block
            if len(token_ids) > max_tokens:
                break
        else:
            yield token_ids
            continue
        for word in sentence.split():
            token_ids = [token_id for block in encode_in_blocks(tokenizer, word) for token_id in block]
            for start in range(0, len(token_ids), max_tokens):
                yield token_ids[start : start + max_tokens]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]
