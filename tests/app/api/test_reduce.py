"""`"on_long": "reduce"`, `target_tokens` and `detail` by requests."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.engine.engine import Engine
from model.support import folded, sentence_spans
from support.services import Hold, Serving

LONG = " ".join(f"Shares of the chip maker rose {number} percent on Tuesday. It was a record." for number in range(40))


async def ask(client: httpx.AsyncClient, path: str = "/summarize", **body: Any) -> Any:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("target", "extra"), [(9, {}), (40, {}), (40, {"num_beams": 2}), (None, {"max_new_tokens": 30})]
)
async def test_rounds_go_on_until_the_summary_is_as_short_as_wanted(
    client: httpx.AsyncClient, target: int | None, extra: dict[str, Any]
) -> None:
    chunked = await ask(client, text=LONG, **extra)
    body = {"target_tokens": target} if target else {}
    answer = await ask(client, text=LONG, on_long="reduce", **body, **extra)
    assert chunked["output_tokens"] > 40
    assert answer["output_tokens"] <= (target or 30)
    assert (answer["chunks"], answer["input_tokens"]) == (chunked["chunks"], chunked["input_tokens"])
    assert answer["rounds"] > 1
    found = answer["summary"]
    sentences = [" ".join(folded(found[span.start : span.end]).split()) for span in sentence_spans(found)]
    assert len(set(sentences)) == len(sentences)
    assert "rounds" not in chunked


async def test_what_is_short_enough_is_summarized_once(client: httpx.AsyncClient) -> None:
    short = await ask(client, text="It was a record.", on_long="reduce", target_tokens=7)
    assert (short["rounds"], short["chunks"]) == (1, 1)
    assert short["output_tokens"] <= 7
    wide = await ask(client, text=LONG, on_long="reduce", target_tokens=5_000)
    assert wide["rounds"] == 1
    assert wide["chunks"] > 1


async def test_a_list_is_reduced_as_each_text_alone(serving: Serving) -> None:
    async with serving(dtype="float32") as client:
        body = {"on_long": "reduce", "target_tokens": 20}
        alone = [await ask(client, text=text, **body) for text in (LONG, "It was a record.", LONG[:900])]
        assert await ask(client, text=[LONG, "It was a record.", LONG[:900]], **body) == alone


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 2.0, "seed": 7}])
@pytest.mark.parametrize("target", [9, 30, 300, 5_000])
async def test_a_stream_tells_what_is_done_and_then_the_summary_as_it_is_decoded(
    client: httpx.AsyncClient, target: int, options: dict[str, Any]
) -> None:
    body = {"text": LONG, "on_long": "reduce", "target_tokens": target, "detail": "chunks", "support": True, **options}
    answer = await ask(client, **body)
    response = await client.post("/summarize", json={**body, "stream": True})
    events = [block.split("\n") for block in response.text.strip().split("\n\n")]
    found = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]
    names = [name for name, _ in found]
    assert names == sorted(names, key=["progress", "token", "summary"].index)
    assert found[-1][1] == answer
    pieces = [data["text"] for name, data in found if name == "token"]
    assert "".join(pieces) == answer["summary"]
    assert all(pieces)
    if target == 30:
        assert len(pieces) > answer["output_tokens"] / 2
    progress = [data for name, data in found if name == "progress"]
    assert progress == sorted(progress, key=lambda one: (one["round"], one["done"]))
    if answer["rounds"] > 1:
        first = [one["done"] for one in progress if one["round"] == 1]
        assert first == list(range(1, answer["chunks"] + 1))
        assert {one["round"] for one in progress} >= set(range(1, answer["rounds"]))


async def test_a_text_that_is_read_at_once_streams_as_without_rounds(client: httpx.AsyncClient) -> None:
    body = {"text": "Shares of the chip maker rose.", "max_new_tokens": 20, "stream": True}
    plain = (await client.post("/summarize", json=body)).text.split("event: summary")[0]
    assert plain.count("event: token") > 5
    assert (await client.post("/summarize", json={**body, "on_long": "reduce"})).text.startswith(plain)


async def test_details_cover_the_text_in_order(client: httpx.AsyncClient) -> None:
    text = f"  {LONG}\n"
    answer = await ask(client, text=text, detail="chunks")
    details = answer["details"]
    assert len(details) == answer["chunks"] > 2
    assert answer["summary"] == " ".join(one["summary"] for one in details if one["summary"])
    assert " ".join(text[one["start"] : one["end"]] for one in details) == LONG
    analysis = await ask(client, "/analyze", text=text, detail="chunks")
    assert [(one["start"], one["end"]) for one in analysis["details"]] == [(o["start"], o["end"]) for o in details]
    for one in analysis["details"]:
        assert one["scores"].keys() == {"emotions", "topic"}
        assert sum(score["score"] for score in one["scores"]["topic"]) == pytest.approx(1.0, abs=1e-3)
    assert "details" not in await ask(client, text=text)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"target_tokens": 9}, 'target_tokens: 9 with on_long "chunk"; it bounds "reduce" only'),
        ({"target_tokens": 0, "on_long": "reduce"}, "target_tokens"),
        ({"detail": "chunks", "on_long": "truncate"}, 'detail: chunks with on_long "truncate", which makes none'),
        ({"detail": "all"}, "detail"),
    ],
)
async def test_what_cannot_be_done_is_refused(client: httpx.AsyncClient, body: dict[str, Any], message: str) -> None:
    response = await client.post("/summarize", json={"text": LONG, **body})
    assert response.status_code == 422
    assert message in response.json()["error"]


async def test_accepted_rounds_are_neither_refused_nor_lost_in_a_drain(serving: Serving, hold: Hold) -> None:
    async with serving(max_queued_requests=80) as client:
        engine: Engine = client.service.deployment.engine  # type: ignore[attr-defined]
        body = {"on_long": "reduce", "target_tokens": 20}
        expected = await ask(client, text=LONG, **body)
        with hold:
            asking = [asyncio.create_task(ask(client, text=LONG, **body)) for _ in range(2)]
            assert await asyncio.to_thread(hold.reached.wait, 30)
            draining = asyncio.create_task(client.service.drain(60.0))  # type: ignore[attr-defined]
            while engine.state != "draining":
                await asyncio.sleep(0.01)
        answers = await asyncio.gather(*asking)
        await draining
        assert [answer["output_tokens"] <= 20 for answer in answers] == [True, True]
        assert [answer["rounds"] > 1 for answer in answers] == [True, True]
        assert expected["rounds"] > 1
