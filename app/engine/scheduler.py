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
- An encoder batch is of one priority. Those of `batch` come when no interactive work is there, and otherwise once in
  `BATCH_TURN` encoder batches and decode steps; rows that decode are never paused for either.
- As long as interactive work keeps coming, work of `batch` stays small: few sources a batch and few rows, since what
  comes next waits for the one, and decodes beside the other.
"""

import heapq
import math
from collections.abc import Collection
from dataclasses import dataclass

from app.engine.job_queue import JobQueue
from app.engine.request import Job, Priority

# Of so many encoder batches and steps one encodes what waits of `batch`, however much interactive work there is.
BATCH_TURN = 8
# Without interactive work for so long, that of `batch` has all rows and whole batches.
QUIET_S = 30.0
# Padding to twice the length costs as much as the source itself. Below 64 tokens the weights are the cost.
_SIMILAR_RATIO = 2
_SIMILAR_TOKENS = 64
# Of work of `batch`, for each row that it may have, while interactive work keeps coming: half a short source.
_BATCH_WORK_TOKENS = 32
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


@dataclass(frozen=True)
class Retry:
    """How much is tried at once until the jobs that memory did not suffice for have ended.

    `num_sources` of an encoder batch, `num_rows` that decode; with `alone` one of these jobs has the model to itself.
    """

    num_sources: float = math.inf
    num_rows: float = math.inf
    alone: bool = False


@dataclass(frozen=True)
class _Bounds:
    """Of an encoder batch: padded tokens, distinct sources, and the rows that its priority may hold at once."""

    num_tokens: float
    num_sources: float
    num_rows: float


class Scheduler:
    """The queues, what decodes, and the choice between them.

    `max_batch_tokens` bounds an encoder batch, padding included (longest source x rows); `max_decode_rows` what
    decodes at once; `max_stall_s` how long an encoder batch may delay rows in flight; `max_batch_work_rows` what of
    priority `batch` decodes at once, and is encoded at once, as long as interactive work keeps coming.
    """

    def __init__(
        self, *, max_batch_tokens: int, max_decode_rows: int, max_stall_s: float, max_batch_work_rows: int
    ) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_decode_rows = max_decode_rows
        self._max_stall_s = max_stall_s
        self._max_batch_work_rows = max_batch_work_rows
        self._tokens_per_s: float | None = None
        self._queues: dict[Priority, JobQueue] = {"interactive": JobQueue(), "batch": JobQueue()}
        self._rows: dict[Priority, int] = {"interactive": 0, "batch": 0}  # in flight
        self._decoding: dict[int, Job] = {}
        self._retried: set[int] = set()
        self._retry = Retry()
        self._deadlines: list[tuple[float, int]] = []
        self._decode_is_next = False
        self._num_passed = 0  # encoder batches and steps since work of `batch` waits for its turn
        self._interactive_at = -math.inf  # when interactive work was last seen

    @property
    def num_rows(self) -> int:
        """Decoder rows in flight."""
        return sum(self._rows.values())

    @property
    def decoding(self) -> tuple[int, ...]:
        """Keys of the jobs that hold decoder rows."""
        return tuple(self._decoding)

    def add(self, job: Job) -> None:
        """Queue `job`."""
        self._queues[job.request.priority].add(job)
        heapq.heappush(self._deadlines, (job.request.deadline, job.key))

    def remove(self, key: int) -> None:
        """Forget a job that is finished, cancelled or expired, queued or decoding; unknown keys are ignored."""
        for queue in self._queues.values():
            queue.remove(key)
        self._stop(key)
        self._retried.discard(key)
        if not self._retried:
            self._retry = Retry()
        # Entries of what is gone stay until they come up, which a long deadline puts off.
        if len(self._deadlines) > _SPARE_DEADLINES + 2 * self._num_jobs:
            self._deadlines = [entry for entry in self._deadlines if self._is_known(entry[1])]
            heapq.heapify(self._deadlines)

    def retry(self, jobs: Collection[Job], bounds: Retry) -> None:
        """Queue `jobs` again, which were encoding or decoding when memory did not suffice. `bounds` hold besides those
        of earlier ones."""
        for job in jobs:
            self._stop(job.key)
            self._queues[job.request.priority].add(job)
            self._retried.add(job.key)
        self._retry = Retry(
            min(self._retry.num_sources, bounds.num_sources),
            min(self._retry.num_rows, bounds.num_rows),
            self._retry.alone or bounds.alone,
        )

    def is_retried(self, key: int) -> bool:
        """Whether the job `key` has been queued again."""
        return key in self._retried

    def _stop(self, key: int) -> None:
        if job := self._decoding.pop(key, None):
            self._rows[job.request.priority] -= job.num_rows

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
        return sum(map(len, self._queues.values())) + len(self._decoding)

    def _is_known(self, key: int) -> bool:
        return key in self._decoding or any(key in queue for queue in self._queues.values())

    def record_encoding(self, padded_tokens: int, seconds: float) -> None:
        """Record how fast an encoder batch was, which converts `max_stall_s` to tokens."""
        rate = padded_tokens / max(seconds, 1e-6)
        before = rate if self._tokens_per_s is None else self._tokens_per_s
        self._tokens_per_s = _NEWEST_WEIGHT * rate + (1 - _NEWEST_WEIGHT) * before

    def decide(self, now: float) -> Encode | Decode | Idle:
        """The next thing to do. Jobs in an `Encode` have left the queue; those with rows are decoding until removed."""
        if self._queues["interactive"] or self._rows["interactive"]:
            self._interactive_at = now
        if self.num_rows and self._decode_is_next:
            return self._decode()
        if chosen := self._choose(is_quiet=now - self._interactive_at > QUIET_S):
            self._decode_is_next = True
            for job in chosen:
                self._start(job)
            return Encode(tuple(job.key for job in chosen))
        return self._decode() if self.num_rows else Idle()

    def _decode(self) -> Decode:
        self._decode_is_next = False
        if self._rows["interactive"] and self._queues["batch"]:
            self._num_passed += 1
        return Decode()

    def _start(self, job: Job) -> None:
        self._queues[job.request.priority].remove(job.key)
        if job.num_rows:
            self._decoding[job.key] = job
            self._rows[job.request.priority] += job.num_rows

    def _choose(self, *, is_quiet: bool) -> list[Job]:
        if self._retry.alone:
            return self._choose_alone()
        order: tuple[Priority, ...] = ("interactive", "batch")
        if self._num_passed >= BATCH_TURN - 1:
            order = ("batch", "interactive")
        elif self._rows["interactive"]:  # whose next token would wait for the batch
            order = ("interactive",)
        rows_are_kept = False  # for one of the priority before that waits until there are enough
        for priority in order:
            queue, bounds = self._queues[priority], self._bounds(priority, is_quiet=is_quiet)
            first = queue.first_with_rows
            fits = first is not None and not rows_are_kept and self._fits(first, 0, bounds)
            if chosen := self._fill(queue.first(with_rows=fits), bounds):
                is_passed = priority == "interactive" and len(self._queues["batch"]) > 0
                self._num_passed = self._num_passed + 1 if is_passed else 0
                return chosen
            rows_are_kept = first is not None and self._may_hold(first, 0, bounds)
        return []

    def _choose_alone(self) -> list[Job]:
        queued = [job for key in sorted(self._retried) for queue in self._queues.values() if (job := queue.get(key))]
        return queued[:1] if not self.num_rows else []

    def _fill(self, candidates: list[Job], bounds: _Bounds) -> list[Job]:
        """The first of `candidates` with those that it takes along."""
        if not candidates:
            return []
        first, num_rows = candidates[0], 0
        chosen: list[Job] = []
        sources: set[int] = set()
        shortest = longest = first.num_tokens
        for job in sorted(candidates, key=lambda job: abs(job.num_tokens - first.num_tokens)):  # stable: in order
            low, high = min(shortest, job.num_tokens), max(longest, job.num_tokens)
            size = len(sources) + (job.source not in sources)
            is_affordable = size == len(sources) or (high * size <= bounds.num_tokens and size <= bounds.num_sources)
            if chosen and not (is_affordable and _are_similar(low, high) and self._fits(job, num_rows, bounds)):
                continue
            chosen.append(job)
            sources.add(job.source)
            num_rows += job.num_rows
            shortest, longest = low, high
        return chosen

    def _fits(self, job: Job, num_chosen: int, bounds: _Bounds) -> bool:
        """Whether there are rows for `job` beside what decodes and the `num_chosen` of its batch."""
        others = self.num_rows + num_chosen
        is_alone = others == 0
        return not job.num_rows or (
            (is_alone or others + job.num_rows <= min(self._max_decode_rows, self._retry.num_rows))
            and self._may_hold(job, num_chosen, bounds)
        )

    def _may_hold(self, job: Job, num_chosen: int, bounds: _Bounds) -> bool:
        """Whether its priority may hold the rows of `job` too, once there are as many."""
        own = self._rows[job.request.priority] + num_chosen
        return own == 0 or own + job.num_rows <= bounds.num_rows

    def _bounds(self, priority: Priority, *, is_quiet: bool) -> _Bounds:
        num_tokens: float = self._max_batch_tokens
        if self._tokens_per_s is not None and (self.num_rows or priority == "batch"):
            num_tokens = min(num_tokens, self._max_stall_s * self._tokens_per_s)
        if priority == "interactive" or is_quiet:
            return _Bounds(num_tokens, self._retry.num_sources, math.inf)
        most = self._max_batch_work_rows
        return _Bounds(min(num_tokens, most * _BATCH_WORK_TOKENS), min(most, self._retry.num_sources), most)


def _are_similar(shortest: int, longest: int) -> bool:
    return longest <= max(_SIMILAR_RATIO * shortest, _SIMILAR_TOKENS)
