"""A real process under a burst of requests: memory, others' waiting times, the event loop, retries."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.choices import BUNDLED
from support.depth import depth

pytestmark = pytest.mark.slow
TEXT = "The council voted on Tuesday to build a new bridge over the river. Engineers had asked for it for years. "


def resident_mb(server: Any) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.skipif(not BUNDLED.is_dir(), reason="no checkpoint is bundled")
async def test_beams_of_every_width_leave_no_memory_behind(serve: Callable[..., Any]) -> None:
    server = serve("--checkpoint", str(BUNDLED), "--deadline-s", "300")
    before = resident_mb(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
        bodies = [
            {"text": TEXT * 12, "max_new_tokens": 40 + number, "min_new_tokens": 40, "num_beams": 1 + number % 8}
            for number in range(32)
        ]
        answers = await asyncio.gather(*(client.post("/summarize", json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    give_up = time.monotonic() + 25  # it is given back every ten seconds
    while (more := resident_mb(server) - before) > 200:
        assert time.monotonic() < give_up, f"{more} MB more than before"
        await asyncio.sleep(0.5)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--max-concurrent-requests", "8"), "concurrency"),
        (("--max-queued-requests", "8", "--max-decode-rows", "4"), "queue"),
        (("--requests-per-second", "10"), "rate_limit"),
        (("--max-tokenizer-bytes", "10000"), "tokenizer"),
    ],
)
async def test_client_that_retries_after_retry_after_is_answered(
    serve: Callable[..., Any], flags: tuple[str, ...], reason: str
) -> None:
    """Whichever limit refuses it."""
    server, num_clients = serve(*flags), depth(20, 40)
    task = {"path": "/topic", "text": TEXT * 150} if reason == "tokenizer" else {"path": "/summarize", "text": TEXT * 3}
    length = {} if reason == "tokenizer" else {"max_new_tokens": 60, "min_new_tokens": 60}
    retry_after: list[int] = []

    async def obedient(client: httpx.AsyncClient) -> int:
        for attempt in range(1, 20):
            answer = await client.post(task["path"], json={"text": task["text"], **length})
            if answer.status_code == 200:
                return attempt
            assert answer.status_code == 429
            retry_after.append(int(answer.headers["Retry-After"]))
            await asyncio.sleep(retry_after[-1])
        raise AssertionError("never answered")

    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        attempts = await asyncio.gather(*(obedient(client) for _ in range(num_clients)))
        metrics = (await client.get("/metrics")).text
    assert sum(attempts) - num_clients == len(retry_after)
    assert all(1 <= seconds <= 60 for seconds in retry_after)
    assert retry_after
    assert f'leximind_request_failures_total{{reason="{reason}"}} {len(retry_after)}.0' in metrics


async def test_overload_ends_what_it_accepts_by_the_deadline(serve: Callable[..., Any]) -> None:
    """More than ten times what can be carried: an answer or 504 by the deadline, 429 at once, and nothing else."""
    deadline_s, spare_s = 2.0, 10.0  # of a machine that has other things to do
    server = serve("--deadline-s", str(deadline_s), "--max-decode-rows", "8")
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=None)) as client:

        async def ask(number: int) -> None:
            body = {"text": [f"{TEXT * 3}{number} {part}" for part in range(16)], "max_new_tokens": 256}
            answer = await client.post("/summarize", json=body | {"min_new_tokens": 256})
            assert answer.status_code != 429 or int(answer.headers["Retry-After"]) >= 1

        await asyncio.gather(*(ask(number) for number in range(depth(100, 1000))))
        assert (await client.post("/topic", json={"text": TEXT})).status_code == 200
        metrics = (await client.get("/metrics")).text
    # By the server's clock: a thousand clients in one process keep themselves waiting.
    ends = re.findall(r"route=/summarize status=(\d+) ms=(\S+)", server.log.read_text())
    assert {"429", "504"} <= {status for status, _ in ends} <= {"200", "429", "504"}
    assert max(float(ms) for status, ms in ends if status != "429") < (deadline_s + spare_s) * 1000
    for gauge in ("queue_requests", "queue_tokens", "kv_slots_used"):
        assert f"leximind_{gauge} 0.0" in metrics


async def test_texts_of_many_tokens_delay_no_other(serve: Callable[..., Any]) -> None:
    """U+FDFA is three bytes and 33 tokens; those who send it leave at once, and their texts are not read on."""
    server = serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

        async def leave() -> None:
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/topic", json={"text": ["\ufdfa" * 190_000] * 3}, timeout=0.05)

        refused = await client.post("/topic", json={"text": ["\ufdfa" * 190_000] * 3})
        assert refused.status_code == 422
        assert "tokens in all" in refused.json()["detail"]
        await asyncio.gather(*(leave() for _ in range(3)), return_exceptions=True)
        give_up = time.monotonic() + 20
        while "leximind_tokenizer_waiting_bytes 0.0" not in (await client.get("/metrics")).text:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.05)
        assert (await client.post("/topic", json={"text": TEXT})).status_code == 200


async def test_absurd_ngrams_are_refused(serve: Callable[..., Any]) -> None:
    server = serve()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        answers = await asyncio.gather(
            *(client.post("/summarize", json={"text": "a", "no_repeat_ngram_size": size}) for size in range(200, 260))
        )
    assert {answer.status_code for answer in answers} == {422}
    assert "less than or equal to 16" in answers[0].text or "at most 16" in answers[0].text
