"""`X-Request-Priority`: what is taken, what a key makes of it, and who goes first."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.request import Update
from support.services import Hold, Serving

BATCH = {"X-Request-Priority": "batch"}
INTERACTIVE = {"X-Request-Priority": "interactive"}
TEXT = "Shares of the chip maker rose after it reported record profits."
BULK = {"text": [f"{TEXT} {number}" for number in range(32)]}


def waited(client: httpx.AsyncClient, priority: str) -> float:
    """How many sources of `priority` have been encoded for `/topic`."""
    registry = client.service.metrics.registry  # type: ignore[attr-defined]
    labels = {"task": "topic", "priority": priority}
    return registry.get_sample_value("leximind_queue_wait_seconds_count", labels) or 0.0


async def until(client: httpx.AsyncClient, gauge: str, value: float) -> None:
    registry = client.service.metrics.registry  # type: ignore[attr-defined]
    async with asyncio.timeout(30):
        while registry.get_sample_value(f"leximind_{gauge}") != value:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("value", ["urgent", "", "Batch", "batch, batch"])
@pytest.mark.parametrize("path", ["/topic", "/summarize", "/predict"])
async def test_anything_else_is_refused_with_what_is_allowed(client: httpx.AsyncClient, path: str, value: str) -> None:
    response = await client.post(path, json={"text": TEXT}, headers={"X-Request-Priority": value})
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == "X-Request-Priority"
    assert error["message"] == f"{value!r} is not allowed; it must be interactive or batch, or be left out"


async def test_without_a_key_a_request_is_interactive_and_may_be_batch(client: httpx.AsyncClient) -> None:
    answers = [await client.post("/topic", json={"text": TEXT}, headers=one) for one in ({}, INTERACTIVE, BATCH)]
    assert [waited(client, one) for one in ("interactive", "batch")] == [2, 1]
    assert len({answer.text for answer in answers}) == 1


async def test_a_key_s_class_is_its_ceiling(serving: Serving, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("web a\nnightly b batch\n")
    async with serving(api_keys_file=keys) as client:
        for key, headers, priority in (
            ("a", {}, "interactive"),
            ("a", INTERACTIVE, "interactive"),
            ("a", BATCH, "batch"),
            ("b", {}, "batch"),
            ("b", INTERACTIVE, "batch"),
            ("b", BATCH, "batch"),
        ):
            before = waited(client, priority)
            response = await client.post("/topic", json={"text": TEXT}, headers={**headers, "X-API-Key": key})
            assert response.status_code == 200
            assert waited(client, priority) == before + 1, (key, headers)


async def test_single_texts_pass_bulk_work_and_nobody_s_answer_changes(
    client: httpx.AsyncClient, hold: Hold, num_encodes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who ends first is read where the model's thread says so: in which order clients wake up is the event loop's."""
    alone = [(await client.post("/topic", json={"text": text})).json() for text in BULK["text"]]
    summary = (await client.post("/summarize", json={"text": TEXT, "max_new_tokens": 8})).json()
    engine = client.service.deployment.engine  # type: ignore[attr-defined]
    deliver, ended = engine._deliver, list[int]()  # keys, which grow with arrival

    def delivered(updates: list[Update]) -> None:
        ended.extend(update.key for update in updates if update.end is not None)
        deliver(updates)

    monkeypatch.setattr(engine, "_deliver", delivered)

    async def ask(path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
        return (await client.post(path, json=body, headers=headers)).json()

    with hold:
        first = asyncio.create_task(ask("/topic", {"text": "a"}, {}))
        assert await asyncio.to_thread(hold.reached.wait, 30)
        num_encodes.clear()
        bulk = asyncio.create_task(ask("/topic", BULK, BATCH))
        await until(client, "queue_requests", 32)
        single = asyncio.create_task(ask("/summarize", {"text": TEXT, "max_new_tokens": 8}, {}))
        await until(client, "queue_requests", 33)
    for answer, expected in zip(await bulk, alone, strict=True):  # torch's last digits depend on the batch
        assert answer["topic"] == expected["topic"]
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-6)
    assert await single == summary
    await first
    summary_key = max(ended)
    assert ended.index(summary_key) < len(BULK["text"]) / 2, "it waited for the bulk"
    assert max(num_encodes) <= 4, "what may come meanwhile does not wait for 32 texts"


async def test_bulk_work_leaves_room_for_requests_in_progress(serving: Serving, hold: Hold) -> None:
    async with serving(max_concurrent_requests=2) as client:
        with hold:
            bulk = asyncio.create_task(client.post("/topic", json=BULK, headers=BATCH))
            assert await asyncio.to_thread(hold.reached.wait, 30)
            refused = await client.post("/topic", json={"text": TEXT}, headers=BATCH)
            single = asyncio.create_task(client.post("/topic", json={"text": TEXT}))
            await until(client, "active_requests", 2)
        assert refused.status_code == 429
        assert refused.json()["detail"].startswith("1 requests of priority batch in progress, 1 are allowed; retry in")
        assert [(await one).status_code for one in (bulk, single)] == [200, 200]


async def test_bulk_work_leaves_room_in_the_queue(serving: Serving, hold: Hold) -> None:
    async with serving(max_queued_requests=64) as client:
        with hold:
            first = asyncio.create_task(client.post("/topic", json={"text": "a"}, headers=BATCH))
            assert await asyncio.to_thread(hold.reached.wait, 30)
            bulk = asyncio.create_task(client.post("/topic", json=BULK, headers=BATCH))
            await until(client, "queue_requests", 32)
            refused = await client.post("/topic", json={"text": TEXT}, headers=BATCH)
            interactive = asyncio.create_task(client.post("/topic", json=BULK))
            await until(client, "queue_requests", 64)
        assert refused.status_code == 429
        assert "33 sources of priority batch, 32 are allowed" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert [(await one).status_code for one in (first, bulk, interactive)] == [200, 200, 200]


async def test_document_has_the_header_and_its_values(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path in ("/topic", "/analyze", "/hf/summarize", "/predict"):
        parameters = {one["name"]: one for one in document["paths"][path]["post"]["parameters"]}
        assert parameters["X-Request-Priority"]["in"] == "header"
        assert parameters["X-Request-Priority"]["schema"]["enum"] == ["interactive", "batch"]
        assert not parameters["X-Request-Priority"]["required"]
        assert parameters["X-Request-Timeout-Ms"]["in"] == "header"
