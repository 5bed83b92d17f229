"""Some of many examples, drawn over sources and labels: what `data.max_rows` leaves of what a reader finds."""

import random
from collections import Counter
from collections.abc import Hashable, Sequence

from training.data.examples import Example


def sample(examples: Sequence[Example], at_most: int | None, seed: int) -> list[Example]:
    """`at_most` of `examples` (None: all), in their order; `seed` decides which.

    Every source and label keeps its share, to within a row, and has at least one as far as there is room. A row with
    several labels counts for the rarest of them.
    """
    if at_most is None or len(examples) <= at_most:
        return list(examples)
    strata: dict[Hashable, list[int]] = {}
    for number, stratum in enumerate(_strata(examples)):
        strata.setdefault(stratum, []).append(number)
    rng = random.Random(seed)
    ranked = []  # by how far into its stratum a row stands, once that is shuffled
    for numbers in strata.values():
        rng.shuffle(numbers)
        ranked += [(place / len(numbers), rng.random(), number) for place, number in enumerate(numbers)]
    return [examples[number] for number in sorted(number for *_, number in sorted(ranked)[:at_most])]


def _strata(examples: Sequence[Example]) -> list[Hashable]:
    counts = Counter(
        (head, label) for example in examples for head, labels in example.labels.items() for label in labels
    )
    return [
        (
            one.origin,
            *(
                min(((head, label) for label in labels), key=lambda key: (counts[key], key), default=(head, None))
                for head, labels in one.labels.items()
            ),
        )
        for one in examples
    ]
