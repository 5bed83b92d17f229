"""deploy/capacity.md: costs that are measured, and rates that keep the objective."""

import re

import pytest

from benchmarks.simulate import Costs
from deploy.capacity import OBJECTIVE_S, PAGE, RATES, measured_costs, most, outcome


def test_costs_are_those_of_the_results() -> None:
    costs = measured_costs("ours int8")
    # benchmarks/results: 2,048 tokens in 0.5 to 0.7 s; 64 steps of 32 rows in 4 s.
    assert costs.encode(2048) == pytest.approx(0.6, abs=0.1)
    assert costs.step(32) == pytest.approx(32 / 507, rel=0.1)
    slower = measured_costs("ours bf16")
    assert slower.encode(2048) > costs.encode(2048)
    assert slower.step(8) > costs.step(8)


@pytest.mark.parametrize("classify", [False, True])
def test_most_of_a_replica_keeps_the_objective_and_more_does_not(classify: bool) -> None:
    costs = Costs(0.0, 1e-3, 0.02, 0.004)  # slow, so that little is to be simulated
    rate = most(costs, classify)
    assert outcome(costs, rate, classify)["p95"] <= OBJECTIVE_S
    assert outcome(costs, 1.1 * rate, classify)["p95"] > OBJECTIVE_S


def test_page_has_a_count_for_every_rate_and_more_for_more() -> None:
    page = PAGE.read_text(encoding="utf-8")
    lines = re.findall(r"^\| (?:int8|bf16), (?:mixed|classify) \|.+$", page, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        rate, *counts = re.findall(r"\| ([\d,.]+)", line)
        numbers = [int(count.replace(",", "")) for count in counts]
        assert len(numbers) == len(RATES)
        for wanted, count in zip(RATES, numbers, strict=True):
            assert count - 1 < wanted / (0.7 * float(rate)) * 1.03
            assert wanted / (0.7 * float(rate)) < count * 1.03 + 1
