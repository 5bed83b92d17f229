"""How much waits, whether more may come, and when to come back if not. Knows neither requests nor the event loop."""

import math
from collections import deque
from collections.abc import Callable

from app.engine.request import Overloaded
from app.metrics import Metrics

_MAX_RETRY_S = 60
_RATE_WINDOW = 64  # moments of answering by which the recent rate is measured
_MOMENT_S = 0.1  # a batch answers many at once, which is one moment


class Admission:
    """The count of what is accepted and not yet encoded, shown in the gauges and held under its limits."""

    def __init__(self, *, max_requests: int, max_tokens: int, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._metrics = metrics
        self._clock = clock
        self._num_requests = 0
        self._num_tokens = 0
        # The start of the busy time, then the last moments in it, with the answers until then: idle time would make the
        # engine look slow.
        self._marks: deque[tuple[float, int]] = deque([(clock(), 0)], maxlen=_RATE_WINDOW)
        self._num_answers = 0

    def check(self, num_requests: int, num_tokens: int) -> None:
        """Whether as many more may queue. An empty queue takes anything: waiting would not make more room.

        Raises:
            Overloaded: they may not.
        """
        if not self._num_requests:
            return
        for what, value, limit in (
            ("sources", self._num_requests + num_requests, self._max_requests),
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
        self._marks.append((self._clock(), self._num_answers))

    def answered(self) -> None:
        """A request has got its answer."""
        self._num_answers += 1
        now, (last, _) = self._clock(), self._marks[-1]
        if len(self._marks) > 1 and now - last < _MOMENT_S:
            self._marks[-1] = (last, self._num_answers)
        else:
            self._marks.append((now, self._num_answers))

    def _retry_after_s(self) -> int:
        """When the queue will be empty at the recent rate of answers."""
        since, answers_before = self._marks[0]
        num_answers = self._num_answers - answers_before
        if num_answers < 1:
            return 1
        seconds = self._num_requests * (self._clock() - since) / num_answers
        return min(max(math.ceil(seconds), 1), _MAX_RETRY_S)
