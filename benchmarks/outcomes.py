"""What became of requests, of an open or a closed loop, in rates and percentiles; knows no HTTP."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GOOD_WITHIN_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """What became of a request that was due at `at_s`; `latency_s` is infinite unless it was answered in full."""

    at_s: float
    latency_s: float
    status: int


def summary(outcomes: Sequence[Outcome], duration_s: float) -> dict[str, Any]:
    """Latency percentiles of an open loop over everything offered (unanswered: infinite), and rates."""
    latencies = [one.latency_s for one in outcomes]
    # A server under a rising load answers late; what it answers in the last two thirds is its pace.
    ends = [one.at_s + one.latency_s for one in outcomes]
    return {
        "offered": len(outcomes),
        **percentiles(latencies, (50, 95, 99)),
        "answered_per_s": sum(duration_s / 3 <= end <= duration_s for end in ends) / (duration_s * 2 / 3),
        "goodput_per_s": sum(latency <= GOOD_WITHIN_S for latency in latencies) / duration_s,
        "refused": sum(one.status in (429, 503) for one in outcomes),
        "failed": sum(one.status not in (0, 200, 429, 503) for one in outcomes),
        "unanswered": sum(one.status == 0 for one in outcomes),
    }


def closed_summary(outcomes: Sequence[Outcome], duration_s: float) -> dict[str, Any]:
    """Rate and latencies of a closed loop, of what was answered in its last two thirds; who failed is counted in all.

    In the first third all clients ask at once; what is answered after `duration_s` is answered to fewer of them.
    """
    seen = [one for one in outcomes if duration_s / 3 <= one.at_s + one.latency_s <= duration_s]
    return {
        "answered": len(seen),
        "answered_per_s": len(seen) / (duration_s * 2 / 3),
        **percentiles([one.latency_s for one in seen], (50, 90)),
        "refused": sum(one.status in (429, 503) for one in outcomes),
        "failed": sum(one.status not in (200, 429, 503) for one in outcomes),
    }


def percentiles(latencies_s: Sequence[float], ranks: Sequence[int]) -> dict[str, float | None]:
    """By the nearest rank; None where it falls among the infinite, or where there is nothing."""
    ordered = sorted(latencies_s) or [math.inf]
    return {f"p{q}_s": _finite(ordered[math.ceil(q / 100 * len(ordered)) - 1]) for q in ranks}


def _finite(latency_s: float) -> float | None:
    return latency_s if math.isfinite(latency_s) else None
