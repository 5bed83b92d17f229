"""Writes deploy/capacity.md, from measured speeds and the scheduler on a simulated clock: `python -m deploy.capacity`.

`--price` is what an hour of a replica costs.
"""

import argparse
import dataclasses
import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.policies import Continuous
from benchmarks.report import FOLDER, table
from benchmarks.simulate import Costs, Request, poisson, simulate, summary

PAGE = Path(__file__).with_name("capacity.md")
RATES = (10, 1_000, 100_000)  # requests a second
OBJECTIVE_S = 5.0  # that 95 % of answers may take; recording.yml has 99 %
SHARE = 0.7  # of a replica's most, at which the autoscaler holds it
SECONDS = 300.0  # simulated
_MEASURED_SECONDS = 40.0  # of that stage of benchmarks.serving
_ENCODED_TOKENS = 2048  # a batch of benchmarks.encoder, whatever its shape
_FIGURES = re.compile(r"(?<=<!-- figures -->\n).*(?=\n<!-- end of figures -->)", re.DOTALL)


def measured_costs(contender: str) -> Costs:
    """What encoding and a decode step cost, fitted to benchmarks/results."""
    encoder, decoder = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("encoder", "decoding"))
    seconds_per_token = [statistics.median(times) / _ENCODED_TOKENS for times in encoder["seconds"][contender].values()]
    steps: dict[int, list[float]] = {}
    for one in decoder["measurements"]:
        if one["contender"] == contender and one["beams"] == 1:
            steps.setdefault(one["batch"], []).append(one["seconds"] / decoder["num_new_tokens"])
    per_row, fixed = np.polyfit(list(steps), [statistics.median(times) for times in steps.values()], 1)
    return Costs(0.0, statistics.mean(seconds_per_token), max(float(fixed), 0.0), float(per_row))


def load(rate: float, seconds: float, classify: bool) -> list[Request]:
    """The mixed load of benchmarks.serving, or its texts, each to be classified alone."""
    requests = poisson(rate, seconds)
    return [dataclasses.replace(one, new_tokens=0) for one in requests] if classify else requests


def outcome(costs: Costs, rate: float, classify: bool, seconds: float = SECONDS) -> dict[str, float]:
    """What users of one replica feel at `rate`."""
    policy = Continuous(max_batch_tokens=8192, max_decode_rows=64, max_stall_s=0.25, max_batch_work_rows=64)
    return summary(simulate(load(rate, seconds, classify), policy, costs, deadline_s=60.0))


def most(costs: Costs, classify: bool) -> float:
    """The highest rate, to 3 %, at which 95 % of a replica's answers keep the objective."""
    low, high = 0.0, 1.0
    while outcome(costs, high, classify)["p95"] <= OBJECTIVE_S:
        low, high = high, 2 * high
    while high - low > 0.03 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if outcome(costs, middle, classify)["p95"] <= OBJECTIVE_S else (low, middle)
    return low


def figures(contenders: Sequence[str], price: float) -> str:
    """The tables."""
    replicas: list[list[str]] = []
    queueing: list[list[str]] = []
    for contender in contenders:
        costs = measured_costs(contender)
        for name, classify in (("mixed", False), ("classify", True)):
            per_replica = most(costs, classify)
            kind = f"{contender.removeprefix('ours ')}, {name}"
            cells = [kind, f"{per_replica:.1f}"]
            for rate in RATES:
                count = math.ceil(rate / (SHARE * per_replica))
                cells.append(f"{count:,} ({count * price * 730:,.0f})")
            replicas.append(cells)
            for share in (SHARE, 1.0, 1.2):
                felt = outcome(costs, share * per_replica, classify)
                times = [f"{felt[column]:.2f}" for column in ("wait p95", "p50", "p95", "p99")]
                queueing.append([f"{kind}, {share:.0%}", *times, f"{felt['rows/step']:.0f}", f"{felt['expired']:.0f}"])
    header = [
        "flan-t5-base, 2 cores",
        "requests/s of a replica",
        *(f"replicas for {rate:,}/s (a month)" for rate in RATES),
    ]
    waits = ["load of a replica", "wait p95 s", "p50 s", "p95 s", "p99 s", "rows/step", "expired"]
    return f"{table(header, replicas)}\n\n{table(waits, queueing)}\n\n{table(*against_measurement(contenders))}"


def against_measurement(contenders: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The simulation beside what benchmarks.serving measured of real servers."""
    results: list[dict[str, Any]] = json.loads((FOLDER / "serving.json").read_text())["results"]
    lines = []
    for contender in contenders:
        server = {"ours bf16": "ours bfloat16"}.get(contender, contender)
        (one,) = [one for one in results if (one["server"], one["mix"], one["rate"]) == (server, "mixed", 3.0)]
        felt = outcome(measured_costs(contender), 3.0, classify=False, seconds=_MEASURED_SECONDS)
        pairs = [f"{one[f'{column}_s']:.2f} / {felt[column]:.2f}" for column in ("p50", "p95", "p99")]
        lines.append([f"{contender.removeprefix('ours ')}, mixed at 3/s", *pairs])
    return ["measured / simulated", "p50 s", "p95 s", "p99 s"], lines


def main() -> None:
    """Write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--price", type=float, default=0.08, help="of a replica, for an hour")
    written = figures(("ours int8", "ours bf16"), parser.parse_args().price)
    page, count = _FIGURES.subn(lambda _: written, PAGE.read_text(encoding="utf-8"))
    assert count == 1, f"{PAGE} has no place for the figures"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
