import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from app.engine.request import DeadlineExceeded

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
LONG = " ".join(f"{NEWS} That was number {number}." for number in range(8))


def parse(body: str) -> list[tuple[str, dict[str, Any]]]:
    """Events of a stream: name and data."""
    events = []
    for block in body.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


@pytest.mark.parametrize("text", [NEWS, LONG])
async def test_stream_adds_up_to_the_answer_without_streaming(client: httpx.AsyncClient, text: str) -> None:
    body = {"text": text, "max_new_tokens": 20}
    response = await client.post("/summarize", json={**body, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    *tokens, (last, answer) = parse(response.text)
    assert last == "summary"
    assert answer == (await client.post("/summarize", json=body)).json()
    assert {name for name, _ in tokens} == {"token"}
    assert len(tokens) > 5
    assert "".join(data["text"] for _, data in tokens) == answer["summary"]


async def test_refusals_come_as_a_status_and_not_in_the_stream(client: httpx.AsyncClient) -> None:
    response = await client.post("/summarize", json={"text": " ", "stream": True})
    assert response.status_code == 422
    client.service.begin_drain()  # type: ignore[attr-defined]
    assert (await client.post("/summarize", json={"text": "a", "stream": True})).status_code == 503


async def test_error_midway_is_an_event(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = client.service.deployment.engine  # type: ignore[attr-defined]
    stream = engine.stream

    async def failing(request: Any) -> Any:
        count = 0
        async for item in stream(request):
            count += 1
            if count > 10:
                raise DeadlineExceeded("the deadline passed")
            yield item

    monkeypatch.setattr(engine, "stream", failing)
    response = await client.post("/summarize", json={"text": NEWS, "stream": True})
    assert response.status_code == 200
    *tokens, (last, problem) = parse(response.text)
    assert tokens
    assert last == "error"
    assert (problem["status"], problem["error_type"]) == (504, "deadline")
    value = client.service.metrics.registry.get_sample_value  # type: ignore[attr-defined]
    assert value("leximind_request_failures_total", {"reason": "deadline"}) == 1


@pytest.mark.parametrize("reads", [True, False])
async def test_client_that_leaves_a_stream_cancels_the_work(client: httpx.AsyncClient, reads: bool) -> None:
    """By plain ASGI: the transport of httpx reads a response whole before it gives it out."""
    app = client._transport.app  # type: ignore[attr-defined]
    body = json.dumps({"text": NEWS, "stream": True, "max_new_tokens": 500}).encode()
    got_token = asyncio.Event()
    is_sent = False

    async def receive() -> dict[str, Any]:
        nonlocal is_sent
        if not is_sent:
            is_sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await got_token.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if b"token" in message.get("body", b""):
            got_token.set()
            if not reads:
                await asyncio.Event().wait()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/summarize",
        "raw_path": b"/summarize",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("leximind", 80),
    }
    await app(scope, receive, send)
    engine = client.service.deployment.engine  # type: ignore[attr-defined]
    value = client.service.metrics.registry.get_sample_value  # type: ignore[attr-defined]
    assert not engine._jobs
    assert value("leximind_active_requests") == 0
    assert value("leximind_request_failures_total", {"reason": "cancelled"}) == 1
    assert value("leximind_output_tokens_count") == 0  # it was not decoded to its end
