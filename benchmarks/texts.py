"""Texts of any length, the same on every machine: of a made-up language for random weights, and of news for ours."""

import random
from collections.abc import Iterator
from itertools import accumulate

_ONSETS = "b bl c ch d dr f g gr h j k l m n p pr qu r s sh sk st t th tr v w y z".split()
_VOWELS = "a ai e ea ee i ie o oa ou u".split()
_CODAS = ["", "", "", "n", "r", "s", "t", "l", "nd", "st", "ck", "m"]
_SENTENCE = (6, 18)
_NEWS = (
    "The city council voted on Tuesday to close the old harbour bridge to cars from next spring",
    "Cyclists welcomed the decision, but shop owners nearby fear that they will lose customers",
    "Shares in the carmaker fell by {} per cent after it said that fewer people had ordered its electric van",
    "The home side took the lead after {} minutes and never looked like giving it away",
    "Researchers have built a battery that charges {} times faster than those in telephones today",
    "The minister said that talks would go on until both sides had signed the agreement",
    "At least {} people were hurt when a ferry ran aground in heavy fog",
    "The company will open {} offices in Asia and hire engineers for its search business",
    "Her coach said that she would miss the final because of an injured knee",
    "A court in the capital ruled that the election must be held again in {} districts",
    "The telescope has found water vapour in the air of a planet {} light years away",
    "Oil prices rose for a third day as producers agreed to pump less",
)


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


class News:
    """Sentences of news in any order, for a vocabulary and heads that were trained on English."""

    def text(self, num_words: int, seed: int) -> str:
        """The first `num_words` words of it."""
        draw, words = random.Random(seed), list[str]()
        while len(words) < num_words:
            words += f"{draw.choice(_NEWS).format(draw.randint(2, 90))}.".split()
        return " ".join(words[:num_words])


def _syllable(draw: random.Random) -> str:
    return draw.choice(_ONSETS) + draw.choice(_VOWELS) + draw.choice(_CODAS)
