"""The simulator: nothing is lost, the same trace gives the same story, and the numbers are those of hand arithmetic."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.policies import Continuous, Policy, WholeBatches
from benchmarks.simulate import COSTS, Costs, Request, main, poisson, read_trace, simulate, summary

FLAT = Costs(encode_s=0.1, encode_s_per_token=0.0, step_s=0.01, step_s_per_row=0.0)
REQUESTS = st.builds(
    Request,
    at_s=st.floats(0, 20),
    source_tokens=st.integers(1, 600),
    new_tokens=st.integers(0, 40),
    beams=st.integers(1, 8),
)


def policies() -> list[Policy]:
    return [
        Continuous(max_batch_tokens=512, max_decode_rows=8, max_stall_s=0.1, max_batch_work_rows=4),
        WholeBatches(4),
    ]


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, max_size=30).map(lambda many: sorted(many, key=lambda one: one.at_s)))
@pytest.mark.parametrize("index", [0, 1])
def test_every_request_is_answered_once_and_after_its_arrival(index: int, requests: list[Request]) -> None:
    story = simulate(requests, policies()[index], COSTS["cpu"])
    assert story.answered_at.keys() == set(range(len(requests)))
    assert not story.expired
    for key, request in enumerate(requests):
        assert request.at_s <= story.encoded_at[key] < story.answered_at[key]


@settings(max_examples=30, deadline=None)
@given(requests=st.lists(REQUESTS, max_size=30).map(lambda many: sorted(many, key=lambda one: one.at_s)))
@pytest.mark.parametrize("index", [0, 1])
def test_a_request_is_answered_or_expires_and_never_both(index: int, requests: list[Request]) -> None:
    story = simulate(requests, policies()[index], COSTS["cpu"], deadline_s=0.5)
    assert story.expired | story.answered_at.keys() == set(range(len(requests)))
    assert not story.expired & story.answered_at.keys()


def test_the_same_trace_gives_the_same_story() -> None:
    first, second = (
        simulate(
            poisson(3, 60, seed=1),
            Continuous(max_batch_tokens=2048, max_decode_rows=16, max_stall_s=0.2, max_batch_work_rows=4),
            FLAT,
        )
        for _ in range(2)
    )
    assert summary(first) == summary(second)
    assert first.answered_at == second.answered_at


def test_a_request_alone_takes_its_encoding_and_its_steps() -> None:
    story = simulate([Request(1.0, 100, 10)], policies()[0], FLAT)
    assert story.answered_at[0] == pytest.approx(1.0 + 0.1 + 10 * 0.01)


def test_in_flight_a_short_request_does_not_wait_for_a_long_one_and_in_whole_batches_it_does() -> None:
    requests = [Request(0.0, 100, 100), Request(0.0, 100, 5)]
    in_flight, whole = (simulate(requests, policy, FLAT) for policy in policies())
    assert in_flight.answered_at[1] == pytest.approx(0.1 + 5 * 0.01)
    assert whole.answered_at[1] == whole.answered_at[0] == pytest.approx(0.1 + 100 * 0.01)


def test_an_encoding_that_holds_up_rows_in_flight_is_counted_as_a_stall() -> None:
    story = simulate([Request(0.0, 100, 50), Request(0.2, 100, 5)], policies()[0], FLAT)
    assert story.stalls == [0.1]


def test_an_unanswered_request_makes_the_tail_infinite() -> None:
    story = simulate([Request(0.0, 100, 50)], policies()[0], FLAT, deadline_s=0.2)
    assert summary(story)["p50"] == math.inf
    assert summary(story)["expired"] == 1


def test_a_trace_is_read_in_order_of_arrival(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"at_s": 2.0, "source_tokens": 7, "new_tokens": 3, "beams": 4},
        {"at_s": 1.0, "source_tokens": 9, "new_tokens": 0},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_trace(path) == [Request(1.0, 9, 0), Request(2.0, 7, 3, 4)]
    main(["--trace", str(path)])
    assert "whole batches of 16" in capsys.readouterr().out
