"""What the model does next: which sources to encode together, and when to decode. Pure policy.

Knows no torch, no asyncio and no clock; times come in as arguments. Its rules:

- A batch is not held back to fill up: whatever is queued when the model is free goes in.
- The first source that may go determines its batch, so none starves; sources of similar length fill it up.
- While rows are decoding, each encoder batch is followed by a decode step and is small enough to take about
  `max_stall_s`, so that running streams are not interrupted for longer.
- What decodes nothing needs no decoder rows and never waits for them. What decodes gets rows in order: once the
  first does not fit, no later one overtakes it, so that wide beams get theirs.
- The order is that of arrival, but sources that arrived together are interleaved with those that arrive later, as if
  each had arrived some sources after the one before: a request of many leaves room for those of one.
- A source over the token budget goes alone; so does one that needs more rows than there are.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from app.engine.request import Job

# How many of each kind are examined for sources of similar length; bounds the cost of a decision.
_WINDOW = 256
# Padding to twice the length costs as much as the source itself. Below 64 tokens the weights are the cost.
_SIMILAR_RATIO = 2
_SIMILAR_TOKENS = 64
# How many other sources may come between two that arrived together.
_INTERLEAVE = 32
# Deadlines of finished jobs that are kept, above as many as there are jobs; bounds how often they are removed.
_SPARE_DEADLINES = 1024
# Of the newest measurement of encoder speed.
_NEWEST_WEIGHT = 0.3


@dataclass(frozen=True)
class Encode:
    """Encode these sources as one batch; those with rows then decode."""

    keys: tuple[int, ...]


@dataclass(frozen=True)
class Decode:
    """Do one decode step over all rows in flight."""


@dataclass(frozen=True)
class Idle:
    """There is nothing to do, nothing is queued and nothing decodes."""


class Scheduler:
    """The queue, what decodes, and the choice between them.

    `max_batch_tokens` bounds an encoder batch, padding included (longest source x rows); `max_decode_rows` what
    decodes at once; `max_stall_s` how long an encoder batch may delay rows in flight.
    """

    def __init__(self, *, max_batch_tokens: int, max_decode_rows: int, max_stall_s: float) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_decode_rows = max_decode_rows
        self._max_stall_s = max_stall_s
        self._tokens_per_s: float | None = None
        self._without_rows: dict[int, Job] = {}  # queued, in order of arrival
        self._with_rows: dict[int, Job] = {}  # queued
        self._ranks: list[tuple[int, int]] = []  # of those, sorted; the second number is the key
        self._decoding: dict[int, Job] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._decode_is_next = False
        self.num_rows = 0

    @property
    def decoding(self) -> tuple[int, ...]:
        """Keys of the jobs that hold decoder rows."""
        return tuple(self._decoding)

    def add(self, job: Job) -> None:
        """Queue `job`."""
        if job.num_rows:
            self._with_rows[job.key] = job
            insort(self._ranks, queue_rank(job))
        else:
            self._without_rows[job.key] = job
        heapq.heappush(self._deadlines, (job.request.deadline, job.key))

    def remove(self, key: int) -> None:
        """Forget a job that is finished, cancelled or expired, queued or decoding; unknown keys are ignored."""
        self._without_rows.pop(key, None)
        self._dequeue(key)
        if job := self._decoding.pop(key, None):
            self.num_rows -= job.num_rows
        # Entries of what is gone stay until they come up, which a long deadline puts off.
        if len(self._deadlines) > _SPARE_DEADLINES + 2 * self._num_jobs:
            self._deadlines = [entry for entry in self._deadlines if self._is_known(entry[1])]
            heapq.heapify(self._deadlines)

    def expired(self, now: float) -> list[int]:
        """Keys of the queued and decoding jobs whose deadline has come, each returned once; they stay until removed."""
        keys = []
        while self._deadlines and self._deadlines[0][0] <= now:
            key = heapq.heappop(self._deadlines)[1]
            if self._is_known(key):
                keys.append(key)
        return keys

    @property
    def _num_jobs(self) -> int:
        return len(self._without_rows) + len(self._with_rows) + len(self._decoding)

    def _is_known(self, key: int) -> bool:
        return key in self._without_rows or key in self._with_rows or key in self._decoding

    def record_encoding(self, padded_tokens: int, seconds: float) -> None:
        """Record how fast an encoder batch was, which converts `max_stall_s` to tokens."""
        rate = padded_tokens / max(seconds, 1e-6)
        before = rate if self._tokens_per_s is None else self._tokens_per_s
        self._tokens_per_s = _NEWEST_WEIGHT * rate + (1 - _NEWEST_WEIGHT) * before

    def decide(self) -> Encode | Decode | Idle:
        """The next thing to do. Jobs in an `Encode` have left the queue; those with rows are decoding until removed."""
        if self.num_rows and self._decode_is_next:
            self._decode_is_next = False
            return Decode()
        if chosen := self._choose():
            self._decode_is_next = True
            for job in chosen:
                self._start(job)
            return Encode(tuple(job.key for job in chosen))
        return Decode() if self.num_rows else Idle()

    def _start(self, job: Job) -> None:
        if not job.num_rows:
            del self._without_rows[job.key]
            return
        self._dequeue(job.key)
        self._decoding[job.key] = job
        self.num_rows += job.num_rows

    def _dequeue(self, key: int) -> None:
        if job := self._with_rows.pop(key, None):
            del self._ranks[bisect_left(self._ranks, queue_rank(job))]

    def _choose(self) -> list[Job]:
        candidates = sorted(self._candidates(), key=queue_rank)
        if not candidates:
            return []
        first, budget, num_rows = candidates[0], self._budget(), self.num_rows
        chosen: list[Job] = []
        sources: set[int] = set()
        shortest = longest = first.num_tokens
        for job in sorted(candidates, key=lambda job: abs(job.num_tokens - first.num_tokens)):  # stable: in order
            low, high = min(shortest, job.num_tokens), max(longest, job.num_tokens)
            size = len(sources) + (job.source not in sources)
            is_affordable = size == len(sources) or high * size <= budget
            if chosen and not (is_affordable and _are_similar(low, high) and self._fits(job, num_rows)):
                continue
            chosen.append(job)
            sources.add(job.source)
            num_rows += job.num_rows
            shortest, longest = low, high
        return chosen

    def _candidates(self) -> Iterator[Job]:
        yield from islice(self._without_rows.values(), _WINDOW)
        ranks = self._ranks[:_WINDOW]
        if ranks and self._fits(self._with_rows[ranks[0][1]], self.num_rows):
            yield from (self._with_rows[key] for _, key in ranks)

    def _fits(self, job: Job, num_rows: int) -> bool:
        alone = num_rows == 0
        return not job.num_rows or alone or num_rows + job.num_rows <= self._max_decode_rows

    def _budget(self) -> float:
        if not self.num_rows or self._tokens_per_s is None:
            return self._max_batch_tokens
        return min(self._max_batch_tokens, self._max_stall_s * self._tokens_per_s)


def queue_rank(job: Job) -> tuple[int, int]:
    """The order of jobs that decode; the lower is first."""
    return job.key + _INTERLEAVE * job.place, job.key


def _are_similar(shortest: int, longest: int) -> bool:
    return longest <= max(_SIMILAR_RATIO * shortest, _SIMILAR_TOKENS)
