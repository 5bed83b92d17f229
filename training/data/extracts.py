"""Targets that are sentences of their own source: what teaches a network that starts from nothing to find and to copy.

Self-supervised where a text comes alone (gap sentences, PEGASUS, Zhang et al. 2020, but the sentence stays in the
source), guided by the reference where there is one (the greedy oracle of extractive summarization, Nallapati et al.
2017). Pure functions on strings.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

_SENTENCE_END = re.compile(r"(?<=[.!?][\"”’')]) +(?=[A-Z\"“‘'(])|(?<=[.!?]) +(?=[A-Z\"“‘'(])")
# What follows begins a sentence; in lower case it is an aside, as in `the bank (MPC) - a committee - voted`.
_DATELINE = re.compile(r"^(?:[^()]{0,60}\([A-Za-z. ]{2,20}\)|[A-Z]{2,10}|Reuters) *-+ +(?![a-z])")
_WORD = re.compile(r"\w+")
_SHORTEST, _LONGEST = 7, 40  # words of a sentence that may be a target
_LEAD_BONUS = 0.1  # the first sentence of a news text is a good summary of it more often than not


def sentences(text: str) -> list[str]:
    """The sentences of `text`, line by line."""
    return [s.strip() for line in text.splitlines() for s in _SENTENCE_END.split(line) if s.strip()]


def without_dateline(sentence: str) -> str:
    """`sentence` without a leading `LONDON (Reuters) - ` or `AP - `."""
    return _DATELINE.sub("", sentence, count=1)


def passages(text: str, seed: int, shortest: int, longest: int) -> Iterator[list[str]]:
    """`text` cut into runs of `shortest` to `longest` sentences, none of them used twice."""
    rng = random.Random(seed)
    rest = sentences(text)
    while len(rest) >= shortest:
        length = rng.randint(shortest, longest)
        yield rest[:length]
        rest = rest[length:]


def central_sentences(source: Sequence[str], is_lead: bool) -> list[str]:
    """The sentences of `source` that say most of the rest, in order: one for a short passage, two for a longer one.

    Measured by ROUGE-1 F of each against all the others together; the first sentence gets a bonus if `is_lead`.
    """
    bags = [_bag(sentence) for sentence in source]
    total = sum(bags, Counter())
    scores = {}
    for number, bag in enumerate(bags):
        if _SHORTEST <= bag.total() <= _LONGEST:
            bonus = _LEAD_BONUS if is_lead and number == 0 else 0.0
            scores[number] = _f1(bag, total - bag) + bonus
    best = sorted(scores, key=lambda number: -scores[number])[: 1 if len(source) <= 6 else 2]
    return [source[number] for number in sorted(best)]


def oracle_sentences(source: Sequence[str], reference: str, at_most: int) -> list[str]:
    """The sentences of `source` that together come nearest to `reference` (ROUGE-1 F), chosen greedily, in order."""
    wanted, chosen, held, best = _bag(reference), set[int](), Counter[str](), 0.0
    bags = [_bag(sentence) for sentence in source]
    while len(chosen) < at_most:
        scores = {
            number: _f1(held + bag, wanted)
            for number, bag in enumerate(bags)
            if number not in chosen and _SHORTEST <= bag.total() <= _LONGEST
        }
        number = max(scores, key=lambda number: scores[number], default=None)
        if number is None or scores[number] <= best:
            break
        best, held = scores[number], held + bags[number]
        chosen.add(number)
    return [source[number] for number in sorted(chosen)]


def case_table(texts: Iterable[str]) -> dict[str, str]:
    """For each lower-case word its commonest spelling inside the sentences of `texts`."""
    counts: dict[str, Counter[str]] = {}
    for text in texts:
        for sentence in sentences(text):
            for word in _WORD.findall(sentence)[1:]:
                counts.setdefault(word.lower(), Counter())[word] += 1
    return {word: spellings.most_common(1)[0][0] for word, spellings in counts.items()}


def restore_case(text: str, table: Mapping[str, str]) -> str:
    """Lower-case `text` with sentence starts and names in natural case, as far as `table` knows them."""
    cased = _WORD.sub(lambda match: table.get(match[0], match[0]), text)
    return re.sub(r"(?:^|(?<=[.!?] ))[a-z]", lambda match: match[0].upper(), cased)


def _bag(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


def _f1(one: Counter[str], other: Counter[str]) -> float:
    return 2 * (one & other).total() / max(1, one.total() + other.total())
