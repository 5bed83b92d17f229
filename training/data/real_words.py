"""Words of a summary that are none: neither its source's nor of any text that is known. Pure functions on strings."""

import re
from collections.abc import Iterable, Set

_LETTERS = re.compile(r"[^\W\d_]{2,}")


def no_words(summary: str, source: str, known: Set[str]) -> list[str]:
    """The words of `summary` that are neither in `source` nor in `known` (lower case); in order."""
    here = words([source])
    return [word for word in _LETTERS.findall(summary) if word.lower() not in here and word.lower() not in known]


def words(texts: Iterable[str]) -> set[str]:
    """Every run of two letters or more, in lower case."""
    return {word.lower() for text in texts for word in _LETTERS.findall(text)}
