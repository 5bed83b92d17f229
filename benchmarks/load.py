"""Open-loop load: requests leave when a Poisson process says so, whatever has become of those before.

A closed loop waits for a slow server and so hides how slow it is; users do not wait for each other.
"""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.servers import Server
from benchmarks.texts import Language

GOOD_WITHIN_S = 10.0


@dataclass(frozen=True)
class Mix:
    """Ranges, both ends included, from which texts' words and answers' tokens are drawn evenly."""

    name: str
    words: tuple[int, int]
    new_tokens: tuple[int, int]


UNIFORM = Mix("uniform", (60, 180), (48, 48))
MIXED = Mix("mixed", (20, 350), (8, 128))


@dataclass(frozen=True)
class Arrival:
    """One request of a trace."""

    at_s: float
    text: str
    num_new_tokens: int


@dataclass(frozen=True)
class Outcome:
    """What became of an arrival; `latency_s` is infinite unless it was answered in full."""

    at_s: float
    latency_s: float
    status: int


def poisson(mix: Mix, rate: float, duration_s: float, language: Language, seed: int = 0) -> list[Arrival]:
    """A trace of `duration_s`, the same for every server: a Poisson process that is known to have `rate` a second."""
    draw = random.Random(f"{mix.name} {rate} {seed}")
    arrivals = []
    for at_s in sorted(draw.uniform(0, duration_s) for _ in range(round(rate * duration_s))):
        text = language.text(draw.randint(*mix.words), seed=draw.randrange(2**32))
        arrivals.append(Arrival(at_s, text, draw.randint(*mix.new_tokens)))
    return arrivals


async def send(server: Server, url: str, arrivals: Sequence[Arrival], patience_s: float) -> list[Outcome]:
    """Send `arrivals` on time; what is unanswered `patience_s` after the last of them is given up."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits, trust_env=False) as client:
        began_at = time.perf_counter()
        end_s = arrivals[-1].at_s + patience_s
        return await asyncio.gather(*(_ask(client, server, arrival, began_at, end_s) for arrival in arrivals))


def summary(outcomes: Sequence[Outcome], duration_s: float) -> dict[str, Any]:
    """Latency percentiles over everything offered (unanswered: infinite), and rates."""
    latencies = sorted(one.latency_s for one in outcomes)
    # A server under a rising load answers late; what it answers in the last two thirds is its pace.
    ends = [one.at_s + one.latency_s for one in outcomes]
    return {
        "offered": len(outcomes),
        **{
            f"p{q}_s": _finite(latencies[min(math.ceil(q / 100 * len(latencies)), len(latencies)) - 1])
            for q in (50, 95, 99)
        },
        "answered_per_s": sum(duration_s / 3 <= end <= duration_s for end in ends) / (duration_s * 2 / 3),
        "goodput_per_s": sum(latency <= GOOD_WITHIN_S for latency in latencies) / duration_s,
        "refused": sum(one.status in (429, 503) for one in outcomes),
        "failed": sum(one.status not in (0, 200, 429, 503) for one in outcomes),
        "unanswered": sum(one.status == 0 for one in outcomes),
    }


async def _ask(client: httpx.AsyncClient, server: Server, arrival: Arrival, began_at: float, end_s: float) -> Outcome:
    await asyncio.sleep(began_at + arrival.at_s - time.perf_counter())
    try:
        async with asyncio.timeout(began_at + end_s - time.perf_counter()):
            response = await client.post(server.path, json=server.body(arrival.text, arrival.num_new_tokens))
    except TimeoutError:
        return Outcome(arrival.at_s, math.inf, 0)
    except httpx.HTTPError:
        return Outcome(arrival.at_s, math.inf, 599)
    latency_s = time.perf_counter() - began_at - arrival.at_s  # from when it was due, not from when we got to it
    is_whole = response.status_code == 200 and response.json()["output_tokens"] == arrival.num_new_tokens
    status = 598 if response.status_code == 200 and not is_whole else response.status_code
    return Outcome(arrival.at_s, latency_s if is_whole else math.inf, status)


def _finite(latency_s: float) -> float | None:
    return latency_s if math.isfinite(latency_s) else None
