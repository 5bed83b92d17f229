"""Counting what waits and refusing what is too much."""

import pytest

from app.engine.admission import Admission
from app.engine.request import Overloaded
from app.metrics import Metrics


def admission(metrics: Metrics | None = None) -> Admission:
    return Admission(max_requests=10, max_tokens=100, metrics=metrics or Metrics(), retry_after_s=lambda: 7)


def test_limits_hold_to_the_last_request_and_the_last_token() -> None:
    queue = admission()
    queue.enter(8, 80, "interactive")
    queue.check(2, 20, "interactive")
    with pytest.raises(Overloaded, match="11 sources, 10 are allowed"):
        queue.check(3, 3, "interactive")
    with pytest.raises(Overloaded, match="101 tokens, 100 are allowed"):
        queue.check(1, 21, "interactive")
    with pytest.raises(Overloaded, match="retry in 7 s") as refused:
        queue.check(3, 3, "interactive")
    assert (refused.value.retry_after_s, refused.value.place) == (7, "queue")


def test_empty_queue_takes_what_is_over_the_limit_by_itself() -> None:
    admission().check(11, 1000, "interactive")


def test_gauges_show_what_waits() -> None:
    metrics = Metrics()
    queue = admission(metrics)
    queue.enter(2, 30, "interactive")
    queue.leave(10, "interactive")
    assert metrics.registry.get_sample_value("leximind_queue_requests") == 1
    assert metrics.registry.get_sample_value("leximind_queue_tokens") == 20


def test_batch_work_leaves_half_of_the_queue_to_interactive() -> None:
    queue = admission()
    queue.enter(4, 40, "batch")
    queue.check(1, 10, "batch")
    with pytest.raises(Overloaded, match="6 sources of priority batch, 5 are allowed"):
        queue.check(2, 2, "batch")
    with pytest.raises(Overloaded, match="51 tokens of priority batch, 50 are allowed"):
        queue.check(1, 11, "batch")
    queue.check(6, 60, "interactive")
    queue.enter(6, 60, "interactive")
    with pytest.raises(Overloaded, match="11 sources, 10 are allowed"):
        queue.check(1, 1, "batch")
    for _ in range(4):
        queue.leave(10, "batch")
    queue.check(4, 40, "batch")
