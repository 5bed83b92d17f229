import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx

WORDS = "the council voted on a new bridge over old river and shares of chip maker rose after record profits".split()


def questions(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Routes and bodies of mixed tasks, lengths, beams and samples; every seventh is a list, every ninth is bad."""
    rng = random.Random(0)
    asked: list[tuple[str, dict[str, Any]]] = []
    for number in range(count):
        text = " ".join(rng.choices(WORDS, k=rng.choice([1, 5, 12, 30, 90]))) + "."
        options = rng.choice([{}, {"num_beams": 3}, {"do_sample": True, "seed": number}]) | {"max_new_tokens": 12}
        path = rng.choice(["/summarize", "/emotions", "/topic", "/analyze"])
        body: dict[str, Any] = {"text": [text, text[::-1]] if number % 7 == 0 else text}
        if path == "/summarize":
            body |= options
        if path == "/analyze":
            body["summary"] = options
        if number % 9 == 0:
            body["text"] = [" "]
        asked.append((path, body))
    return asked


async def test_200_at_once_get_the_answers_that_each_gets_alone(
    client: httpx.AsyncClient, same: Callable[[Any, Any], bool]
) -> None:
    asked = questions(200)
    alone = [await client.post(path, json=body) for path, body in asked]
    together = await asyncio.gather(*(client.post(path, json=body) for path, body in asked))
    assert {answer.status_code for answer in alone} == {200, 422}
    for (path, body), one, other in zip(asked, alone, together, strict=True):
        assert one.status_code == other.status_code, (path, body)
        if one.status_code == 200:
            assert same(one.json(), other.json()), (path, body)
    gauges = [
        client.service.metrics.registry.get_sample_value(f"leximind_{name}")  # type: ignore[attr-defined]
        for name in ("active_requests", "queue_requests", "queue_tokens", "kv_slots_used")
    ]
    assert gauges == [0, 0, 0, 0]
