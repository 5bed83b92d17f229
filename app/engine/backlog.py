"""When to retry: how long what is accepted will take, at the measured rate. Knows no requests."""

import math
from collections import deque
from collections.abc import Callable

_MAX_RETRY_S = 60
_RATE_WINDOW = 64  # samples by which the recent rate is measured
_SAMPLE_S = 0.1  # a batch finishes many at once, which is one sample
_MIN_BUSY_S = 0.5  # before which the rate of the busy period before is used


class Stage:
    """What one worker has still to do, in a unit of its own, and how fast it is done.

    Idle time does not count, or the rate would come out too low.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._amount = 0
        self._num_done = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=_RATE_WINDOW)  # since it is busy: (time, done until then)
        self._rate_before: float | None = None

    @property
    def amount(self) -> int:
        """What is accepted and neither done nor dropped."""
        return self._amount

    def accept(self, amount: int) -> None:
        """Add `amount` to what is to be done."""
        if not self._amount:
            self._rate_before = self._rate()
            self._marks.clear()
            self._marks.append((self._clock(), self._num_done))
        self._amount += amount

    def finish(self, amount: int) -> None:
        """Count `amount` as done."""
        self._amount -= amount
        self._num_done += amount
        now, (last, _) = self._clock(), self._marks[-1]
        if len(self._marks) > 1 and now - last < _SAMPLE_S:
            self._marks[-1] = (last, self._num_done)
        else:
            self._marks.append((now, self._num_done))

    def drop(self, amount: int) -> None:
        """Remove `amount`, which will not be done."""
        self._amount -= amount

    def seconds(self) -> float:
        """Until all is done; 0 while nothing is known of the rate."""
        rate = self._rate()
        return self._amount / rate if rate else 0.0

    def _rate(self) -> float | None:
        if not self._marks:
            return None
        since, done_before = self._marks[0]
        until = self._clock() if self._amount else self._marks[-1][0]
        seconds, num_done = until - since, self._num_done - done_before
        if num_done and (seconds >= _MIN_BUSY_S or self._rate_before is None):
            return num_done / max(seconds, 1e-3)
        return self._rate_before


class Backlog:
    """The stages that a request passes one after the other; every refusal gives the same time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stages: list[Stage] = []

    def add_stage(self) -> Stage:
        """Append a stage."""
        self._stages.append(Stage(self._clock))
        return self._stages[-1]

    def retry_after_s(self) -> int:
        """Whole seconds, 1 to 60, until what is accepted by now is answered."""
        seconds = sum(stage.seconds() for stage in self._stages)
        return min(max(math.ceil(seconds), 1), _MAX_RETRY_S)
