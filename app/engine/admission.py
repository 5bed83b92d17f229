"""The queue's limits: how much waits, and whether more is admitted. Knows neither requests nor the event loop."""

from collections.abc import Callable

from app.engine.request import Overloaded, Priority
from app.metrics import Metrics


def half_of(queue: int) -> int:
    """The most that one request may take of a queue."""
    return max(1, queue // 2)


class Admission:
    """The count of what is accepted and not yet encoded, published in the gauges and kept under its limits.

    Of each limit, work of priority batch may use half, so that there is room for what is not to wait behind it.
    """

    def __init__(
        self, *, max_requests: int, max_tokens: int, metrics: Metrics, retry_after_s: Callable[[], int]
    ) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._metrics = metrics
        self._retry_after_s = retry_after_s
        self._num_requests: dict[Priority, int] = {"interactive": 0, "batch": 0}
        self._num_tokens: dict[Priority, int] = {"interactive": 0, "batch": 0}
        metrics.queue_requests_limit.set(max_requests)
        metrics.queue_tokens_limit.set(max_tokens)

    @property
    def num_requests(self) -> int:
        """Sources in the queue."""
        return sum(self._num_requests.values())

    def check(self, num_requests: int, num_tokens: int, priority: Priority) -> None:
        """Refuse as many more if they exceed a limit. An empty queue admits anything: waiting would not make more room.

        Raises:
            Overloaded: the queue is full.
        """
        for what, counts, more, limit in (
            ("sources", self._num_requests, num_requests, self._max_requests),
            ("tokens", self._num_tokens, num_tokens, self._max_tokens),
        ):
            self._check_one(what, sum(counts.values()), more, limit)
            if priority == "batch":
                self._check_one(f"{what} of priority batch", counts["batch"], more, half_of(limit))

    def _check_one(self, what: str, waiting: int, more: int, limit: int) -> None:
        if waiting and waiting + more > limit:
            retry_after_s = self._retry_after_s()
            advice = f"{limit} are allowed; retry in {retry_after_s} s"
            raise Overloaded(
                f"the queue is full: with this request {waiting + more} {what}, {advice}", retry_after_s, "queue"
            )

    def enter(self, num_requests: int, num_tokens: int, priority: Priority) -> None:
        """Count as many more."""
        self._num_requests[priority] += num_requests
        self._num_tokens[priority] += num_tokens
        self._metrics.queue_requests.inc(num_requests)
        self._metrics.queue_tokens.inc(num_tokens)

    def leave(self, num_tokens: int, priority: Priority) -> None:
        """A source of `num_tokens` has left the queue."""
        self.enter(-1, -num_tokens, priority)
