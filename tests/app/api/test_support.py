"""`"support": true` by requests: offsets of the text as it was sent, names and numbers that it does not have."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from app import documents
from model.choices import BUNDLED
from model.support import unsupported
from support.services import Serving, open_service

FIRST = "The city council of Bristol voted on Tuesday to close the old harbour bridge to cars from next spring."
SECOND = "Cyclists welcomed the decision, but shop owners nearby fear that they will lose customers."
TEXT = f"  😀 News:\n{SECOND} {FIRST}\n\n"


@pytest.fixture
async def bundled() -> AsyncIterator[httpx.AsyncClient]:
    """A model that summarizes."""
    async with open_service(BUNDLED, dtype="float32") as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str = "/summarize", **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_sentences_point_to_the_passages_that_they_were_made_of(bundled: httpx.AsyncClient) -> None:
    for text in (TEXT, " ".join([FIRST, SECOND] * 60)):  # the second in chunks
        answer = await ask(bundled, text=text, support=True)
        support = answer["support"]
        assert len(support["sentences"]) >= answer["chunks"]
        for sentence in support["sentences"]:
            passage = sentence["source"]
            words = answer["summary"][sentence["start"] : sentence["end"]].lower().split()
            origin = text[passage["start"] : passage["end"]]
            assert origin in (FIRST, SECOND, "😀 News:")
            assert 0 < passage["rouge_l"] <= 1
            assert len(set(words) & set(origin.lower().split())) > len(words) / 3
        assert [one["text"] for one in support["unsupported"]] == unsupported(answer["summary"], text)


async def test_names_and_numbers_that_the_text_lacks_are_marked_in_the_summary(client: httpx.AsyncClient) -> None:
    """A network with random weights invents nearly all of them."""
    answer = await ask(client, text=FIRST, support=True, max_new_tokens=100, do_sample=True, top_k=0, temperature=3.0)
    support = answer["support"]
    assert support["unsupported"]
    assert 0 <= support["entity_precision"] < 1
    for one in support["unsupported"]:
        assert answer["summary"][one["start"] : one["end"]] == one["text"]
        assert one["text"].lower() not in FIRST.lower().replace(",", " ").split()


async def test_it_is_absent_unless_requested_and_changes_nothing_else(client: httpx.AsyncClient) -> None:
    plain = await ask(client, text=TEXT)
    assert "support" not in plain
    supported = await ask(client, text=TEXT, support=True)
    assert supported.pop("support")["sentences"]
    assert supported == plain
    listed = await ask(client, text=[TEXT, FIRST], support=True)
    assert all("support" in one for one in listed)
    analyzed = await ask(client, "/analyze", text=TEXT, tasks=["topic", "summarize"], summary={"support": True})
    assert analyzed["summary"]["support"] == listed[0]["support"]


async def test_a_stream_ends_with_it(client: httpx.AsyncClient) -> None:
    response = await client.post("/summarize", json={"text": TEXT, "stream": True, "support": True})
    last = response.text.strip().split("\n\n")[-1].removeprefix("event: summary\ndata: ")
    assert json.loads(last) == await ask(client, text=TEXT, support=True)


async def test_it_is_found_beside_the_event_loop(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    asking = asyncio.create_task(ask(client, text=FIRST, support=True))
    assert await asyncio.to_thread(held.reached.wait, 30)
    assert (await client.get("/health/live")).status_code == 200
    held.released.set()
    assert (await asking)["support"]["sentences"]


async def test_a_deadline_ends_it_and_its_answer(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(deadline_s=1.0) as client:
        held = Held(monkeypatch)
        response = await client.post("/summarize", json={"text": FIRST, "support": True, "max_new_tokens": 2})
        assert response.status_code == 504
        assert "before the text was compared with its summary" in response.json()["error"]
        held.released.set()


async def test_a_service_that_ends_finishes_it(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    asking = asyncio.create_task(ask(client, text=FIRST, support=True))
    assert await asyncio.to_thread(held.reached.wait, 30)
    draining = asyncio.create_task(client.service.drain(5.0))  # type: ignore[attr-defined]
    await asyncio.sleep(0)
    held.released.set()
    assert (await asking)["support"]["sentences"]
    await draining


class Held:
    """Stops the thread before it compares, until released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        support_of: Callable[..., Any] = documents.support_of

        def held(*arguments: Any) -> Any:
            self.reached.set()
            assert self.released.wait(30)
            return support_of(*arguments)

        monkeypatch.setattr(documents, "support_of", held)
