"""Counting what waits and refusing what is too much."""

import pytest

from app.engine.admission import Admission
from app.engine.request import Overloaded
from app.metrics import Metrics


def admission(metrics: Metrics | None = None) -> Admission:
    return Admission(max_requests=10, max_tokens=100, metrics=metrics or Metrics(), retry_after_s=lambda: 7)


def test_limits_hold_to_the_last_request_and_the_last_token() -> None:
    queue = admission()
    queue.enter(8, 80)
    queue.check(2, 20)
    with pytest.raises(Overloaded, match="11 sources, 10 are allowed"):
        queue.check(3, 3)
    with pytest.raises(Overloaded, match="101 tokens, 100 are allowed"):
        queue.check(1, 21)
    with pytest.raises(Overloaded, match="retry in 7 s") as refused:
        queue.check(3, 3)
    assert (refused.value.retry_after_s, refused.value.place) == (7, "queue")


def test_empty_queue_takes_what_is_over_the_limit_by_itself() -> None:
    admission().check(11, 1000)


def test_gauges_show_what_waits() -> None:
    metrics = Metrics()
    queue = admission(metrics)
    queue.enter(2, 30)
    queue.leave(10)
    assert metrics.registry.get_sample_value("leximind_queue_requests") == 1
    assert metrics.registry.get_sample_value("leximind_queue_tokens") == 20
