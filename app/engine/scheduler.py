"""What the model does next: which sources to encode together, and when to decode. Pure policy.

Knows no torch, no asyncio and no clock; times come in as arguments. Decisions it stands by:

- Nothing waits for company: whatever is queued when the model is free goes in.
- The first source that may go leads its batch, so nobody starves; sources of like length fill it up.
- While rows are decoding, each encoder batch is followed by a decode step and is small enough to take about
  `max_stall_s`, so that running streams do not stutter.
- What decodes nothing needs no decoder rows and never waits for them. What decodes takes rows in turn: once the
  first does not fit, no later one passes it, so that wide beams come to theirs.
- The turn is that of arrival, but sources that were asked together come one by one among those that arrive later, as
  if each had arrived some sources after the one before: a request of many leaves room for those of one.
- A source over the token budget goes alone; so does a request for more rows than there are.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

# How many of each kind are looked at for sources of like length; bounds the cost of a decision.
_WINDOW = 256
# Padding to twice the length costs as much as the source itself. Below 64 tokens the weights are the cost.
_LIKE_RATIO = 2
_LIKE_TOKENS = 64
# How many sources of others may come between two that were asked together.
_APART = 32
# Deadlines of finished jobs that are kept, above as many as there are jobs; bounds how often they are sorted out.
_SPARE_DEADLINES = 1024
# Weight of the newest measurement of encoder speed.
_NEWEST = 0.3


@dataclass(frozen=True)
class Job:
    """One accepted source. Keys grow with arrival; `place` is that among the sources that were asked together.

    `source` is equal for equal sources, which are encoded once. `num_rows` is the number of decoder rows that
    it will hold: its beams, or 0 when nothing is decoded. `deadline` is on the clock of `Scheduler.expired`.
    """

    key: int
    source: int
    num_tokens: int
    num_rows: int
    deadline: float
    place: int = 0

    @property
    def turn(self) -> tuple[int, int]:
        """What is lower comes first."""
        return self.key + _APART * self.place, self.key


@dataclass(frozen=True)
class Encode:
    """Encode these sources as one batch; those with rows then decode."""

    keys: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """Do one decode step over all rows in flight."""


@dataclass(frozen=True)
class Idle:
    """There is nothing to do, nothing is queued and nothing decodes."""


class Scheduler:
    """The queue, what decodes, and the choice between them.

    `max_batch_tokens` bounds an encoder batch, padding included (longest source x rows); `max_decode_rows` what
    decodes at once; `max_stall_s` how long an encoder batch may hold up rows in flight.
    """

    def __init__(self, *, max_batch_tokens: int, max_decode_rows: int, max_stall_s: float) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_decode_rows = max_decode_rows
        self._max_stall_s = max_stall_s
        self._tokens_per_s: float | None = None
        self._classifying: dict[int, Job] = {}  # queued, in order of arrival
        self._summarizing: dict[int, Job] = {}  # queued
        self._turns: list[tuple[int, int]] = []  # of those, sorted; the second number is the key
        self._decoding: dict[int, Job] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._owes_step = False
        self.num_rows = 0

    @property
    def decoding(self) -> tuple[int, ...]:
        """Keys of the jobs that hold decoder rows."""
        return tuple(self._decoding)

    def add(self, job: Job) -> None:
        """Queue `job`."""
        if job.num_rows:
            self._summarizing[job.key] = job
            insort(self._turns, job.turn)
        else:
            self._classifying[job.key] = job
        heapq.heappush(self._deadlines, (job.deadline, job.key))

    def remove(self, key: int) -> None:
        """Forget a job that is finished, cancelled or expired, queued or decoding; unknown keys are ignored."""
        self._classifying.pop(key, None)
        self._take_summarizing(key)
        if job := self._decoding.pop(key, None):
            self.num_rows -= job.num_rows
        # Entries of what is gone stay until they come up, which a long deadline puts off.
        if len(self._deadlines) > _SPARE_DEADLINES + 2 * self._num_jobs:
            self._deadlines = [entry for entry in self._deadlines if self._is_known(entry[1])]
            heapq.heapify(self._deadlines)

    def expired(self, now: float) -> list[int]:
        """Keys of the queued and decoding jobs whose deadline has come; each is told once and stays until removed."""
        keys = []
        while self._deadlines and self._deadlines[0][0] <= now:
            key = heapq.heappop(self._deadlines)[1]
            if self._is_known(key):
                keys.append(key)
        return keys

    @property
    def _num_jobs(self) -> int:
        return len(self._classifying) + len(self._summarizing) + len(self._decoding)

    def _is_known(self, key: int) -> bool:
        return key in self._classifying or key in self._summarizing or key in self._decoding

    def encoded(self, padded_tokens: int, seconds: float) -> None:
        """Learn how fast the encoder is; `max_stall_s` becomes tokens by this."""
        rate = padded_tokens / max(seconds, 1e-6)
        self._tokens_per_s = rate if self._tokens_per_s is None else _NEWEST * rate + (1 - _NEWEST) * self._tokens_per_s

    def decide(self) -> Encode | Step | Idle:
        """The next thing to do. Jobs in an `Encode` have left the queue; those with rows are decoding until removed."""
        if self.num_rows and self._owes_step:
            self._owes_step = False
            return Step()
        if chosen := self._choose():
            self._owes_step = True
            for job in chosen:
                self._start(job)
            return Encode(tuple(job.key for job in chosen))
        return Step() if self.num_rows else Idle()

    def _start(self, job: Job) -> None:
        if not job.num_rows:
            del self._classifying[job.key]
            return
        self._take_summarizing(job.key)
        self._decoding[job.key] = job
        self.num_rows += job.num_rows

    def _take_summarizing(self, key: int) -> None:
        if job := self._summarizing.pop(key, None):
            del self._turns[bisect_left(self._turns, job.turn)]

    def _choose(self) -> list[Job]:
        candidates = sorted(self._candidates(), key=lambda job: job.turn)
        if not candidates:
            return []
        first, budget, num_rows = candidates[0], self._budget(), self.num_rows
        chosen: list[Job] = []
        sources: set[int] = set()
        shortest = longest = first.num_tokens
        for job in sorted(candidates, key=lambda job: abs(job.num_tokens - first.num_tokens)):  # stable: in turn
            low, high = min(shortest, job.num_tokens), max(longest, job.num_tokens)
            size = len(sources) + (job.source not in sources)
            is_affordable = size == len(sources) or high * size <= budget
            if chosen and not (is_affordable and _alike(low, high) and self._fits(job, num_rows)):
                continue
            chosen.append(job)
            sources.add(job.source)
            num_rows += job.num_rows
            shortest, longest = low, high
        return chosen

    def _candidates(self) -> Iterator[Job]:
        yield from islice(self._classifying.values(), _WINDOW)
        turns = self._turns[:_WINDOW]
        if turns and self._fits(self._summarizing[turns[0][1]], self.num_rows):
            yield from (self._summarizing[key] for _, key in turns)

    def _fits(self, job: Job, num_rows: int) -> bool:
        alone = num_rows == 0
        return not job.num_rows or alone or num_rows + job.num_rows <= self._max_decode_rows

    def _budget(self) -> float:
        if not self.num_rows or self._tokens_per_s is None:
            return self._max_batch_tokens
        return min(self._max_batch_tokens, self._max_stall_s * self._tokens_per_s)


def _alike(shortest: int, longest: int) -> bool:
    return longest <= max(_LIKE_RATIO * shortest, _LIKE_TOKENS)
