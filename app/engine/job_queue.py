"""The queued jobs of one priority, in the order in which they are to start. Knows no limits and no time."""

from bisect import bisect_left, insort
from itertools import islice

from app.engine.request import Job

# How many of each kind are examined for sources of similar length; bounds the cost of a decision.
_WINDOW = 256
# How many other sources may come between two that arrived together.
_INTERLEAVE = 32


class JobQueue:
    """Jobs that decode and jobs that do not, which wait for different things."""

    def __init__(self) -> None:
        self._without_rows: dict[int, Job] = {}  # in order of arrival
        self._with_rows: dict[int, Job] = {}
        self._ranks: list[tuple[int, int]] = []  # of those, sorted; the second number is the key

    def __len__(self) -> int:
        """How many wait."""
        return len(self._without_rows) + len(self._with_rows)

    def __contains__(self, key: int) -> bool:
        """Whether the job `key` waits."""
        return key in self._without_rows or key in self._with_rows

    def get(self, key: int) -> Job | None:
        """The job `key` if it waits."""
        return self._without_rows.get(key) or self._with_rows.get(key)

    def add(self, job: Job) -> None:
        """Queue `job`."""
        if job.num_rows:
            self._with_rows[job.key] = job
            insort(self._ranks, queue_rank(job))
        else:
            self._without_rows[job.key] = job

    def remove(self, key: int) -> None:
        """Forget a job; unknown keys are ignored."""
        self._without_rows.pop(key, None)
        if job := self._with_rows.pop(key, None):
            del self._ranks[bisect_left(self._ranks, queue_rank(job))]

    @property
    def first_with_rows(self) -> Job | None:
        """The job whose turn it is to get rows."""
        return self._with_rows[self._ranks[0][1]] if self._ranks else None

    def first(self, *, with_rows: bool) -> list[Job]:
        """The first jobs in order, as many as a decision looks at; those that decode only `with_rows`."""
        jobs = list(islice(self._without_rows.values(), _WINDOW))
        if with_rows:
            jobs += [self._with_rows[key] for _, key in self._ranks[:_WINDOW]]
        return sorted(jobs, key=queue_rank)


def queue_rank(job: Job) -> tuple[int, int]:
    """The order of jobs that decode; the lower is first."""
    return job.key + _INTERLEAVE * job.place, job.key
