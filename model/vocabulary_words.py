"""How many of a text's words its vocabulary has whole: low for another language, for code, tables and symbols.

A vocabulary is fitted to the language that a checkpoint has learned, so that no list of languages is needed: words of
others fall into pieces. A vocabulary without a mark for the space before a word (Chinese, Japanese) has none.
"""

from collections.abc import Iterable

_SPACE = "▁"  # SentencePiece's mark of a space
_AROUND = ".,;:!?\"'()[]<>-–—“”‘’*…/&"
MIN_WORDS = 4  # the share of known words among fewer says nothing
_MAX_WORDS = 2_000  # of a text, the first ones: they say enough


def whole_words(pieces: Iterable[str]) -> frozenset[str]:
    """The pieces that are a word of two letters or more, in lower case and without their mark."""
    return frozenset(
        piece[1:].lower() for piece in pieces if len(piece) > 2 and piece[0] == _SPACE and piece[1:].isalpha()
    )


def count_words(text: str, vocabulary: frozenset[str]) -> tuple[int, int]:
    """How many words `text` has, and how many of them `vocabulary` has, whatever their case.

    A word is what stands between spaces, without the punctuation around it. A single letter counts as none, and neither
    does punctuation alone; numbers, symbols and names count as words that are not known.
    """
    words = [word.strip(_AROUND).lower() for word in text.split(maxsplit=_MAX_WORDS)[:_MAX_WORDS]]
    words = [word for word in words if len(word) > 1 or (word and not word.isalpha())]
    # "council's" and "don't" are known by what stands before the apostrophe.
    known = [word for word in words if word in vocabulary or word.replace("’", "'").partition("'")[0] in vocabulary]
    return len(words), len(known)
