"""How much waits, whether more may come, and when to come back if not. Knows neither requests nor the event loop."""

import math
from collections import deque
from collections.abc import Callable

from app.engine.request import Overloaded
from app.metrics import Metrics

_MAX_RETRY_S = 60
_RATE_WINDOW = 64  # answers by which the recent rate is measured


class Admission:
    """The count of what is accepted and not yet encoded, shown in the gauges and held under its limits."""

    def __init__(self, *, max_requests: int, max_tokens: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._metrics = metrics
        self._clock = clock
        self._num_requests = 0
        self._num_tokens = 0
        # The start of the busy time, then the last answers in it: idle time would make the engine look slow.
        self._marks: deque[float] = deque(maxlen=_RATE_WINDOW)

    def check(self, num_requests: int, num_tokens: int) -> None:
        """Whether as many more may queue. An empty queue takes anything: waiting would not make more room.

        Raises:
            Overloaded: they may not.
        """
        if not self._num_requests:
            return
        for what, value, limit in (
            ("requests", self._num_requests + num_requests, self._max_requests),
            ("tokens", self._num_tokens + num_tokens, self._max_tokens),
        ):
            if value > limit:
                retry_after_s = self._retry_after_s()
                advice = f"{limit} are allowed; retry in {retry_after_s} s"
                raise Overloaded(f"the queue is full: with this request {value} {what}, {advice}", retry_after_s)

    def enter(self, num_requests: int, num_tokens: int) -> None:
        """As many more wait."""
        self._num_requests += num_requests
        self._num_tokens += num_tokens
        self._metrics.queue_requests.set(self._num_requests)
        self._metrics.queue_tokens.set(self._num_tokens)

    def leave(self, num_tokens: int) -> None:
        """A source of `num_tokens` waits no more."""
        self.enter(-1, -num_tokens)

    def begin(self) -> None:
        """The engine was idle and now is not."""
        self._marks.clear()
        self._marks.append(self._clock())

    def answered(self) -> None:
        """A request has got its answer."""
        self._marks.append(self._clock())

    def _retry_after_s(self) -> int:
        """When the queue will be empty at the recent rate of answers."""
        num_answers = len(self._marks) - 1
        if num_answers < 1:
            return 1
        seconds = self._num_requests * (self._clock() - self._marks[0]) / num_answers
        return min(max(math.ceil(seconds), 1), _MAX_RETRY_S)
