"""A long text as several sources, cut at sentence ends. Knows the tokenizer, nothing of tasks or answers."""

import math
import re
from collections.abc import Iterator

from model.tokenizer import Tokenizer

# After a sentence's end mark and its closing quotes, at whitespace; at a line's end; after a full-width end mark.
# Every alternative starts at a fixed character, so that a text of nothing but spaces or quotes stays linear.
_SENTENCE_END = re.compile(r"""(?<=[.!?…])["'”’»)\]]*\s+|\n\s*|(?<=[。！？])""")


def cut_into_chunks(tokenizer: Tokenizer, text: str, max_tokens: int) -> list[list[int]]:
    """Token ids of `text` in order, in about as few chunks of at most `max_tokens` as sentence ends allow.

    The chunks are of like length, because a last chunk of three words has a poor summary. A sentence longer than
    a chunk is cut between words, a word longer than a chunk between tokens; no token is lost.
    """
    pieces = [piece for piece in _pieces(tokenizer, text, max_tokens) if piece]
    num_tokens = sum(len(piece) for piece in pieces)
    like = math.ceil(num_tokens / max(1, math.ceil(num_tokens / max_tokens)))
    chunks: list[list[int]] = [[]]
    for piece in pieces:
        if chunks[-1] and (len(chunks[-1]) >= like or len(chunks[-1]) + len(piece) > max_tokens):
            chunks.append([])
        chunks[-1] += piece
    return chunks


def _pieces(tokenizer: Tokenizer, text: str, max_tokens: int) -> Iterator[list[int]]:
    """Token ids of sentences, of words where the sentence is too long, of parts where the word is too long."""
    for sentence in _sentences(text):
        token_ids = tokenizer.encode(sentence)
        if len(token_ids) <= max_tokens:
            yield token_ids
            continue
        for word in sentence.split():
            token_ids = tokenizer.encode(word)
            for start in range(0, len(token_ids), max_tokens):
                yield token_ids[start : start + max_tokens]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]
