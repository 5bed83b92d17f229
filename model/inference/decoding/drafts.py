"""Drafts: what probably comes next in a document that copies, and how much of it is worth a step's time.

Summaries copy: where a document's last tokens occur in its source, or in what it has written, it often goes on as the
text there does (aggressive decoding, Ge et al. 2021, arXiv 2106.04970; prompt lookup decoding). A step computes the
newest token and such a draft behind it at once, and keeps of the draft what it would have chosen itself. Knows neither
the network nor tensors: token ids and seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import chain

_LONGEST_MATCH = 8  # tokens that are looked for
_LONGEST_DRAFT = 24
_MEASURED = 16  # longer matches count as this long

# How often the token comes that followed the same 1, 2, … tokens before: in the source, and in what is written, where
# n-grams that must not return end most. Of news and dialogues; where each batch begins.
_IN_SOURCE = (0.4, 0.5, 0.7, 0.8, 0.9)
_IN_WRITTEN = (0.1,)
_ACCEPTANCE_WEIGHT, _PRIOR_COUNT = 0.02, 4  # of the newest measurement at least; what the first are weighed against
_SURE = 0.9
_MARGIN = 1.2  # what a drafted token promises over what it costs, since both are estimates


class CopyTracker:
    """Where the last tokens of one document occurred before. Texts are strings with a character a token: `str.find`."""

    def __init__(self, source: Sequence[int], end: int) -> None:
        """`source` are its token ids; what is drafted ends before the token `end`."""
        self._source = as_text(source)
        self._written = chr(0)
        self._end = chr(end)
        self._is_in_source, self._place, self._length = True, 0, 0
        self.num_drafted = 0  # tokens behind the match that were proposed

    @property
    def num_written(self) -> int:
        """Tokens that it knows to be written."""
        return len(self._written) - 1

    @property
    def match(self) -> tuple[bool, int]:
        """Whether the last tokens occur in the source (or else in what is written), and how many of them; 0: none."""
        return self._is_in_source, self._length

    def extend(self, token_ids: Sequence[int]) -> None:
        """The next tokens that were written."""
        for token_id in token_ids:
            char, text = chr(token_id), self._text
            self._written += char
            if self._length and text[self._place : self._place + 1] == char:
                self._place += 1
                self._length += 1
            else:
                self._length = 0
        if not self._length:
            self._look_up()

    def draft(self, length: int) -> str:
        """At most so many tokens that came after the match."""
        found = self._text[self._place : self._place + length] if self._length else ""
        return found.partition(self._end)[0]

    @property
    def _text(self) -> str:
        return self._source if self._is_in_source else self._written

    def _look_up(self) -> None:
        # The first place of the longest match; a longer one in what is written is worth less than one in the source.
        written = self._written
        for is_in_source, text in ((True, self._source), (False, written)):
            self._is_in_source = is_in_source
            for length in range(1, min(_LONGEST_MATCH, len(written)) + 1):
                found = text.find(written[-length:], 0, len(text) - 1)
                if found < 0:
                    break
                self._place, self._length = found + length, length
            if self._length:
                return


def as_text(token_ids: Sequence[int]) -> str:
    """Token ids as a string, a character each."""
    return "".join(map(chr, token_ids))


class StepCost:
    """Seconds of a step: a line over its tokens, and what any draft adds, by what was measured, the newest of it most.

    What is not seen keeps to a prior: while all steps have as many tokens, a further one costs `_PRIOR_RATIO` of all
    that is not by token; and while nothing is drafted, what a draft adds is slowly forgotten.
    """

    _PRIOR_RATIO = 0.1
    _PRIOR_WEIGHT = 10.0  # as of one step with three tokens more
    _KEPT = 0.97  # of the weight of what was measured before
    _MOST = 2.0  # times what was expected counts of a step: another process had the processor
    _DRAFT_WEIGHT, _DRAFT_KEPT = (
        0.1,
        0.995,
    )  # of the newest measurement of what a draft adds, and of it with each step without

    def __init__(self) -> None:
        self._steps = self._tokens = self._squares = self._seconds = self._products = 0.0
        self.fixed_s, self.token_s = 1.0, self._PRIOR_RATIO  # until a step was measured only their ratio matters
        self.draft_s = 0.0

    def seconds(self, num_tokens: int, *, drafted: bool = False) -> float:
        """What a step of so many tokens takes."""
        return self.fixed_s + self.token_s * num_tokens + (self.draft_s if drafted else 0.0)

    def measure(self, num_tokens: int, seconds: float, *, drafted: bool = False) -> None:
        """A step took so long."""
        expected = self.seconds(num_tokens, drafted=drafted)
        if self._steps > 1:
            seconds = min(seconds, self._MOST * expected)
            surprise = seconds - expected
            if drafted:
                self.draft_s += self._DRAFT_WEIGHT * surprise
            else:
                self.draft_s = self._DRAFT_KEPT * self.draft_s - self._DRAFT_WEIGHT * surprise
            self.draft_s = max(self.draft_s, 0.0)
        self._fit(num_tokens, seconds - (self.draft_s if drafted else 0.0))

    def _fit(self, num_tokens: int, seconds: float) -> None:
        kept = self._KEPT
        self._steps = kept * self._steps + 1
        self._tokens = kept * self._tokens + num_tokens
        self._squares = kept * self._squares + num_tokens * num_tokens
        self._seconds = kept * self._seconds + seconds
        self._products = kept * self._products + num_tokens * seconds
        # Least squares, with _PRIOR_WEIGHT · (token_s - _PRIOR_RATIO · fixed_s)² added.
        ratio, weight = self._PRIOR_RATIO, self._PRIOR_WEIGHT
        steps, squares = self._steps + weight * ratio * ratio, self._squares + weight
        tokens = self._tokens - weight * ratio
        scale = 1 / (steps * squares - tokens * tokens)
        self.fixed_s = max(scale * (squares * self._seconds - tokens * self._products), 1e-9)
        self.token_s = max(scale * (steps * self._products - tokens * self._seconds), 1e-9)


@dataclass(frozen=True)
class Candidate:
    """A document that could have a draft of at most `room` tokens."""

    tracker: CopyTracker
    room: int


class DraftPolicy:
    """How long each document's draft is, by how often such drafts proved right and by what a step's tokens cost."""

    def __init__(self) -> None:
        self.cost = StepCost()
        self._acceptance = {
            True: [_IN_SOURCE[min(length, len(_IN_SOURCE)) - 1] for length in range(1, _MEASURED + 1)],
            False: [_IN_WRITTEN[0]] * _MEASURED,
        }
        self._counts = {True: [_PRIOR_COUNT] * _MEASURED, False: [_PRIOR_COUNT] * _MEASURED}

    def may_pay(self, num_documents: int, num_rows: int) -> bool:
        """Whether a draft that is nearly sure would be worth its time: not where a step's time is all by token."""
        return self._least(float(num_documents), num_rows) < _SURE

    def plan(self, candidates: Sequence[Candidate], num_documents: int, num_rows: int) -> list[str]:
        """A draft for each candidate, most of them empty; each step has a token of `num_rows` rows in any case.

        A step gives a token for each document, and of a draft as many more as prove right. A further token is drafted
        while that makes tokens come faster: if the probability of all up to it exceeds tokens a second times seconds.
        """
        lengths = [0] * len(candidates)
        expected, num_tokens = float(num_documents), num_rows
        least = self._least(expected, num_tokens)
        ahead = [
            self._probabilities(one, number)
            for number, one in enumerate(candidates)
            if self._next_acceptance(one.tracker) >= least  # else none: it only rises
        ]
        for probability, number in merge(*ahead, reverse=True) if len(ahead) > 1 else chain(*ahead):
            if probability < self._least(expected, num_tokens):
                break
            expected += probability
            num_tokens += 1
            lengths[number] += 1
        is_faster = expected * self.cost.seconds(num_rows) >= _MARGIN * num_documents * self.cost.seconds(
            num_tokens, drafted=True
        )
        drafts = []
        for one, length in zip(candidates, lengths, strict=True):
            one.tracker.num_drafted = length if is_faster else 0
            drafts.append(one.tracker.draft(length) if length and is_faster else "")
        return drafts

    def learn(self, tracker: CopyTracker, token_ids: Sequence[int]) -> None:
        """`token_ids` came, which `tracker` does not have yet: whether those of its draft are among them; if it had
        none, whether the first would have been right."""
        in_source, length = tracker.match
        if not length:
            return
        acceptance, counts = self._acceptance[in_source], self._counts[in_source]
        for expected, token_id in zip(tracker.draft(max(tracker.num_drafted, 1)), token_ids, strict=False):
            place, is_right = min(length, _MEASURED) - 1, ord(expected) == token_id
            counts[place] += 1
            acceptance[place] += max(_ACCEPTANCE_WEIGHT, 1 / counts[place]) * (is_right - acceptance[place])
            if not is_right:
                return
            length += 1

    def _least(self, expected: float, num_tokens: int) -> float:
        return _MARGIN * expected * self.cost.token_s / self.cost.seconds(num_tokens, drafted=True)

    def _next_acceptance(self, tracker: CopyTracker) -> float:
        in_source, length = tracker.match
        return self._acceptance[in_source][min(length, _MEASURED) - 1] if length else 0.0

    def _probabilities(self, candidate: Candidate, number: int) -> Iterator[tuple[float, int]]:
        tracker = candidate.tracker
        in_source, length = tracker.match
        acceptance = self._acceptance[in_source]
        probability = 1.0
        for place in range(length - 1, length - 1 + len(tracker.draft(min(candidate.room, _LONGEST_DRAFT)))):
            probability *= acceptance[min(place, _MEASURED - 1)]
            yield probability, number
