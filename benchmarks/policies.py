"""The policies that `benchmarks.simulate` compares: the engine's own, and batches that run whole. Pure, like both."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from app.engine.request import Job
from app.engine.scheduler import Decode, Encode, Idle, Scheduler


class Policy(Protocol):
    """What the simulator asks; all but `finish` is the scheduler's own face."""

    @property
    def num_rows(self) -> int:
        """Decoder rows in flight."""

    def add(self, job: Job) -> None:
        """Queue `job`."""

    def remove(self, key: int) -> None:
        """Forget an expired job."""

    def expired(self, now: float) -> list[int]:
        """Jobs whose deadline has come."""

    def record_encoding(self, padded_tokens: int, seconds: float) -> None:
        """Record how fast an encoder batch was."""

    def decide(self, now: float) -> Encode | Decode | Idle:
        """The next thing to do."""

    def finish(self, keys: Sequence[int]) -> Sequence[int]:
        """Of the jobs `keys` that have all their tokens, those whose answers leave now, with their rows."""


class Continuous(Scheduler):
    """The engine's scheduler: a finished job leaves at once."""

    def finish(self, keys: Sequence[int]) -> Sequence[int]:
        """All of them leave."""
        for key in keys:
            self.remove(key)
        return keys


class WholeBatches:
    """Up to `max_batch_size` jobs, first come first served, padded to their longest and run until the last is done."""

    def __init__(self, max_batch_size: int) -> None:
        self.num_rows = 0
        self._max_batch_size = max_batch_size
        self._queue: deque[Job] = deque()
        self._running: dict[int, Job] = {}

    def add(self, job: Job) -> None:
        """Queue `job`."""
        self._queue.append(job)

    def remove(self, key: int) -> None:
        """Forget a queued job; one that runs has its rows until the batch ends."""
        self._queue = deque(job for job in self._queue if job.key != key)
        self._running.pop(key, None)
        if not self._running:
            self.num_rows = 0

    def expired(self, now: float) -> list[int]:
        """Jobs whose deadline has come."""
        return [job.key for job in (*self._queue, *self._running.values()) if job.request.deadline <= now]

    def record_encoding(self, padded_tokens: int, seconds: float) -> None:
        """Nothing depends on it."""

    def decide(self, now: float) -> Encode | Decode | Idle:  # noqa: ARG002
        """Run the batch to its end, then take the next."""
        if self._running:
            return Decode()
        if not self._queue:
            return Idle()
        batch = [self._queue.popleft() for _ in range(min(self._max_batch_size, len(self._queue)))]
        self._running = {job.key: job for job in batch if job.num_rows}
        self.num_rows = sum(job.num_rows for job in batch)
        return Encode(tuple(job.key for job in batch))

    def finish(self, keys: Sequence[int]) -> Sequence[int]:
        """Nobody leaves before everybody has finished."""
        if self._running.keys() - keys:
            return ()
        self._running = {}
        self.num_rows = 0
        return keys
