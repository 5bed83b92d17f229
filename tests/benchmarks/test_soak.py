"""What a soak counts as wrong: an answer that differs, and what a process holds that grows."""

import copy
import random
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.soak import REFUSED, cases, equal
from benchmarks.vitals import Vitals, growth

QUIET = Vitals(0.0, 300.0, 9, 3)


def looks(*resident_mb: float) -> list[Vitals]:
    return [Vitals(float(number), one, 20, 5) for number, one in enumerate(resident_mb)]


def test_memory_that_rises_and_what_stays_open_are_growth() -> None:
    flat = looks(*[300, 320] * 10)
    assert growth(flat, QUIET, QUIET) == []
    rising = looks(*(300 + 10 * number for number in range(20)))
    assert growth(rising, QUIET, QUIET) == ["resident memory from 355 to 475 MB"]
    assert growth(flat, QUIET, replace(QUIET, threads=4)) == ["threads from 3 to 4"]
    assert growth(flat, QUIET, replace(QUIET, descriptors=10)) == ["descriptors from 9 to 10"]
    assert growth(flat, QUIET, replace(QUIET, descriptors=8)) == []


SCORES = [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.25}]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"summary": "A b.", "scores": SCORES}, True),
        ({"summary": "A b.", "scores": [SCORES[1], {"label": "a", "score": 0.500001}]}, True),
        ({"summary": "A b!", "scores": SCORES}, False),
        ({"summary": "A b.", "scores": [SCORES[1], {"label": "a", "score": 0.50001}]}, False),
        ({"summary": "A b.", "scores": SCORES[:1]}, False),
        ({"summary": "A b."}, False),
    ],
)
def test_answers_are_equal_but_for_last_digits(other: Any, same: bool) -> None:
    assert equal({"summary": "A b.", "scores": copy.deepcopy(SCORES)}, other) is same


def test_cases_are_the_same_for_a_seed_and_have_every_task_and_decoding() -> None:
    made = cases(48, random.Random(0))
    assert made == cases(48, random.Random(0))
    assert {case.path for case in made} == {"/summarize", "/topic", "/emotions", "/analyze", "/classify/topic"}
    summaries = [case.body for case in made if case.path == "/summarize"]
    for option in ("num_beams", "do_sample", "repetition_penalty"):
        assert any(option in body for body in summaries), option
    assert any(isinstance(case.body["text"], list) for case in made)
    assert {status for _, _, status in REFUSED} == {400, 404, 413, 422}
