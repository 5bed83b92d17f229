"""Counting what waits, refusing what is too much, and saying when to come back."""

import pytest

from app.engine.admission import Admission
from app.engine.request import Overloaded
from app.metrics import Metrics


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(clock: Clock, metrics: Metrics | None = None) -> Admission:
    return Admission(max_requests=10, max_tokens=100, metrics=metrics or Metrics(), clock=clock)


def test_limits_hold_to_the_last_request_and_the_last_token() -> None:
    queue = admission(Clock())
    queue.enter(8, 80)
    queue.check(2, 20)
    with pytest.raises(Overloaded, match="11 sources, 10 are allowed"):
        queue.check(3, 3)
    with pytest.raises(Overloaded, match="101 tokens, 100 are allowed"):
        queue.check(1, 21)


def test_empty_queue_takes_what_is_over_the_limit_by_itself() -> None:
    admission(Clock()).check(11, 1000)


def test_gauges_show_what_waits() -> None:
    metrics = Metrics()
    queue = admission(Clock(), metrics)
    queue.enter(2, 30)
    queue.leave(10)
    assert metrics.registry.get_sample_value("leximind_queue_requests") == 1
    assert metrics.registry.get_sample_value("leximind_queue_tokens") == 20


def retry_after_s(queue: Admission) -> int:
    with pytest.raises(Overloaded) as refused:
        queue.check(11, 1)
    return refused.value.retry_after_s


def test_retry_follows_the_rate_of_the_busy_time() -> None:
    clock = Clock()
    queue = admission(clock)
    queue.enter(10, 10)
    assert retry_after_s(queue) == 1, "nothing is known yet"
    queue.begin()
    queue.answered()
    clock.now = 500.0  # idle until now, which must not count
    queue.begin()
    for _ in range(4):
        clock.now += 1.5
        queue.answered()
    assert retry_after_s(queue) == 15, "ten wait, one is answered in 1.5 s"


def test_retry_does_not_depend_on_the_moment_within_a_batch() -> None:
    clock = Clock()
    queue = admission(clock)
    queue.enter(10, 10)
    queue.begin()
    for _ in range(5):  # batches of 256 answers, 4 s apart
        clock.now += 4.0
        for _ in range(256):
            queue.answered()
    queue.enter(2990, 0)
    for later in (0.01, 1.0, 3.9):
        clock.now = 20.0 + later
        assert 46 <= retry_after_s(queue) <= 57, "3,000 wait, 64 a second are answered"


def test_retry_is_never_longer_than_a_minute() -> None:
    clock = Clock()
    queue = admission(clock)
    queue.enter(10, 10)
    queue.begin()
    clock.now = 1000.0
    queue.answered()
    assert retry_after_s(queue) == 60
