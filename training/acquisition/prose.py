"""A book as plain text → passages of running prose, spread over the book."""

import re

_SHORTEST, _LONGEST = 150, 400  # words of a passage
_MOST = 20  # passages of a book: many books teach more than long ones
_PARAGRAPHS = re.compile(r"\n\s*\n")
_ENDS = re.compile(r"[.!?:;,—-]['\"’”)_]*$")
_PLAIN = re.compile(r"[\w\s.,;:!?'\"‘’“”()—–-]")
_NOT_THE_BOOK = re.compile(r"gutenberg|e-?text|transcriber|copyright", re.IGNORECASE)
_VERSE_WIDTH = 45  # characters: a mean line below it is a poem, an index or a table of contents


def passages(book: str) -> list[str]:
    """Up to 20 passages of 150 to 400 words, evenly spread; paragraphs stand on lines of their own."""
    found: list[str] = []
    run: list[str] = []
    for paragraph in _PARAGRAPHS.split(book.replace("\r\n", "\n")):
        text = " ".join(paragraph.split())
        if not _is_prose(paragraph, text):
            run = []
            continue
        run.append(text)
        words = sum(len(each.split()) for each in run)
        if words >= _SHORTEST:
            if words <= _LONGEST:
                found.append("\n".join(run))
            run = []
    if len(found) <= _MOST:
        return found
    return [found[int((number + 0.5) * len(found) / _MOST)] for number in range(_MOST)]


def _is_prose(paragraph: str, text: str) -> bool:
    lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
    if not lines or not _ENDS.search(text) or _NOT_THE_BOOK.search(text):
        return False
    if len(lines) > 2 and sum(map(len, lines[:-1])) < _VERSE_WIDTH * (len(lines) - 1):
        return False
    capitals = sum(letter.isupper() for letter in text)
    return len(_PLAIN.findall(text)) > 0.97 * len(text) and capitals < 0.15 * len(text)
