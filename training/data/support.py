"""What a summary says that its source does not: names, numbers, words that are none. Pure functions on strings."""

import re
from collections.abc import Iterable, Set

# A capitalised word that is not the first of its sentence: the first says nothing by its capital.
_NAME = re.compile(r"(?<=[\w,;:'\"()-] )[^\W\d_a-zà-öø-ÿ][\w'’-]*[^\W\d_]")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_POSSESSIVE = re.compile(r"['’]s?$")
_WORD = re.compile(r"\w+")
_LETTERS = re.compile(r"[^\W\d_]{2,}")


def unsupported(summary: str, source: str) -> list[str]:
    """The names and numbers of `summary` that `source` does not contain, whatever their case; in order.

    A number written as a word in the source counts as missing, and so does a name in another form: a strict measure.
    """
    text = source.lower()
    words = set(_WORD.findall(text))
    missing = []
    for match in _NAME.finditer(summary):
        name = _POSSESSIVE.sub("", match[0])
        if not all(part in words for part in _WORD.findall(name.lower())):
            missing.append(name)
    return missing + [match[0] for match in _NUMBER.finditer(summary) if match[0] not in text]


def no_words(summary: str, source: str, known: Set[str]) -> list[str]:
    """The words of `summary` that are neither in `source` nor in `known` (lower case); in order."""
    here = words([source])
    return [word for word in _LETTERS.findall(summary) if word.lower() not in here and word.lower() not in known]


def words(texts: Iterable[str]) -> set[str]:
    """Every run of two letters or more, in lower case."""
    return {word.lower() for text in texts for word in _LETTERS.findall(text)}
