"""Summaries whose names were exchanged for others, in source and summary alike.

A name that fits the summary only because it stands in the source cannot be guessed: copies of the rows with other
names teach copying where the rows alone teach who usually does what. Every second copy names its speakers, too, where
the rows say `#Person1#`: people paste chats with names.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from training.data.examples import Example

# A capitalised word that is not the first of a sentence or turn.
_INSIDE = re.compile(r"(?<=[a-z,;#] )[A-Z][a-z]{2,}\b")
_NUMBER = re.compile(r"\b\d{1,4}\b")
_SPEAKER = re.compile(r"#Person\d#")


def renamed(examples: Sequence[Example], copies: int, seed: int) -> Iterator[Example]:
    """`copies` of each example that has names or speakers, each with others; names come from all the examples."""
    pool = sorted({name for example in examples for name in _names(example)})
    rng = random.Random(seed)
    for example in examples:
        names = sorted(_names(example))
        for copy in range(copies if pool else 0):
            speakers = sorted(set(_SPEAKER.findall(example.source))) if copy % 2 else []
            if not names and not speakers:
                continue
            mapping = {name: rng.choice(pool) for name in names}
            mapping |= {number: str(rng.randint(2, 10 ** len(number))) for number in sorted(_numbers(example))}
            mapping |= dict(zip(speakers, rng.sample(pool, k=min(len(speakers), len(pool))), strict=False))
            pattern = re.compile(r"(?<!\w)(" + "|".join(map(re.escape, mapping)) + r")(?!\w)")

            def exchange(text: str, pattern: re.Pattern[str] = pattern, mapping: dict[str, str] = mapping) -> str:
                return pattern.sub(lambda match: mapping[match[0]], text)

            yield replace(example, source=exchange(example.source), summary=exchange(example.summary or ""))


def _names(example: Example) -> set[str]:
    found = set(_INSIDE.findall(example.summary or ""))
    return {name for name in found if re.search(rf"\b{name}\b", example.source)}


def _numbers(example: Example) -> set[str]:
    shared = set(_NUMBER.findall(example.summary or "")) & set(_NUMBER.findall(example.source))
    return {number for number in shared if f"#Person{number}#" not in example.source}
