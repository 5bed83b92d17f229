"""Words: which a summary has that are none, neither its source's nor of any text that is known; which are common."""

import re
from collections import Counter
from collections.abc import Iterable, Set

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_LETTERS = re.compile(r"[^\W\d_]{2,}")


def no_words(summary: str, source: str, known: Set[str]) -> list[str]:
    """The words of `summary` that are neither in `source` nor in `known` (lower case); in order."""
    here = words([source])
    return [word for word in _LETTERS.findall(summary) if word.lower() not in here and word.lower() not in known]


def words(texts: Iterable[str]) -> set[str]:
    """Every run of two letters or more, in lower case."""
    return {word.lower() for text in texts for word in _LETTERS.findall(text)}


def common_words(texts: Iterable[str], min_texts: int) -> set[str]:
    """The words that at least `min_texts` of `texts` have in lower case, and no more have with a capital.

    A name, which has a capital nearly always, is none of them; so a text without any capital does not count.
    """
    lower, capital = Counter[str](), Counter[str]()
    for text in texts:
        if text.islower():
            continue
        for word in set(_WORD.findall(text)):
            if word.islower():
                lower[word] += 1
            elif word[1:].islower():
                capital[word.lower()] += 1
    return {word for word, count in lower.items() if count >= max(min_texts, capital[word])}
