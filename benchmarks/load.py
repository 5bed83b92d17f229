"""Load: open, where requests leave when a Poisson process says so, and closed, where each client awaits its answer.

A closed loop waits for a slow server and so hides how slow it is: users do not wait for each other. It shows what a
server makes of a fixed number of callers, which is how others publish their figures.
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from benchmarks.outcomes import Outcome
from benchmarks.servers import Server
from benchmarks.texts import Language, News

_RETRY_AFTER_S = 0.1  # of a client in a closed loop that was refused, whatever the server said


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


def poisson(mix: Mix, rate: float, duration_s: float, language: Language | News, seed: int = 0) -> list[Arrival]:
    """A trace of `duration_s`, the same for every server: a Poisson process that is known to have `rate` a second."""
    draw = random.Random(f"{mix.name} {rate} {seed}")
    times = sorted(draw.uniform(0, duration_s) for _ in range(round(rate * duration_s)))
    return [_draw(mix, at_s, language, draw) for at_s in times]


async def send(server: Server, url: str, arrivals: Sequence[Arrival], patience_s: float) -> list[Outcome]:
    """Send `arrivals` on time; what is unanswered `patience_s` after the last of them is given up."""
    async with _connections(url) as client:
        began_at = time.perf_counter()
        end_s = arrivals[-1].at_s + patience_s
        return await asyncio.gather(*(_ask(client, server, arrival, began_at, end_s) for arrival in arrivals))


async def repeat(
    server: Server, url: str, mix: Mix, num_clients: int, duration_s: float, language: Language | News
) -> list[Outcome]:
    """`num_clients` clients, each asking again once it is answered, for `duration_s`; what is begun then is awaited."""
    async with _connections(url) as client:
        began_at = time.perf_counter()

        async def ask_again(number: int) -> list[Outcome]:
            draw, outcomes = random.Random(f"{mix.name} {num_clients} {number}"), []
            while (at_s := time.perf_counter() - began_at) < duration_s:
                arrival = _draw(mix, at_s, language, draw)
                outcomes.append(await _ask(client, server, arrival, began_at, math.inf))
                if outcomes[-1].status != 200:
                    await asyncio.sleep(_RETRY_AFTER_S)
            return outcomes

        return list(itertools.chain(*await asyncio.gather(*map(ask_again, range(num_clients)))))


def _connections(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    return httpx.AsyncClient(base_url=url, timeout=None, limits=limits, trust_env=False)


def _draw(mix: Mix, at_s: float, language: Language | News, draw: random.Random) -> Arrival:
    text = language.text(draw.randint(*mix.words), seed=draw.randrange(2**32))
    return Arrival(at_s, text, draw.randint(*mix.new_tokens))


async def _ask(client: httpx.AsyncClient, server: Server, arrival: Arrival, began_at: float, end_s: float) -> Outcome:
    await asyncio.sleep(began_at + arrival.at_s - time.perf_counter())
    try:
        async with asyncio.timeout(None if math.isinf(end_s) else began_at + end_s - time.perf_counter()):
            body = server.body(arrival.text, arrival.num_new_tokens)
            response = await client.post(server.path, json=body, headers=server.headers)
    except TimeoutError:
        return Outcome(arrival.at_s, math.inf, 0)
    except httpx.HTTPError:
        return Outcome(arrival.at_s, math.inf, 599)
    latency_s = time.perf_counter() - began_at - arrival.at_s  # from when it was due, not from when we got to it
    is_whole = response.status_code == 200 and server.is_whole(response.json(), arrival.num_new_tokens)
    status = 598 if response.status_code == 200 and not is_whole else response.status_code
    return Outcome(arrival.at_s, latency_s if is_whole else math.inf, status)
