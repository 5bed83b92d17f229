"""A made-up language: enough words for a vocabulary and for texts of any length, the same on every machine."""

import random
from collections.abc import Iterator
from itertools import accumulate

_ONSETS = "b bl c ch d dr f g gr h j k l m n p pr qu r s sh sk st t th tr v w y z".split()
_VOWELS = "a ai e ea ee i ie o oa ou u".split()
_CODAS = ["", "", "", "n", "r", "s", "t", "l", "nd", "st", "ck", "m"]
_SENTENCE = (6, 18)


class Language:
    """`num_words` words of one to four syllables, used as unevenly as real ones (Zipf): a word is about 1.4 tokens."""

    def __init__(self, num_words: int, seed: int = 0) -> None:
        draw = random.Random(seed)
        words: dict[str, None] = {}
        while len(words) < num_words:
            words.setdefault("".join(_syllable(draw) for _ in range(draw.randint(1, 4))))
        self.words = list(words)
        self._weights = list(accumulate((rank + 3) ** -1.35 for rank in range(num_words)))

    def text(self, num_words: int, seed: int) -> str:
        """Sentences of `num_words` words together."""
        draw = random.Random(seed)
        words = draw.choices(self.words, cum_weights=self._weights, k=num_words)
        start = 0
        while start < num_words:
            end = min(start + draw.randint(*_SENTENCE), num_words) - 1
            words[end] += "."
            start = end + 1
        return " ".join(words)

    def corpus(self) -> Iterator[str]:
        """What a vocabulary is trained on: running text, and every word often enough to become a piece."""
        for seed in range(2000):
            yield self.text(40, seed)
        for start in range(0, len(self.words), 20):
            yield from [" ".join(self.words[start : start + 20])] * 3


def _syllable(draw: random.Random) -> str:
    return draw.choice(_ONSETS) + draw.choice(_VOWELS) + draw.choice(_CODAS)
