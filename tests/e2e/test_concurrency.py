"""Concurrent requests on the bundled model over real sockets: each gets the answer that it gets alone."""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.choices import BUNDLED

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BUNDLED.is_dir(), reason="no checkpoint is bundled")]

TEXTS: dict[str, list[str]] = json.loads(Path(__file__).parents[1].joinpath("load/texts.json").read_text("utf-8"))
LONG = TEXTS["news"] + TEXTS["dialogues"] + TEXTS["abstracts"]
OPTIONS: list[dict[str, Any]] = [{}, {"num_beams": 3}, {"do_sample": True, "seed": 7}, {"repetition_penalty": 1.3}]
Question = tuple[str, dict[str, Any]]


def questions(count: int, rng: random.Random) -> list[Question]:
    """Every task, from a word to several chunks, a list now and then, each way of decoding, and streams."""
    asked: list[Question] = []
    for number in range(count):
        several = " ".join(rng.sample(LONG, rng.choice([1, 1, 2, 12])))
        text = rng.choice([rng.choice(TEXTS["comments"]), rng.choice(TEXTS["comments"]).split()[0], several])
        options = rng.choice(OPTIONS) | {"max_new_tokens": rng.choice([1, 8, 24])}
        path = rng.choice(["/summarize", "/summarize", "/emotions", "/topic", "/analyze"])
        body: dict[str, Any] = {"text": text}
        match path:
            case "/summarize":
                body |= options
                body["stream"] = "num_beams" not in options and rng.random() < 0.5
            case "/analyze":
                body["summary"] = options
            case "/emotions":
                body["threshold"] = 0.0
        if number % 7 == 0 and not body.get("stream"):
            body["text"] = [text, rng.choice(LONG)]
        asked.append((path, body))
    return asked


async def ask(client: httpx.AsyncClient, question: Question, after_s: float = 0.0) -> Any:
    """The answer's JSON; of a stream the last event's, whose summary its tokens must have added up to."""
    await asyncio.sleep(after_s)
    path, body = question
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        return response.json()
    events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", response.text)
    assert [name for name, _ in events] == ["token"] * (len(events) - 1) + ["summary"]
    answer = json.loads(events[-1][1])
    assert "".join(json.loads(data)["text"] for _, data in events[:-1]) == answer["summary"]
    return answer


async def leave(client: httpx.AsyncClient, num_beams: int, after_s: float) -> None:
    """Ask for what takes long, and hang up: on a stream at its first word, on beams after half a second."""
    await asyncio.sleep(after_s)
    body = {"text": LONG[0], "max_new_tokens": 500, "min_new_tokens": 500, "num_beams": num_beams}
    if num_beams == 1:
        async with client.stream("POST", "/summarize", json=body | {"stream": True}) as response:
            await anext(response.aiter_lines())
        return
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.post("/summarize", json=body)


def metric(metrics: str, name: str) -> float:
    found = re.search(rf"^leximind_{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    assert found, name
    return float(found[1])


@pytest.mark.timeout(900)  # it takes 20 s on two free cores
async def test_200_at_once_get_the_answers_that_each_gets_alone(
    serve: Callable[..., Any], same: Callable[[Any, Any], bool]
) -> None:
    server = serve("--checkpoint", str(BUNDLED), "--dtype", "float32", "--deadline-s", "300")
    rng = random.Random(0)
    asked = questions(200, rng)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
        alone = [await ask(client, question) for question in asked]
        together, _ = await asyncio.gather(
            asyncio.gather(*(ask(client, question, rng.uniform(0, 2)) for question in asked)),
            asyncio.gather(*(leave(client, 1 + number % 2, number / 10) for number in range(20))),
        )
        for question, one, other in zip(asked, alone, together, strict=True):
            assert same(one, other), question
        metrics = await quiet_metrics(client)
    # The ten streams at least: on a busy machine a request may be gone before it is read.
    assert metric(metrics, 'request_failures_total{reason="cancelled"}') >= 10
    assert metric(metrics, "decode_batch_rows_sum") > 2 * metric(metrics, "decode_batch_rows_count")  # they did share
    assert "Traceback" not in server.log.read_text()


async def quiet_metrics(client: httpx.AsyncClient) -> str:
    """The metrics once all gauges are at zero."""
    give_up = time.monotonic() + 20
    while True:
        metrics = (await client.get("/metrics")).text
        busy = {name: metric(metrics, name) for name in ("active_requests", "queue_requests", "queue_tokens")}
        busy["kv_slots_used"] = metric(metrics, "kv_slots_used")
        if not any(busy.values()):
            return metrics
        assert time.monotonic() < give_up, busy
        await asyncio.sleep(0.05)
